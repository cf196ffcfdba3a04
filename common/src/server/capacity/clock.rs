//! [`now`]: the time, as atomics hold it.

use std::sync::LazyLock;

use tokio::time::Instant;

/// Milliseconds since the first call, plus 1, so that 0 is never an instant.
pub(crate) fn now() -> u64 {
    static BEGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(BEGIN.elapsed().as_millis()).unwrap_or(u64::MAX) + 1
}
