//! The client: the stack that each outbound call passes, over connections that are opened once and
//! reused.
//!
//! A [`Channel`] is a service that the process calls. [`Channel::connect`] makes a [`Client`] for a
//! worker. Build the generated gRPC clients on it, and clone it for each call.
//!
//! # The rooms
//!
//! Bottom to top; each uses only those above it in this table:
//!
//! | module | contents |
//! |---|---|
//! | `config`, `network`, `retry_policy`, `target` | values and settings |
//! | `method` | what is declared and known of a method |
//! | `ending` | **how an attempt ended**, and what follows for all who want to know |
//! | `wire` | one HTTP/2 connection, and one attempt of a call on it |
//! | `ejection` | outlier detection: the state of each replica, and which replicas are ejected |
//! | `choice` | the balancer |
//! | `replicas` | connected replicas, and the attempts on them |
//! | `discovery` | which replicas there are, and the tasks that keep them connected |
//! | `retry` | retries and hedges, and their budget |
//! | `call` | the layers of a call, above its attempts |
//! | `stack`, `channel`, `serving` | **the outbound stack**, [`Channel`], and [`wait_until_serving`] |
//!
//! # The way of a call
//!
//! Out:
//!
//! 1. `stack.rs`: the generated client passes the encoded request to the [`Client`].
//! 2. `call.rs` starts the timing of the call.
//! 3. It sets the deadline, and makes the context of the call the current one at each poll. With no time
//!    left, the call ends here.
//! 4. It takes a permit of `calls.rs`. A call to a service that hangs ends here if all permits are taken.
//! 5. `retry/attempts.rs` finds the method (`method.rs`) and reads the message, or keeps the
//!    beginning of the request stream (`wire/request_body.rs`).
//! 6. `choice/balancer.rs` picks a replica (`choice/replica_set.rs`) by its cost (`choice/cost.rs`), or
//!    waits until one is connected.
//! 7. `retry/attempts.rs` makes an attempt, and a second one on another replica if the first is late.
//! 8. `replicas/attempt.rs` starts the attempt: its cost, its span, its record.
//! 9. `replicas/connections.rs` takes a stream of a connection, or waits for one (`wire/activity.rs`).
//! 10. `wire/attempt.rs` sends the request. `wire/origin.rs` writes its headers, last of all the time that
//!     is left. A task sends a request stream (`wire/request_body.rs`).
//!
//! And back:
//!
//! 11. `wire/attempt.rs` waits for the head of the response, and reads the frames after it.
//! 12. `replicas/body.rs` follows the response (`ending/reading.rs`). It reads a unary response ahead
//!     before the caller gets any of it.
//! 13. `retry/decide.rs` decides by the class of the ending (`ending/class.rs`) whether another attempt
//!     follows: the call is at step 6 again. Otherwise `retry/attempts.rs` offers the response to the
//!     codec.
//! 14. `call.rs` returns the permit with the first data, breaks the body off at the deadline, and stops the
//!     timing at the end of the body.
//! 15. `ending/codec.rs` decodes the message for the generated client, and reports one that it refuses.
//! 16. The body ends or is dropped: `wire/in_flight.rs` frees the stream, `replicas/judged_attempt.rs`
//!     counts the attempt, and `replicas/call_metrics.rs` the call. `replicas/replica.rs` tells the cost,
//!     the state and the record of the replica.
//!
//! Beside the calls of a worker, `discovery/keeper.rs` connects its replicas, and the watch of each
//! connection (`wire/watch.rs`) sends a health check when a call is late.
//!
//! # What passes through thread-locals
//!
//! | thread-local | set by | taken by | why |
//! |---|---|---|---|
//! | `CURRENT` in `request/context.rs` | the inbound stack and `call.rs`, at each poll | `call.rs`, `retry/decide.rs`, `replicas/attempt.rs`, `replicas/judged_attempt.rs`, `replicas/call_metrics.rs`, `wire/origin.rs`, `wire/request_body.rs` | a handler's code, which makes the call, passes no context on |
//! | `OFFERED` in `ending/codec.rs` | `retry/attempts.rs`, as the last step of the poll that returns the response | `Codec::decoder`, in the same poll | tonic gives a codec neither the response nor its extensions |
//!
//! The state of a replica follows from its connection's end, its failures, its pushbacks and its
//! reply to a health check, or the lack of one. It never follows from one slow response.

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
    network::{BoxConnection, BoxFuture, Network},
    retry_policy::RetryPolicy,
    serving::wait_until_serving,
    stack::Client,
    target::{InvalidTarget, Target},
};
pub use crate::transport::Io;
