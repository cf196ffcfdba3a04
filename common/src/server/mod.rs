//! The server: the stack that every inbound request passes, over HTTP and gRPC alike, and the
//! process around it.
//!
//! | module | contents |
//! |---|---|
//! | `stack` | **the inbound stack**, top to bottom, a layer a line |
//! | `layers` | the layers of the stack, one file each |
//! | `service` | what a service serves on each port ([`Listener`], [`Grpc`], [`Query`]), what its threads share ([`Shared`]), its health, and the port for operators |
//! | `routes` | what a port knows of a path before any handler runs |
//! | `connection` | one connection, from its TLS handshake to its end |
//! | `capacity` | the limits on connections and requests, and which client gets the last permits |
//! | `worker` | what one worker serves, and the settings that all workers share |
//! | `process` | sockets, threads, signals and the drain |
//! | `in_memory` | [`InMemory`]: a service without sockets and threads, for tests |
//! | `mesh_layer` | [`MeshLayer`]: the layers for other servers |
//!
//! Modules use each other in one direction: `in_memory` and `process`, `worker`, `stack`, `service`, `mesh_layer`,
//! `layers`, `connection`, `capacity`. Each uses only those after it.
//!
//! # The way of a request
//!
//! In:
//!
//! 1. `process/accept.rs`: the main thread accepts the connection, gets a permit for it from
//!    `capacity/connections.rs`, and sends it to the worker with the fewest connections.
//! 2. `worker.rs`: the worker is a thread with its own runtime, routers, channels and log
//!    buffer. It spawns a task for the connection. Workers share only the counts of permits and, near a
//!    limit, the list of connections.
//! 3. It opens TLS (`connection/handshake.rs`) if the port speaks it, and makes the inbound stack of
//!    the connection.
//! 4. `connection/serve.rs`: hyper serves the connection over HTTP/1.1 or HTTP/2, depending on its first
//!    bytes, which it reads through `connection/socket.rs`.
//! 5. `connection/serve.rs`: hyper calls the stack with each head. Over HTTP/2, the streams of the
//!    connection run in turns (`connection/turns.rs`).
//! 6. `stack.rs`, top to bottom: `layers/request.rs` makes the [`Context`](crate::Context) of the request, and
//!    `layers/shed/` checks the head and gets a permit (`capacity/permits.rs`).
//!    `layers/guard.rs` starts the deadline.
//!
//!    Layers that the service puts around what a port responds ([`Listener::layer`]) run here, below the
//!    guard. `stack.rs` puts a second guard and problem layer below them. So the layers see the response to
//!    each failure.
//! 7. The router of the service: an [`axum::Router`], which `service/listener.rs` has completed. It reads the
//!    body through `layers/http1.rs` and `dialect/messages.rs`.
//!
//! Back:
//!
//! 1. `layers/guard.rs` puts the rest of the deadline on the body.
//! 2. `layers/shed/`: the body holds the permit. It gives a frame when `connection/state.rs` has room.
//! 3. `layers/problem.rs` turns an error of the layers below into a response.
//! 4. `layers/request.rs` adds the id and `Server-Timing`; `layers/http1.rs` adds what ends or keeps the
//!    connection. Each frame and the end of the body are noted for the access line.
//! 5. hyper takes the frames, and writes them to `connection/socket.rs`, which ends a connection whose client
//!    takes nothing.
//! 6. `connection/serve.rs` sees that the socket has taken the last byte. `connection/state.rs` then ends the
//!    requests that wait for that: the permit is free, and `layers/access.rs` counts and logs the request. If
//!    the response is dropped before, the connection and the worker know the cause.
//!
//! hyper itself responds to a bad request line and to a head of more than 24 KiB (64 KiB over
//! HTTP/2). Such a response has no id and no access line, and passes no layer.
//!
//! # Thread-locals
//!
//! Two hand something over, both to code of the service, which gets no argument from this crate:
//!
//! | in | set by | taken by |
//! |---|---|---|
//! | `request/context.rs` | `layers/request.rs`, while it polls or drops a request | log lines, calls, layers below, handlers |
//! | `request/draining.rs` | `process/threads.rs`, once for each thread | [`context::draining`](crate::context::draining) |
//!
//! The others are state of one worker, which no other code reads: the rates of warnings in
//! `connection/error.rs`, `connection/handshake.rs` and `layers/request.rs`, and the handshakes of
//! `connection/handshake_permits.rs`.

mod capacity;
mod connection;
mod in_memory;
mod layers;
mod mesh_layer;
mod process;
mod routes;
pub(crate) mod service;
mod stack;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod worker;

#[cfg(feature = "openapi")]
pub(crate) use self::routes::Routes;
pub use self::{
    in_memory::InMemory,
    mesh_layer::MeshLayer,
    process::{
        builder::Builder,
        error::Error,
        files::raise_file_limit,
        run::{bind, run},
        server::Server,
    },
    service::{
        grpc::Grpc,
        invalid::InvalidFace,
        listener::Listener,
        process::Process,
        query::Query,
        shared::{Shared, SharedRun},
    },
};
pub use crate::limits::BODY as BODY_LIMIT;
pub use crate::ports::Ports;
