//! The wire: one HTTP/2 connection, and one attempt of a call on it.
//!
//! | file | what is in it |
//! |---|---|
//! | `h2_connection` | [`Connection`]: opened, driven, closed to new calls, broken off |
//! | `attempt` | one attempt: the request goes out, the response comes back |
//! | `call_head` | what a connection adds to the head of a request |
//! | `upload` | a request stream on its way out, which dies with its call |
//! | `response_body` | the response from its head to its end |
//! | `signs` | what a connection shows of its peer: bytes, calls, its end |
//!
//! A call is two streams with a common fate: what it still sends ends with its response, and a
//! request stream that fails ends the response.

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
