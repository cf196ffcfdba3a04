//! One connection, from its TLS handshake to its end.

pub(crate) mod error;
mod frames;
pub(crate) mod handshake;
mod handshake_permits;
pub(crate) mod lifetime;
mod poll_timer;
pub(crate) mod serve;
mod socket;
pub(crate) mod state;
mod turns;
