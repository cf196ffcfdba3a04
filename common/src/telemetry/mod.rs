//! What a process tells of itself: metrics, log lines and traces, each of which may use those before
//! it.

pub mod logging;
pub mod metrics;
#[cfg(feature = "server")]
mod start;
#[cfg(feature = "traces")]
pub(crate) mod traces;

#[cfg(feature = "server")]
pub(crate) use self::start::{finish, start};
