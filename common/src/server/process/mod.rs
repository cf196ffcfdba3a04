//! The process: listeners, workers, signals and the drain.

mod accept;
mod admin;
mod bind;
pub(crate) mod builder;
pub(crate) mod error;
pub(crate) mod files;
mod renewal;
pub(crate) mod run;
pub(crate) mod server;
mod shared;
mod signals;
mod task;
mod threads;
