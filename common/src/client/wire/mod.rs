//! The wire: one HTTP/2 connection, and one attempt of a call on it.
//!
//! | file | contents |
//! |---|---|
//! | `connection` | [`Connection`](connection::Connection): its driver and its end |
//! | `settings` | what h2 may do on a connection, and why |
//! | `open` | how a connection is opened: TCP, TLS, HTTP/2, a health check |
//! | `in_flight` | a call on a connection |
//! | `health_check` | the health check of a replica |
//! | `pings` | PINGs, where no health check can be sent |
//! | `watch` | the watch over the calls of a connection: when a health check is sent, and what follows |
//! | `attempt` | one attempt: the request goes out, and the response comes back |
//! | `origin` | [`Origin`](origin::Origin): how a name is connected, and the headers that its requests share |
//! | `request_body` | what a call sends |
//! | `upload` | a request stream on its way out, up to the end of its call |
//! | `room` | the calls that wait for a stream |
//! | `response_body` | the response from its head to its end |
//! | `activity` | counts of bytes and calls, the suspicion and the end of a connection |
//!
//! The two streams of a call end together: the end of the response ends the upload, and an upload
//! that fails ends the response.

pub(crate) mod activity;
pub(crate) mod attempt;
pub(crate) mod connection;
pub(crate) mod health_check;
pub(crate) mod in_flight;
mod open;
pub(crate) mod origin;
mod pings;
pub(crate) mod request_body;
pub(crate) mod response_body;
pub(crate) mod room;
mod settings;
#[cfg(test)]
mod tests;
mod upload;
mod watch;
