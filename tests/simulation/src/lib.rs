//! The stacks of `common` in simulated time, against peers and faults that a seed draws.
//!
//! A run is one process and one thread. tokio's clock is paused, so a run of two minutes takes as long as
//! its work. Clients with the real [`Channel`](common::client::Channel) call replicas over a simulated
//! network: the real stack of [`InMemory`](common::server::InMemory), or fakes that speak HTTP/2 and gRPC
//! badly. HTTP clients visit an edge, which calls the replicas as well. After a minute the faults end; the
//! clients get the time to recover, and then all must be well.
//!
//! | module | contents |
//! |---|---|
//! | `suite` | **the main function**: runs seeds, repeats some, and shrinks those that fail |
//! | `run` | one seed, in this process |
//! | `schedule` | what a seed draws: replicas, clients, faults |
//! | `world` | the replicas, clients and network of a run, and what happens to them |
//! | `network` | hosts, the ways between them, listeners and names |
//! | `process` | what a simulated process has |
//! | `replica`, `service` | a replica that is our server, and its handlers |
//! | `fake` | replicas that are not |
//! | `call` | a call, and what came of it |
//! | `edge`, `visit` | the edge, and its HTTP clients |
//! | `trace`, `records` | what happens, and the log records among it |
//! | `checks` | **what must hold**, and what of calls |
//! | `calm` | what must hold where nothing but a bad replica can be the reason |
//! | `served`, `metrics` | what must hold of the requests of HTTP clients, and of the metrics |
//! | `random`, `clock` | what the libraries draw and what time it is for them, from the seed |
//!
//! # What must hold
//!
//! - Each call ends by its deadline, once.
//! - A call that is not idempotent is processed at most once. One that fails as unavailable says in the log why
//!   it was not sent again.
//! - What an HTTP client got, the access line and the metrics agree; so do the status of a call and the
//!   metrics of its caller.
//! - Each handler and each response has the id of its request.
//! - A replica that always fails gets few calls but trials, and costs idempotent calls hardly anything.
//! - A drain loses no request of a client that behaves. HEAD has no body, a route has its own deadline, half a
//!   head has seconds.
//! - Once the faults are over and the longest back-off has passed, no call fails, and equal replicas get equal
//!   shares.
//! - Nothing is left: calls, connections, requests in flight, tasks.
//! - The same seed gives the same trace.
//!
//! # What it does not show
//!
//! Workers on several threads (`tests/models` has what they share), TLS, and the kernel's part of a
//! connection: a reset overtakes what is on its way, no packet is lost for itself, and the server can't ask what
//! its peer has acknowledged. Where a process computes for long, no time passes.
//!
//! `make simulate-faults` puts faults that `common` once had back, one at a time, and tells which are found.

pub mod call;
pub mod calm;
pub mod checks;
pub mod clock;
pub mod edge;
pub mod fake;
pub mod metrics;
pub mod network;
mod process;
pub mod random;
pub mod records;
pub mod replica;
pub mod run;
pub mod schedule;
pub mod served;
pub mod service;
pub mod suite;
pub mod trace;
pub mod visit;
pub mod world;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// The service of the simulation, generated from its `.proto` file.
#[allow(missing_docs, clippy::pedantic)]
pub mod proto {
    tonic::include_proto!("simulated");

    /// The encoded descriptors of the service.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
