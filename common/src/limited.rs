//! [`Limited`]: something that may be done every now and then, for lines that must not become
//! load.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// Is due once in an interval, for whoever asks first.
#[derive(Debug)]
pub(crate) struct Limited {
    interval: Duration,
    begin: Instant,
    /// In nanoseconds from `begin`.
    next: AtomicU64,
}

impl Limited {
    pub(crate) fn to_once_in(interval: Duration) -> Self {
        Self {
            interval,
            begin: Instant::now(),
            next: AtomicU64::new(0),
        }
    }

    pub(crate) fn is_due(&self) -> bool {
        let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let now = nanos(self.begin.elapsed());
        let next = self.next.load(Ordering::Relaxed);
        let after = now.saturating_add(nanos(self.interval));
        now >= next
            && self
                .next
                .compare_exchange(next, after, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_due_once_in_its_interval() {
        let hourly = Limited::to_once_in(Duration::from_hours(1));
        assert!(hourly.is_due());
        assert!(!hourly.is_due());
        let always = Limited::to_once_in(Duration::ZERO);
        assert!(always.is_due() && always.is_due());
    }
}
