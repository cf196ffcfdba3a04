//! The client: the stack that each outbound call passes, over connections that are opened once and
//! reused.
//!
//! A [`Channel`] is a service that the process calls. [`Channel::connect`] makes a [`Client`] for a
//! worker. Build the generated gRPC clients on it, and clone it for each call.
//!
//! | module | contents |
//! |---|---|
//! | `stack` | **the outbound stack**, top to bottom: the type [`Client`] |
//! | `layers` | the layers of the stack |
//! | `pool` | the replicas of the service, the state of each, and the choice among them |
//! | `wire` | one HTTP/2 connection, and one attempt of a call on it |
//! | `channel` | [`Channel`]: what the workers of the process share |
//! | `target` | [`Target`]: the addresses of the service |
//! | `client_config` | [`Config`]: the settings of a client |
//! | `request_body` | what a call sends |
//! | `attempt_failure` | why an attempt has no response |
//! | `pushback` | when a server wants a call again |
//! | `serving` | [`wait_until_serving`], and the health check behind it |
//! | [`http`] | a client for services that speak HTTP, with the same context, deadline and retries |
//!
//! The state of a replica follows from its connection's end, its failures, its pushbacks and its
//! reply to a health check, or the lack of one. It never follows from one slow response.

mod attempt_failure;
mod channel;
mod client_config;
#[cfg(test)]
mod fake;
pub mod http;
mod layers;
mod pool;
mod pushback;
mod request_body;
mod serving;
mod stack;
mod target;
mod wire;

use self::attempt_failure::Failure;
pub use self::{
    channel::Channel,
    client_config::{Config, RequestIdNames},
    layers::{Attempts, CallDeadline, CallTiming},
    serving::wait_until_serving,
    stack::Client,
    target::{InvalidTarget, Target},
};
