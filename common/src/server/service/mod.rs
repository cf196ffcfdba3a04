//! The parts of the routers of a service.

pub(crate) mod admin;
pub(crate) mod grpc;
pub(crate) mod health;
pub(crate) mod invalid;
pub(crate) mod listener;
pub(crate) mod process;
pub(crate) mod query;
pub(crate) mod readiness;
pub(crate) mod shared;
pub(crate) mod status;
pub(crate) mod vitals;
