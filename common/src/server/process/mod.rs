//! The process: listeners, workers, connections, signals and the drain.

mod accept;
mod admin;
mod allowance;
mod bind;
pub(super) mod builder;
mod connection_error;
mod control_frames;
mod drive;
pub(super) mod error;
pub(super) mod files;
mod handshake;
mod handshake_places;
mod http;
pub(super) mod lifetime;
mod renewal;
pub(super) mod run;
pub(super) mod server;
mod signals;
mod socket;
mod stream_errors;
mod streams;
mod task;
mod threads;
mod turns;
mod unacknowledged;
pub(super) mod worker_thread;
