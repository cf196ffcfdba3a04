//! [`ReplicaRecord`]: what the process remembers of one replica. A few atomics, which all workers share.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    client::backoff::Backoff,
    sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed},
};

/// The window of the failure rate, and the parts that leave it one by one.
const PARTS: usize = 10;
const PART: Duration = Duration::from_secs(1);

/// The pauses between the calls that try an ejected replica.
const TRIAL: Backoff = Backoff {
    base: Duration::from_secs(1),
    factor: 2.0,
    limit: Duration::from_secs(30),
    jitter: 0.2,
};

/// After this long without an ejection, the next one counts as the first.
const FORGOTTEN_AFTER: Duration = Duration::from_mins(1);

/// The calls of one replica in the window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct FailureRate {
    pub(crate) calls: u32,
    pub(crate) failures: u32,
}

impl std::ops::AddAssign for FailureRate {
    fn add_assign(&mut self, other: Self) {
        self.calls += other.calls;
        self.failures += other.failures;
    }
}

/// What the process remembers of one replica.
///
/// Times are in microseconds since `epoch`. Counts may miss a call where two workers meet: the
/// judgement needs several.
#[derive(Debug)]
pub(crate) struct ReplicaRecord {
    epoch: Instant,
    failures_in_a_row: AtomicU32,
    window: [Part; PARTS],
    /// The connections of all workers that take calls.
    connections: AtomicUsize,
    /// When the replica was ejected; 0 if it is not.
    ejected: AtomicU64,
    readmitted: AtomicU64,
    next_trial: AtomicU64,
    /// The ejections and failed trials since the last [`FORGOTTEN_AFTER`] without one.
    ejections: AtomicU32,
}

/// A part of the window: its number, the calls and the failures, in one atomic, so that the worker
/// that is the first in a new part empties it for all.
#[derive(Debug, Default)]
struct Part(AtomicU64);

impl Part {
    const BITS: u32 = 20;
    const MOST: u64 = (1 << Self::BITS) - 1;

    fn unpack(packed: u64) -> (u64, u64, u64) {
        let calls = (packed >> Self::BITS) & Self::MOST;
        (packed >> (2 * Self::BITS), calls, packed & Self::MOST)
    }

    fn add(&self, number: u64, more: FailureRate) {
        let add = |packed| {
            let (of, calls, failures) = match Self::unpack(packed) {
                (of, calls, failures) if of == number => (of, calls, failures),
                _ => (number, 0, 0),
            };
            let calls = (calls + u64::from(more.calls)).min(Self::MOST);
            let failures = (failures + u64::from(more.failures)).min(Self::MOST);
            Some(of << (2 * Self::BITS) | calls << Self::BITS | failures)
        };
        let _ = self.0.fetch_update(Relaxed, Relaxed, add);
    }

    fn failure_rate(&self, now: u64) -> FailureRate {
        let (of, calls, failures) = Self::unpack(self.0.load(Relaxed));
        if now - of.min(now) >= PARTS as u64 {
            return FailureRate::default();
        }
        let count = |count| u32::try_from(count).expect("it has 20 bits");
        FailureRate {
            calls: count(calls),
            failures: count(failures),
        }
    }
}

impl ReplicaRecord {
    pub(crate) fn new(epoch: Instant) -> Self {
        Self {
            epoch,
            failures_in_a_row: AtomicU32::new(0),
            window: Default::default(),
            connections: AtomicUsize::new(0),
            ejected: AtomicU64::new(0),
            readmitted: AtomicU64::new(0),
            next_trial: AtomicU64::new(0),
            ejections: AtomicU32::new(0),
        }
    }

    /// Never 0, which means never.
    pub(crate) fn micros(&self, at: Instant) -> u64 {
        let micros = at.saturating_duration_since(self.epoch).as_micros();
        u64::try_from(micros).unwrap_or(u64::MAX).max(1)
    }

