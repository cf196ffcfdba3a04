//! The limits on connections and on requests in flight, and which client gets the last permits.

pub(crate) mod clock;
pub(crate) mod connections;
pub(crate) mod handle;
pub(crate) mod long_lived;
pub(crate) mod permits;
pub(crate) mod request_class;
mod stalled;
mod usage;
pub(crate) mod worker_capacity;
pub(crate) mod worker_permits;
