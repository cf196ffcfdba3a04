//! The limits on connections and on requests in flight, and which client gets the last permits.

pub(crate) mod connections;
pub(crate) mod handle;
pub(crate) mod long_lived;
pub(crate) mod permits;
mod stalled;
pub(crate) mod worker_capacity;
