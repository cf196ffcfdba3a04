//! The process: listeners, workers, connections, signals and the drain.

mod accept;
mod control_frames;
mod drive;
mod evictable;
mod http;
pub(super) mod lifetime;
pub(super) mod run;
mod signals;
mod socket;
mod streams;
pub(super) mod worker_thread;
