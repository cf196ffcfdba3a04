//! One connection, from its TLS handshake to its end.

pub(crate) mod error;
mod frames;
pub(crate) mod handshake;
mod handshake_permits;
mod hyper_service;
pub(crate) mod inbound;
pub(crate) mod lifetime;
pub(crate) mod outbound;
pub(crate) mod serve;
mod socket;
pub(crate) mod state;
mod turns;
mod unacknowledged;
