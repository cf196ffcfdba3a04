//! The wire: one HTTP/2 connection, and one attempt of a call on it.
//!
//! | file | contents |
//! |---|---|
//! | `h2_connection` | [`Connection`]: its opening, its driver and its end |
//! | `settings` | what h2 may do on a connection, and why |
//! | `question` | a health check: whether the replica is there |
//! | `pings` | PINGs, where no question can be asked |
//! | `watch` | the watch over the calls of a connection: when the replica is asked, and what follows |
//! | `attempt` | one attempt: the request goes out, and the response comes back |
//! | `call_head` | what a connection adds to the head of a request |
//! | `upload` | a request stream on its way out, up to the end of its call |
//! | `room` | the calls that wait for a stream |
//! | `response_body` | the response from its head to its end |
//! | `signs` | what a connection shows of its peer: bytes, calls, its end |
//!
//! The two streams of a call end together: the end of the response ends the upload, and an upload
//! that fails ends the response.

mod attempt;
mod call_head;
mod h2_connection;
mod pings;
mod question;
mod response_body;
mod room;
mod settings;
mod signs;
#[cfg(test)]
mod tests;
mod upload;
mod watch;

#[cfg(test)]
pub(super) use self::call_head::write_context;
pub(super) use self::{
    attempt::Until,
    call_head::Head,
    h2_connection::Connection,
    response_body::ResponseBody,
    room::Room,
    signs::{Closed, Doubt, InFlight},
};
