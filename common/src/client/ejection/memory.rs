//! [`Memory`]: what the process remembers of the replicas of a channel, and which of them are
//! ejected. All workers share it, so that a bad replica costs the same few calls whatever their
//! number.
//!
//! A replica is ejected for its own failures, as [`Class`](crate::client::ending::class::Class) has them:
//!
//! - so many in a row, where calls that got no response for long count as well, or
//! - a failure rate over the last ten seconds that is clearly above that of the others.
//!   If all fail alike, nobody is an outlier.
//!
//! An ejected replica gets single idempotent calls as trials, after pauses that grow. The first
//! that succeeds ends the ejection.
//!
//! What belongs to a worker is not remembered here: a lost connection, lateness, streams.
//!
//! A record begins anew with each incarnation of a replica. That is when its address comes back to
//! the name, or when nobody is connected and an attempt to connect fails: then the process behind
//! the address is gone, and its successor has failed nothing. A connection that is lost and opened
//! again at once proves no new process.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Weak},
};

use tokio::time::Instant;
use tracing::{info, warn};

use super::record::{FailureRate, ReplicaRecord};
use crate::{
    client::ending::judgement::Judgement,
    lock::lock,
    sync::{
        Mutex, Notified, Notify,
        atomic::{
            AtomicU64,
            Ordering::{AcqRel, Acquire},
        },
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
            Judgement::Failure | Judgement::Ambiguous => record.add(now, 1, 1),
        }
        let in_a_row = match judgement {
            Judgement::Failure | Judgement::NoResponse => record.fail(),
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
}
