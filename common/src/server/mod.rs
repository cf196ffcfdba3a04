//! The server: the stack that every inbound request passes, HTTP and gRPC alike, and the process
//! that carries it.
//!
//! | room | what is in it |
//! |---|---|
//! | `stack` | **the inbound stack**, top to bottom, a layer a line |
//! | `layers` | those layers, a file each |
//! | `faces` | what routers are made of: [`Grpc`], [`Query`], health and metrics |
//! | `capacity` | places for connections and requests, and who gives way at a limit |
//! | `process` | listeners, workers, connections and their ends, signals, the drain |
//!
//! `process` knows all the others, `stack` knows `layers` and `faces`, and these know `capacity`.
//!
//! A request takes this way:
//!
//! 1. [`run`]: the main thread accepts the connection and hands it to a worker.
//! 2. [`Worker`]: one thread for each core, with a runtime, routers and channels of its own. Workers
//!    share the counts of places, and nothing else while they serve a request.
//! 3. The connection: hyper's HTTP/1.1 and HTTP/2, told apart by the first bytes, within limits.
//! 4. The inbound stack.
//! 5. The router of the service: an [`axum::Router`], for gRPC one made by [`Grpc`].
//!
//! hyper itself responds to what is no request (a bad request line, a head of over 24 KiB, or 64 KiB
//! over HTTP/2). That response has neither an id nor an access line.

mod capacity;
mod faces;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod layers;
mod prefixed;
mod process;
mod stack;

pub use self::{
    faces::{grpc::Grpc, listener::Listener, query::Query, worker::Worker},
    process::run::run,
    stack::stack,
};
pub use crate::limits::BODY as BODY_LIMIT;
