//! One connection, from its first byte to its end.

mod allowance;
mod control_frames;
pub(crate) mod error;
pub(crate) mod handshake;
mod handshake_permits;
pub(crate) mod hyper;
pub(crate) mod lifetime;
pub(crate) mod serve;
pub(crate) mod socket;
mod stream_errors;
pub(crate) mod streams;
mod turns;
mod unacknowledged;
