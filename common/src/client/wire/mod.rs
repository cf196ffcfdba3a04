//! The wire: one HTTP/2 connection, and one attempt of a call on it.
//!
//! | file | contents |
//! |---|---|
//! | `h2_connection` | [`Connection`]: its opening, its driver and its end |
//! | `attempt` | one attempt: the request goes out, and the response comes back |
//! | `call_head` | what a connection adds to the head of a request |
//! | `upload` | a request stream on its way out, up to the end of its call |
//! | `response_body` | the response from its head to its end |
//! | `signs` | what a connection shows of its peer: bytes, calls, its end |
//!
//! The two streams of a call end together: the end of the response ends the upload, and an upload
//! that fails ends the response.

mod attempt;
mod call_head;
mod h2_connection;
mod response_body;
mod signs;
#[cfg(test)]
mod tests;
mod upload;

#[cfg(test)]
pub(super) use self::call_head::write_context;
pub(super) use self::{
    attempt::Until,
    call_head::Head,
    h2_connection::Connection,
    response_body::ResponseBody,
    signs::{Closed, Counts},
};
