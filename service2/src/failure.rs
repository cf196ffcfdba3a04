//! [`Failure`]: why the backend did not do what was asked of it.

use std::fmt::Display;

use tracing::{info, warn};

/// A failure of the backend.
pub(crate) trait Failure: Display {
    /// Whether the client asked for what there is not, or went away.
    fn is_fault_of_client(&self) -> bool;
}

/// Logs that an action failed: at `warn`, unless it is the fault of the client.
pub(crate) fn log(action: &'static str, error: &impl Failure, message: &'static str) {
    if error.is_fault_of_client() {
        info!(action, status = "failure", %error, "{message}");
    } else {
        warn!(action, status = "failure", %error, "{message}");
    }
}

#[cfg(test)]
impl Failure for &'static str {
    fn is_fault_of_client(&self) -> bool {
        true
    }
}
