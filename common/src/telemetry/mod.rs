//! What a process tells of itself: log lines, metrics and traces.

pub mod logging;
pub mod metrics;
#[cfg(feature = "traces")]
pub(crate) mod traces;
