//! The wire: one HTTP/2 connection, and one attempt of a call on it.
//!
//! | file | contents |
//! |---|---|
//! | `connection` | [`Connection`](connection::Connection): its driver, its questions and its end |
//! | `open` | how it is opened, what h2 may do on it and why |
//! | `origin` | a name of the service: how connections to it are opened, and the headers that its requests share |
//! | `activity` | counts of bytes and calls, the suspicion and the end of a connection; the calls that wait for a stream |
//! | `in_flight` | a call on a connection, up to the end of its response |
//! | `settings` | SETTINGS that ask whether the peer is there |
//! | `watch` | the watch over the calls of a connection: when a health check is sent, and what follows |
//! | `attempt` | one attempt: the request goes out, and the response comes back, from its head to its end |
//! | `request_body` | what a call sends; a request stream on its way out, up to the end of its call |
//!
//! The two streams of a call end together: the end of the response ends the upload, and an upload
//! that fails ends the response.

pub(crate) mod activity;
pub(crate) mod attempt;
pub(crate) mod connection;
pub(crate) mod in_flight;
mod open;
pub(crate) mod origin;
pub(crate) mod request_body;
mod settings;
#[cfg(test)]
mod tests;
pub(crate) mod watch;
