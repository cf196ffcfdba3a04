//! [`Memory`]: what the process remembers of the replicas of a channel, and which of them are
//! ejected. All workers share it, so that a bad replica costs the same few calls whatever their
//! number.
//!
//! A replica is ejected for its own failures, as [`Class`](crate::client::ending::class::Class) has them:
//!
//! - so many in a row, where calls that got no response for long count as well,
//! - as many connections in a row that ended with calls on them, each of which was opened after the end of the
//!   one before, and no call succeeded in between, or
//! - a failure rate over the last ten seconds that is clearly above that of the others.
//!   If all fail alike, nobody is an outlier.
//!
//! An ejected replica gets single idempotent calls as trials, after pauses that grow. The first
//! that succeeds ends the ejection.
//!
//! What belongs to a worker is not remembered here: lateness, streams.
//!
//! A record begins anew with each incarnation of a replica. That is when its address comes back to
//! the name, or when nobody is connected and an attempt to connect fails: then the process behind
//! the address is gone, and its successor has failed nothing. A connection that is lost and opened
//! again at once proves no new process. Only the connections in a row that ended with calls on them are
//! remembered: a process that ends with each call, and starts again each time, has failed as its predecessors
//! did.
//!
//! A [`ReplicaRecord`] is a few atomics, which all workers share. A [`Tally`] has the successes of a worker that
//! are still to be added to it.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::time::Instant;
use tracing::{info, warn};

use crate::{
    backoff::Backoff,
    client::ending::judgement::Judgement,
    sync::{
        Mutex, Notified, Notify,
        atomic::{
            AtomicU32, AtomicU64, AtomicUsize,
            Ordering::{AcqRel, Acquire, Relaxed},
        },
        lock,
    },
};

/// The failures in a row that eject a replica (Envoy's figure).
const IN_A_ROW: u32 = 5;

/// The fewest failures that make a failure rate.
const FEWEST: u32 = 3;

/// How many standard deviations the failures of an outlier are above those that the failure rate of
/// the others predicts. Each failure is an evaluation, so chance must be rare.
const DEVIATIONS: f64 = 4.0;

/// What the process remembers of the replicas of a channel.
#[derive(Debug)]
pub(crate) struct Memory {
    epoch: Instant,
    /// The records of the addresses that a worker knows, in an order that is the same in each run.
    records: Mutex<BTreeMap<SocketAddr, Weak<ReplicaRecord>>>,
    /// The number of changes of who is ejected. A worker that sees the number sees the changes.
    changes: AtomicU64,
    readmitted: Notify,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            epoch: Instant::now(),
            records: Mutex::default(),
            changes: AtomicU64::new(0),
            readmitted: Notify::new(),
        }
    }
}

impl Memory {
    /// The record of an address, which lasts for as long as a worker holds it.
    pub(crate) fn record(&self, address: SocketAddr) -> Arc<ReplicaRecord> {
        let mut records = lock(&self.records);
        if let Some(record) = records.get(&address).and_then(Weak::upgrade) {
            return record;
        }
        records.retain(|_, record| record.strong_count() > 0);
        let record = Arc::new(ReplicaRecord::new(self.epoch));
        records.insert(address, Arc::downgrade(&record));
        record
    }

    /// Grows with each ejection and each end of one.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Acquire)
    }

    /// Waits until an ejection ends, from now on.
    pub(crate) fn readmitted(&self) -> Notified<'_> {
        self.readmitted.notified()
    }

    /// Counts a call that ended `now`, as its ending was judged.
    pub(crate) fn learn(
        &self,
        address: SocketAddr,
        record: &ReplicaRecord,
        judgement: Judgement,
        start: Instant,
        now: Instant,
    ) {
        match judgement {
            Judgement::Nothing => return,
            Judgement::Success => {
                record.succeed();
                if record.was_trial(start) {
                    self.readmit(address, record, now);
                }
                return;
            }
            Judgement::NoResponse => record.add(now, 1, 0),
            Judgement::Failure | Judgement::Ambiguous | Judgement::Lost => record.add(now, 1, 1),
        }
        let in_a_row = match judgement {
            Judgement::Failure | Judgement::NoResponse => record.fail(),
            Judgement::Lost => record.lose(),
            _ => 0,
        };
        if record.is_ejected() {
            if record.was_trial(start) {
                record.prolong(now);
            }
        } else if in_a_row >= IN_A_ROW || record.failure_rate(now).failures >= FEWEST {
            self.judge(address, record, in_a_row, now);
        }
    }

    /// Ejects a replica if the others do better, and enough of them are left.
    fn judge(&self, address: SocketAddr, record: &ReplicaRecord, in_a_row: u32, now: Instant) {
        let records = lock(&self.records);
        let (mut known, mut ejected, mut others) = (0, 0, FailureRate::default());
        for one in records.values().filter_map(Weak::upgrade) {
            known += 1;
            if one.is_ejected() {
                ejected += 1;
            } else if !std::ptr::eq(&raw const *one, record) {
                others += one.failure_rate(now);
            }
        }
        let has_room = (ejected + 1) * 2 <= known;
        let own = record.failure_rate(now);
        let is_bad = in_a_row >= IN_A_ROW && 2 * others.failures <= others.calls;
        if !has_room || record.is_ejected() || !(is_bad || is_outlier(own, others)) {
            return;
        }
        record.eject(now);
        self.changes.fetch_add(1, AcqRel);
        warn!(
            action = "replica", status = "ejected", replica = %address,
            failures = own.failures, calls = own.calls,
            "a replica fails; single calls try it from now on"
        );
    }

    /// Ends an ejection.
    pub(crate) fn readmit(&self, address: SocketAddr, record: &ReplicaRecord, now: Instant) {
        record.readmit(now);
        self.changes.fetch_add(1, AcqRel);
        self.readmitted.notify_waiters();
        info!(
            action = "replica", status = "up", replica = %address,
            "a replica gets calls again"
        );
    }

    /// Begins the record of a replica anew.
    pub(crate) fn forget(&self, record: &ReplicaRecord) {
        if record.forget() {
            self.changes.fetch_add(1, AcqRel);
            self.readmitted.notify_waiters();
        }
    }
}

