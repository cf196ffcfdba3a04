//! The inbound layers, one file each. `stack` lists them in their order.

pub(crate) mod access;
pub(crate) mod error_response;
pub(crate) mod guard;
pub(crate) mod head;
pub(crate) mod http1;
pub(crate) mod messages;
pub(crate) mod problem;
pub(crate) mod request;
mod request_context;
pub(crate) mod shed;
