//! The server: the stack that every inbound request passes, over HTTP and gRPC alike, and the
//! process around it.
//!
//! | module | what is in it |
//! |---|---|
//! | `stack` | **the inbound stack**, top to bottom, a layer a line |
//! | `layers` | the layers of the stack, one file each |
//! | `faces` | the parts of routers: [`Grpc`], [`Query`], health, and the port for operators |
//! | `capacity` | the limits on connections and requests, and which of them give way at a limit |
//! | `mesh_layer` | [`MeshLayer`]: the layers for other servers |
//! | `process` | listeners, workers, connections, signals and the drain |
//! | `in_memory` | [`InMemory`]: a service without sockets and threads, for tests |
//!
//! Modules use each other in one direction: `in_memory`, `process`, `stack`, `faces`, `mesh_layer`,
//! `layers`, `capacity`. Each uses only those after it.
//!
//! The path of a request:
//!
//! 1. [`Server`]: the main thread accepts the connection and hands it to a worker.
//! 2. `process::worker_thread`: one thread for each core, with its own runtime, routers, channels and log
//!    buffer. To serve requests, workers share only the counts of places and, near a limit, the
//!    list of connections.
//! 3. `process::drive`: hyper serves the connection over HTTP/1.1 or HTTP/2, depending on its first
//!    bytes.
//! 4. `stack`: the inbound stack.
//! 5. The router of the service: an [`axum::Router`], which [`Grpc`] makes for gRPC.
//!
//! hyper itself responds to a bad request line and to a head of more than 24 KiB (64 KiB over
//! HTTP/2). Such a response has no id and no access line.

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
        grpc::Grpc, invalid::InvalidFace, listener::Listener, process::Process, query::Query,
    },
};
pub use crate::limits::BODY as BODY_LIMIT;
pub use crate::ports::Ports;