/// Whether the failures are clearly more than the failure rate of the others predicts.
fn is_outlier(own: FailureRate, others: FailureRate) -> bool {
    let (calls, failures) = (f64::from(own.calls), f64::from(own.failures));
    // Laplace's rule: a few good calls prove little.
    let share = (f64::from(others.failures) + 1.0) / (f64::from(others.calls) + 2.0);
    let expected = calls * share;
    let deviation = (expected * (1.0 - share)).max(0.0).sqrt();
    own.failures >= FEWEST && failures - expected > DEVIATIONS * deviation
}

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
    /// The connections that ended with calls on them, since the last success.
    losses_in_a_row: AtomicU32,
    /// When the last of them ended.
    lost: AtomicU64,
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
            losses_in_a_row: AtomicU32::new(0),
            lost: AtomicU64::new(0),
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

    /// Notes that a connection has ended that was `opened` then. Returns whether it is another one than those
    /// that were open at the last end: all of them may have ended together.
    pub(crate) fn is_lost_anew(&self, opened: Instant, now: Instant) -> bool {
        let last = self.lost.load(Relaxed);
        let now = self.micros(now);
        self.micros(opened) > last
            && self
                .lost
                .compare_exchange(last, now, Relaxed, Relaxed)
                .is_ok()
    }

    /// Counts a connection that has ended. Returns how many did in a row.
    pub(crate) fn lose(&self) -> u32 {
        self.losses_in_a_row.fetch_add(1, Relaxed).saturating_add(1)
    }

    /// Ends the rows of failures and of lost connections.
    pub(crate) fn succeed(&self) {
        for in_a_row in [&self.failures_in_a_row, &self.losses_in_a_row] {
            if in_a_row.load(Relaxed) > 0 {
                in_a_row.store(0, Relaxed);
            }
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
        // The next loss counts, also of a connection that is older than the last one.
        self.lost.store(0, Relaxed);
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

    /// Forgets everything but the connections. Returns whether that has ended an ejection: one for connections
    /// that ended in a row goes on.
    pub(crate) fn forget(&self) -> bool {
        // Most parts of a replica that can't be connected are empty.
        for part in self.window.iter().filter(|part| part.0.load(Relaxed) > 0) {
            part.0.store(0, Relaxed);
        }
        self.failures_in_a_row.store(0, Relaxed);
        if self.losses_in_a_row.load(Relaxed) >= IN_A_ROW {
            return false;
        }
        self.ejections.store(0, Relaxed);
        for time in [&self.readmitted, &self.next_trial] {
            time.store(0, Relaxed);
        }
        self.ejected.swap(0, Relaxed) > 0
    }
}

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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn address(number: usize) -> SocketAddr {
        ([127, 0, 0, 1], u16::try_from(number).unwrap()).into()
    }

    /// A memory of so many replicas.
    struct Replicas {
        memory: Memory,
        records: Vec<Arc<ReplicaRecord>>,
    }

    impl Replicas {
        fn new(count: usize) -> Self {
            let memory = Memory::default();
            let records = (0..count).map(|number| memory.record(address(number)));
            let records = records.collect();
            Self { memory, records }
        }

        fn end(&self, number: usize, judgement: Judgement, now: Instant) {
            let record = &self.records[number];
            if judgement == Judgement::Success {
                record.add(now, 1, 0);
            }
            self.memory
                .learn(address(number), record, judgement, now, now);
        }

        fn ejected(&self) -> usize {
            self.records.iter().filter(|it| it.is_ejected()).count()
        }

        /// Calls go to all in turn, a hundred a second, and this share of them fails at each.
        /// Returns after how many failures of the first it was ejected.
        fn run(&self, shares: &[f64], seconds: u32, judgement: Judgement) -> Option<u32> {
            let mut random = fastrand::Rng::with_seed(7);
            let mut failures = 0;
            let calls = 100 * seconds / u32::try_from(shares.len()).unwrap();
            for call in 0..calls {
                let now = self.memory.epoch + call * seconds * SECOND / calls;
                for (number, share) in shares.iter().enumerate() {
                    let fails = random.f64() < *share;
                    failures += u32::from(fails && number == 0);
                    self.end(
                        number,
                        if fails { judgement } else { Judgement::Success },
                        now,
                    );
                }
                if self.records[0].is_ejected() {
                    return Some(failures);
                }
            }
            None
        }
    }

    #[test]
    fn a_replica_that_fails_more_than_the_others_is_ejected_after_few_failures() {
        for judgement in [Judgement::Failure, Judgement::Ambiguous] {
            for (share, most) in [(1.0, 5), (0.3, 6), (0.1, 8)] {
                for others in [1, 2, 9] {
                    let mut shares = vec![0.0; others + 1];
                    shares[0] = share;
                    let after = Replicas::new(shares.len()).run(&shares, 60, judgement);
                    let after = after.expect("it is found");
                    assert!(after <= most, "{share} of {others}: after {after} failures");
                }
            }
        }
    }

    #[test]
    fn nobody_is_an_outlier_where_all_fail_alike() {
        for share in [0.02, 0.1, 0.3] {
            let replicas = Replicas::new(2);
            assert_eq!(
                replicas.run(&[share; 2], 60, Judgement::Ambiguous),
                None,
                "{share}"
            );
        }
        let replicas = Replicas::new(2);
        assert_eq!(replicas.run(&[1.0; 2], 60, Judgement::Failure), None);
        assert_eq!(replicas.ejected(), 0);
    }

    #[test]
    fn at_most_half_are_ejected_and_never_the_only_one() {
        for (count, most) in [(1, 0), (2, 1), (3, 1), (4, 2), (9, 4)] {
            let replicas = Replicas::new(count);
            let now = replicas.memory.epoch;
            for number in 0..count {
                for _ in 0..IN_A_ROW {
                    replicas.end(number, Judgement::Failure, now);
                }
                // The others are well.
                for other in number + 1..count {
                    (0..20).for_each(|_| replicas.end(other, Judgement::Success, now));
                }
            }
            assert!(
                replicas.ejected() <= most,
                "{count}: {}",
                replicas.ejected()
            );
            assert!(count == 1 || replicas.ejected() > 0, "{count}");
        }
    }

    #[test]
    fn a_success_ends_a_row_and_a_doubt_neither_makes_nor_ends_one() {
        let replicas = Replicas::new(2);
        let now = replicas.memory.epoch;
        let (row, mut rest) = (IN_A_ROW - 1, 0);
        for judgement in [Judgement::Ambiguous, Judgement::Nothing] {
            (0..row).for_each(|_| rest = replicas.records[0].fail());
            replicas.end(0, judgement, now);
            assert_eq!(rest, row, "{judgement:?}");
            replicas.records[0].succeed();
        }
        (0..row).for_each(|_| rest = replicas.records[0].fail());
        replicas.end(0, Judgement::Success, now);
        assert_eq!(replicas.records[0].fail(), 1);
    }

    /// A connection ends with the calls on it, and with others.
    fn lose(replicas: &Replicas, opened: Instant, now: Instant) {
        for _ in 0..20 {
            let is_anew = replicas.records[0].is_lost_anew(opened, now);
            let judgement = if is_anew {
                Judgement::Lost
            } else {
                Judgement::Nothing
            };
            replicas.end(0, judgement, now);
        }
    }

    #[test]
    fn a_replica_whose_connections_end_in_a_row_is_ejected_also_if_its_process_does() {
        for is_gone in [false, true] {
            let replicas = Replicas::new(2);
            let opened = |round| replicas.memory.epoch + round * 20 * SECOND + SECOND;
            for round in 0..IN_A_ROW {
                assert_eq!(replicas.ejected(), 0, "after {round}");
                lose(&replicas, opened(round), opened(round) + SECOND);
                if is_gone {
                    replicas.memory.forget(&replicas.records[0]);
                }
            }
            assert_eq!(replicas.ejected(), 1);
            replicas.memory.forget(&replicas.records[0]);
            assert_eq!(replicas.ejected(), 1, "its successor may do the same");
            replicas.end(0, Judgement::Success, opened(100));
            assert_eq!(replicas.ejected(), 0);
            assert_eq!(replicas.records[0].lose(), 1);
        }
    }

    #[test]
    fn a_replica_is_not_ejected_that_was_killed_once_or_serves_calls_in_between() {
        let replicas = Replicas::new(2);
        let begin = replicas.memory.epoch;
        // The workers see it one after another, and the first is connected again.
        (0..50).for_each(|worker| lose(&replicas, begin, begin + worker * SECOND / 50));
        assert_eq!(replicas.records[0].lose(), 2);
        for round in 1..50 {
            let opened = begin + round * 10 * SECOND;
            replicas.end(0, Judgement::Success, opened);
            lose(&replicas, opened, opened + SECOND);
        }
        assert_eq!(replicas.ejected(), 0);
    }

    #[test]
    fn a_health_check_does_not_make_up_for_lost_connections() {
        let replicas = Replicas::new(2);
        let mut opened = replicas.memory.epoch + SECOND;
        for _ in 0..IN_A_ROW {
            lose(&replicas, opened, opened + SECOND);
            opened += 20 * SECOND;
        }
        let (address, record) = (address(0), &replicas.records[0]);
        replicas.memory.readmit(address, record, opened);
        assert_eq!(replicas.ejected(), 0);
        let of_another_worker = replicas.memory.epoch + SECOND;
        lose(&replicas, of_another_worker, opened + SECOND);
        assert_eq!(replicas.ejected(), 1);
    }

    /// Any replica is slow now and then. One that is nothing else is found.
    #[test]
    fn silence_ejects_a_replica_only_in_a_row() {
        assert_eq!(
            Replicas::new(2).run(&[0.1, 0.0], 60, Judgement::NoResponse),
            None
        );
        let found = Replicas::new(2).run(&[1.0, 0.0], 60, Judgement::NoResponse);
        assert_eq!(found, Some(IN_A_ROW));
    }

    #[test]
    fn a_trial_that_succeeds_ends_an_ejection_and_one_that_fails_prolongs_it() {
        let replicas = Replicas::new(2);
        let begin = replicas.memory.epoch + SECOND;
        (0..IN_A_ROW).for_each(|_| replicas.end(0, Judgement::Failure, begin));
        assert_eq!(replicas.ejected(), 1);
        replicas.end(0, Judgement::Success, begin);
        assert_eq!(replicas.ejected(), 1, "the call began before");
        let record = &replicas.records[0];
        let tries = |at| record.take_trial(at, at);
        assert!(!tries(begin + SECOND / 2));
        let trial = begin + 2 * SECOND;
        assert!(tries(trial));
        replicas.end(0, Judgement::Failure, trial);
        assert!(!tries(trial + SECOND));
        let trial = trial + 3 * SECOND;
        assert!(tries(trial));
        replicas.end(0, Judgement::Success, trial);
        assert_eq!(replicas.ejected(), 0);
    }

    #[test]
    fn an_address_that_comes_back_starts_clean() {
        let mut replicas = Replicas::new(2);
        let now = replicas.memory.epoch;
        (0..IN_A_ROW).for_each(|_| replicas.end(0, Judgement::Failure, now));
        let same = replicas.memory.record(address(0));
        assert!(same.is_ejected(), "another worker still knows it");
        drop(same);
        replicas.records.clear();
        assert!(!replicas.memory.record(address(0)).is_ejected());
    }

    #[test]
    fn an_outlier_is_four_standard_deviations_above_the_others() {
        let rate = |calls, failures| FailureRate { calls, failures };
        // Half of the calls fail elsewhere, or nobody knows: 50 of 100 with a deviation of 5.
        for others in [rate(10, 5), rate(0, 0)] {
            assert!(!is_outlier(rate(100, 70), others));
            assert!(is_outlier(rate(100, 71), others));
        }
        // One of 102, by Laplace's rule: 0.98 with a deviation of 0.985.
        let well = rate(100, 0);
        assert!(!is_outlier(rate(100, 4), well));
        assert!(is_outlier(rate(100, 5), well));
        assert!(!is_outlier(rate(3, 2), well), "two are too few");
        assert!(is_outlier(rate(3, 3), well));
    }

    #[test]
    fn an_address_that_nobody_knows_is_forgotten() {
        let mut replicas = Replicas::new(3);
        replicas.records.truncate(1);
        let _new = replicas.memory.record(address(3));
        let known: Vec<_> = lock(&replicas.memory.records).keys().copied().collect();
        assert_eq!(known, [address(0), address(3)]);
    }

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