    fn part(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.epoch).as_secs() / PART.as_secs()
    }

    /// Adds calls that ended now.
    pub(crate) fn add(&self, now: Instant, calls: u32, failures: u32) {
        let part = self.part(now);
        let index = usize::try_from(part % PARTS as u64).expect("it is small");
        self.window[index].add(part, FailureRate { calls, failures });
    }

    /// The calls in the window.
    pub(crate) fn failure_rate(&self, now: Instant) -> FailureRate {
        let now = self.part(now);
        let mut sum = FailureRate::default();
        for part in &self.window {
            sum += part.failure_rate(now);
        }
        sum
    }

    /// Counts a failure. Returns how many came in a row.
    pub(crate) fn fail(&self) -> u32 {
        self.failures_in_a_row
            .fetch_add(1, Relaxed)
            .saturating_add(1)
    }

    /// Ends the row of failures.
    pub(crate) fn succeed(&self) {
        if self.failures_in_a_row.load(Relaxed) > 0 {
            self.failures_in_a_row.store(0, Relaxed);
        }
    }

    pub(crate) fn is_ejected(&self) -> bool {
        self.ejected.load(Relaxed) > 0
    }

    /// Whether a call that began at `start` tried the ejected replica. One that began before proves
    /// nothing.
    pub(crate) fn was_trial(&self, start: Instant) -> bool {
        let ejected = self.ejected.load(Relaxed);
        ejected > 0 && self.micros(start) > ejected
    }

    /// Ejects the replica up to a first trial after a pause, which grows with the number of
    /// ejections.
    pub(crate) fn eject(&self, now: Instant) {
        let readmitted = self.epoch + Duration::from_micros(self.readmitted.load(Relaxed));
        if now.saturating_duration_since(readmitted) >= FORGOTTEN_AFTER {
            self.ejections.store(0, Relaxed);
        }
        self.prolong(now);
        let _ = self
            .ejected
            .compare_exchange(0, self.micros(now), Relaxed, Relaxed);
    }

    /// Delays the next trial by a longer pause, as one has failed. Does not eject the replica again
    /// that another worker may have readmitted meanwhile: nobody would judge whether enough are left.
    pub(crate) fn prolong(&self, now: Instant) {
        let ejections = self.ejections.fetch_add(1, Relaxed).saturating_add(1);
        let next_trial = self.micros(now + TRIAL.pause(ejections));
        self.next_trial.store(next_trial, Relaxed);
    }

    /// Ends the ejection.
    pub(crate) fn readmit(&self, now: Instant) {
        self.failures_in_a_row.store(0, Relaxed);
        self.readmitted.store(self.micros(now), Relaxed);
        self.ejected.store(0, Relaxed);
    }

    /// Takes the trial of an ejected replica if its pause was over at `since`. The next trial comes
    /// after another pause, for all workers.
    pub(crate) fn take_trial(&self, since: Instant, now: Instant) -> bool {
        let due = self.next_trial.load(Relaxed);
        if !self.is_ejected() || due > self.micros(since) {
            return false;
        }
        let next = self.micros(now + TRIAL.pause(self.ejections.load(Relaxed)));
        let taken = self
            .next_trial
            .compare_exchange(due, next, Relaxed, Relaxed);
        taken.is_ok()
    }

    /// Brings the next trial forward, as the last one proved nothing.
    pub(crate) fn try_again_soon(&self, now: Instant) {
        let soon = self.micros(now + TRIAL.pause(1));
        self.next_trial.fetch_min(soon, Relaxed);
    }

    /// Brings the next trial forward to now, and resets the pauses.
    pub(crate) fn hurry(&self, now: Instant) {
        self.ejections.store(0, Relaxed);
        self.next_trial.fetch_min(self.micros(now), Relaxed);
    }

    /// A worker has connected the replica.
    pub(crate) fn connected(&self) {
        self.connections.fetch_add(1, Relaxed);
    }

    /// The connection of a worker takes no more calls.
    pub(crate) fn closed(&self) {
        self.connections.fetch_sub(1, Relaxed);
    }

    /// Whether no worker has a connection.
    pub(crate) fn is_unconnected(&self) -> bool {
        self.connections.load(Relaxed) == 0
    }

    /// Forgets everything but the connections. Returns whether that has ended an ejection.
    pub(crate) fn forget(&self) -> bool {
        // Most parts of a replica that can't be connected are empty.
        for part in self.window.iter().filter(|part| part.0.load(Relaxed) > 0) {
            part.0.store(0, Relaxed);
        }
        for count in [&self.failures_in_a_row, &self.ejections] {
            count.store(0, Relaxed);
        }
        for time in [&self.readmitted, &self.next_trial] {
            time.store(0, Relaxed);
        }
        self.ejected.swap(0, Relaxed) > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn calls_leave_the_window_after_ten_seconds() {
        let begin = Instant::now();
        let record = ReplicaRecord::new(begin);
        for second in 0..10 {
            record.add(begin + second * SECOND, 3, 1);
        }
        let share = |calls, failures| FailureRate { calls, failures };
        assert_eq!(record.failure_rate(begin + 9 * SECOND), share(30, 10));
        assert_eq!(record.failure_rate(begin + 12 * SECOND), share(21, 7));
        record.add(begin + 12 * SECOND, 1, 0);
        assert_eq!(record.failure_rate(begin + 12 * SECOND), share(22, 7));
        assert_eq!(record.failure_rate(begin + 1_000 * SECOND), share(0, 0));
        record.add(begin + 12 * SECOND, u32::MAX, u32::MAX);
        let most = u32::try_from(Part::MOST).unwrap();
        assert_eq!(
            record.failure_rate(begin + 12 * SECOND),
            share(most + 21, most + 7)
        );
    }

    #[test]
    fn only_a_call_that_began_after_the_ejection_is_a_trial() {
        let begin = Instant::now();
        let record = ReplicaRecord::new(begin);
        assert!(!record.was_trial(begin + SECOND));
        record.eject(begin + SECOND);
        assert!(!record.was_trial(begin) && record.was_trial(begin + 2 * SECOND));
        assert!(!record.take_trial(begin + SECOND, begin + SECOND));
        let trial = begin + 3 * SECOND;
        assert!(record.take_trial(trial, trial));
        assert!(!record.take_trial(trial, trial), "it is taken");
        record.readmit(begin + 3 * SECOND);
        assert!(!record.is_ejected() && !record.was_trial(begin + 4 * SECOND));
    }

    #[test]
    fn a_trial_that_proves_nothing_costs_no_long_pause() {
        let begin = Instant::now();
        let record = ReplicaRecord::new(begin);
        (0..6).for_each(|_| record.eject(begin));
        let trial = begin + 60 * SECOND;
        assert!(record.take_trial(trial, trial));
        record.try_again_soon(trial);
        assert!(!record.take_trial(trial, trial + SECOND / 2));
        let next = trial + 2 * SECOND;
        assert!(record.take_trial(next, next));
        let soon = next + 2 * SECOND;
        assert!(!record.take_trial(soon, soon), "a pause as before");
    }

    #[test]
    fn the_pauses_grow_until_the_replica_was_well_for_long() {
        let begin = Instant::now();
        let record = ReplicaRecord::new(begin);
        let next = || begin + Duration::from_micros(record.next_trial.load(Relaxed));
        let pause_after = |change: fn(&ReplicaRecord, Instant), second| {
            let now = begin + second * SECOND;
            change(&record, now);
            (next() - now).as_secs_f64()
        };
        let ejected = |second| pause_after(ReplicaRecord::eject, second);
        let trial_failed = |second| pause_after(ReplicaRecord::prolong, second);
        let (first, second, third) = (0.79..1.21, 1.59..2.41, 3.19..4.81);
        assert!(first.contains(&ejected(0)));
        assert!(second.contains(&trial_failed(1)));
        record.readmit(begin + 3 * SECOND);
        assert!(third.contains(&ejected(10)));
        record.readmit(begin + 20 * SECOND);
        assert!(first.contains(&ejected(100)));
        assert!(second.contains(&trial_failed(101)));
        record.hurry(begin + 102 * SECOND);
        assert_eq!(next(), begin + 102 * SECOND);
        assert!(
            first.contains(&trial_failed(102)),
            "the first trial may still be slow"
        );
    }

    #[test]
    fn a_replica_that_was_well_for_short_is_not_ejected_as_if_for_the_first_time() {
        let begin = Instant::now();
        let record = ReplicaRecord::new(begin);
        (0..2).for_each(|_| record.eject(begin));
        record.readmit(begin + 100 * SECOND);
        let again = begin + 130 * SECOND;
        record.eject(again);
        assert!(!record.take_trial(again + 3 * SECOND, again + 3 * SECOND));
        assert!(record.take_trial(again + 5 * SECOND, again + 5 * SECOND));
    }

    #[test]
    fn nothing_is_known_of_a_new_incarnation() {
        let now = Instant::now();
        let record = ReplicaRecord::new(now);
        record.add(now, 3, 1);
        record.fail();
        record.eject(now + SECOND);
        assert!(record.forget(), "an ejection has ended");
        assert!(!record.is_ejected());
        assert_eq!(record.failure_rate(now), FailureRate::default());
        assert_eq!(record.fail(), 1);
        assert!(!record.forget());
    }
}
