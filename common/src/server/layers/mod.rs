//! The inbound layers, one file each. `stack` lists them in their order.

pub(crate) mod access;
mod cause;
pub(crate) mod client_address;
pub(crate) mod guard;
pub(crate) mod http1;
pub(crate) mod problem;
pub(crate) mod request;
pub(crate) mod shed;
