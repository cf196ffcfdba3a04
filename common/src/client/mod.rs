//! The client: the stack that each outbound call passes, over connections that are opened once and
//! reused.
//!
//! A [`Channel`] is a service that the process calls. [`Channel::connect`] makes a [`Client`] for a
//! worker. Build the generated gRPC clients on it, and clone it for each call.
//!
//! | module | contents |
//! |---|---|
//! | `stack` | **the outbound stack**, top to bottom, and the [`Client`] made of it |
//! | `layers` | the layers of the stack |
//! | `pool` | the replicas of the service, the state of each, and the choice among them |
//! | `wire` | one HTTP/2 connection, and one attempt of a call on it |
//! | `channel` | [`Channel`]: what the workers of the process share |
//! | `network` | [`Network`]: another network than the system's |
//! | `target` | [`Target`]: the addresses of the service |
//! | `client_config` | [`Config`]: the settings of a client |
//! | `retry_policy` | [`RetryPolicy`]: when a call gets further attempts |
//! | `request_body` | what a call sends |
//! | `reading` | a response from its head to its end |
//! | `ending` | **how an attempt ended**, and what follows for all who want to know |
//! | `attempt_failure` | an ending with the status that the caller gets |
//! | `codec` | [`Codec`]: the codec of generated clients, which reports what it refuses |
//! | `details` | the details and the message of a status, which tonic must not read if they are invalid |
//! | `method`, `latencies` | what is declared and known of a method: how long it usually takes |
//! | `patience` | a wait for a replica, without the time for which this worker was stuck |
//! | `pushback` | when a server wants a call again |
//! | `serving` | [`wait_until_serving`], and the health check behind it |
//!
//! The state of a replica follows from its connection's end, its failures, its pushbacks and its
//! reply to a health check, or the lack of one. It never follows from one slow response.

mod backoff;
mod call;
mod channel;
mod choice;
mod config;
mod discovery;
mod ejection;
pub(crate) mod ending;
#[cfg(test)]
mod fake;
mod method;
mod network;
mod patience;
mod replicas;
mod retry;
mod retry_policy;
mod serving;
mod stack;
mod target;
mod wire;

pub use self::{
    channel::Channel,
    config::{Config, RequestIdNames},
    ending::codec::{Codec, Decoder},
    network::{BoxConnection, BoxFuture, Io, Network},
    retry_policy::RetryPolicy,
    serving::wait_until_serving,
    stack::Client,
    target::{InvalidTarget, Target},
};
