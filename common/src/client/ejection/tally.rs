//! [`Tally`]: the successes of a worker that are still to be added to a record.

use std::time::Duration;

use tokio::time::Instant;

use super::record::ReplicaRecord;
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// How long a worker keeps its successes: a busy worker touches the shared record a hundred times a
/// second, not with each call.
const KEPT: Duration = Duration::from_millis(10);

/// The successes of a worker that are still to be added to a record.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    successes: AtomicU32,
    /// When they were added the last time, as the record counts time.
    added: AtomicU64,
}

impl Tally {
    /// Counts a success.
    pub(crate) fn add(&self, record: &ReplicaRecord, now: Instant) {
        self.successes.fetch_add(1, Relaxed);
        let micros = record.micros(now);
        if u128::from(micros - self.added.load(Relaxed).min(micros)) >= KEPT.as_micros() {
            self.added.store(micros, Relaxed);
            self.flush(record, now);
        }
    }

    /// Adds the successes to the record.
    pub(crate) fn flush(&self, record: &ReplicaRecord, now: Instant) {
        let successes = self.successes.swap(0, Relaxed);
        if successes > 0 {
            record.add(now, successes, 0);
        }
    }
}
