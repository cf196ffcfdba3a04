//! The stacks of `common` in simulated time.

pub mod call;
pub mod checks;
pub mod clock;
pub mod edge;
pub mod fake;
pub mod metrics;
pub mod network;
pub mod random;
pub mod records;
pub mod replica;
pub mod run;
pub mod schedule;
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
