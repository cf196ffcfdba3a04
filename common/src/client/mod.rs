//! The client: the stack that every outbound call passes, over a channel that is opened once
//! and reused.
//!
//! A [`Channel`] is a service that the process calls. [`Channel::connect`] gives each worker a
//! [`Client`] to build generated gRPC clients on; clone it for each call.
//!
//! | where | what is in it |
//! |---|---|
//! | `stack` | **the outbound stack**, top to bottom: the type [`Client`] |
//! | `layers` | the layers of the stack, and what they need |
//! | `pool` | the replicas of the service, what is true of each, and the choice among them |
//! | `wire` | one HTTP/2 connection, and one attempt of a call on it |
//! | `channel` | [`Channel`]: what the workers of the process share |
//! | `request_body` | what a call sends |
//! | `attempt_failure` | why an attempt has no response |
//! | `pushback` | when a server wants a call again |
//! | `serving` | [`wait_until_serving`], and the health check behind it |
//!
//! A replica is judged by true signs: the end of its connection, its failures, its silence when
//! it is asked; never by one slow response.

mod attempt_failure;
mod channel;
mod client_config;
#[cfg(test)]
mod fake;
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
    layers::{AttemptsService, DeadlineService, TimingService},
    serving::wait_until_serving,
    stack::Client,
    target::{InvalidTarget, Target},
};
