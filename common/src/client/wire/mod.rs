//! The wire: one HTTP/2 connection, and one attempt of a call on it.
//!
//! | file | contents |
//! |---|---|
//! | `connection` | [`Connection`](connection::Connection): its opening, its driver and its end |
//! | `settings` | what h2 may do on a connection, and why |
//! | `health_check` | a health check: whether the replica is there |
//! | `pings` | PINGs, where no health check can be sent |
//! | `watch` | the watch over the calls of a connection: when the replica is asked, and what follows |
//! | `attempt` | one attempt: the request goes out, and the response comes back |
//! | `headers` | what a connection adds to the head of a request |
//! | `request_body` | what a call sends |
//! | `upload` | a request stream on its way out, up to the end of its call |
//! | `room` | the calls that wait for a stream |
//! | `response_body` | the response from its head to its end |
//! | `activity` | what a connection shows of its peer: bytes, calls, its end |
//!
//! The two streams of a call end together: the end of the response ends the upload, and an upload
//! that fails ends the response.

pub(crate) mod activity;
pub(crate) mod attempt;
pub(crate) mod connection;
pub(crate) mod headers;
pub(crate) mod health_check;
pub(crate) mod in_flight;
mod open;
mod pings;
pub(crate) mod request_body;
pub(crate) mod response_body;
pub(crate) mod room;
mod settings;
#[cfg(test)]
mod tests;
mod upload;
mod watch;
