//! The wire: one HTTP/2 connection, and one attempt of a call on it.
//!
//! | file | what is in it |
//! |---|---|
//! | `connection` | [`Connection`]: opened, driven, closed to new calls, broken off |
//! | `attempt` | one attempt: the request goes out, the response comes back |
//! | `head` | what a connection adds to the head of a request |
//! | `upload` | a request stream on its way out, which dies with its call |
//! | `response` | the response from its head to its end |
//! | `signs` | what a connection shows of its peer: bytes, calls, its end |
//!
//! A call is two streams with a common fate: what it still sends ends with its response, and a
//! request stream that fails ends the response.

mod attempt;
mod connection;
mod head;
mod response;
mod signs;
#[cfg(test)]
mod tests;
mod upload;

#[cfg(test)]
pub(super) use self::head::write_context;
pub(super) use self::{
    attempt::Until,
    connection::Connection,
    head::Head,
    response::ResponseBody,
    signs::{Closed, Counts},
};
