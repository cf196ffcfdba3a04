//! What threads share state with: the primitives, [`lock`] and [`now`]. `tests/models` compiles the files that
//! use them with its own form of this module, and tries all orders of their steps.

pub(crate) use std::sync::{Arc, Mutex, MutexGuard, atomic};
use std::sync::{LazyLock, PoisonError};

pub(crate) use tokio::sync::{Notify, futures::Notified};
use tokio::time::Instant;

/// Locks a mutex, even if a holder panicked. The data behind our mutexes is valid wherever a holder
/// can panic.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The time, as atomics hold it: milliseconds since the first call, plus 1, so that 0 is never an instant.
pub(crate) fn now() -> u64 {
    static BEGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(BEGIN.elapsed().as_millis()).unwrap_or(u64::MAX) + 1
}
