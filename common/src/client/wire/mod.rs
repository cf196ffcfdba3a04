//! The wire: one HTTP/2 connection, and one attempt of a call on it.
//!
//! | file | what is in it |
//! |---|---|
//! | `connection` | [`Connection`]: opened, driven, closed to new calls, broken off |
//! | `attempt` | one attempt: the request goes out, the response comes back |
//! | `context` | what the request's context adds to the headers of an attempt |
//! | `signs` | what a connection shows of its peer: bytes, calls, its end |

mod attempt;
mod connection;
mod context;
mod signs;

#[cfg(test)]
pub(super) use self::context::write as write_context;
pub(super) use self::{
    attempt::ResponseBody,
    connection::Connection,
    signs::{Closed, Counts},
};
