//! Models of the ejection of replicas.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use loom::{future::block_on, thread};
use tokio::time::Instant;

use super::{
    choice::replica_set::{Candidate, ReplicaSet},
    ejection::memory::{FailureRate, Memory, ReplicaRecord, Tally},
    ending::judgement::Judgement,
};
use crate::{check, telemetry::metrics::CountedReplica};

const SECOND: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Fake;

impl Candidate for Fake {
    fn cost(&self) -> f64 {
        1.0
    }

    fn cost_of_joining(&self) -> Option<f64> {
        None
    }
}

fn address(number: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, number).into()
}

/// A worker, which knows one replica.
struct Worker {
    memory: Arc<Memory>,
    record: Arc<ReplicaRecord>,
    replica_set: ReplicaSet<Fake>,
}

impl Worker {
    fn new(memory: &Arc<Memory>) -> Self {
        let record = memory.record(address(0));
        let mut replica_set = ReplicaSet::new(memory.clone());
        replica_set.join(CountedReplica::new(address(0)), record.clone());
        Self {
            memory: memory.clone(),
            record,
            replica_set,
        }
    }

    fn connect(&mut self, now: Instant) {
        self.replica_set.connect(address(0), Arc::new(Fake), now);
    }

    /// Learns of a call that began and ended now.
    fn end(&mut self, judgement: Judgement, now: Instant) {
        self.memory
            .learn(address(0), &self.record, judgement, now, now);
    }

    /// Whether the worker gives calls by what the record says, and tries the replica if it is ejected.
    #[track_caller]
    fn assert_is_right(&mut self, later: Instant) {
        let is_ejected = self.record.is_ejected();
        assert_eq!(
            self.replica_set.has_ejected(),
            is_ejected,
            "the worker knows"
        );
        if is_ejected {
            let trial = self.replica_set.take_trial(true, later);
            assert!(trial.is_some(), "a trial is due in the end");
        }
    }
}

/// Runs two workers side by side that know one of two replicas. Each gives a call in the end, and both must
/// agree with the record then.
fn beside(
    before: fn(&ReplicaRecord, Instant),
    one: fn(&mut Worker, Instant),
    other: fn(&mut Worker, Instant),
) {
    check(move || {
        let memory = Arc::new(Memory::default());
        let begin = Instant::now();
        let mut workers = [(); 2].map(|()| Worker::new(&memory));
        for worker in &mut workers {
            worker.connect(begin);
        }
        let _another_replica = memory.record(address(1));
        before(&workers[0].record, begin);
        let trial = begin + 100 * SECOND;
        let [mut first, mut second] = workers;
        let second = thread::spawn(move || {
            other(&mut second, trial);
            second.replica_set.has_ejected();
            second
        });
        one(&mut first, trial);
        first.replica_set.has_ejected();
        let mut second = second.join().expect("it ends");
        first.assert_is_right(trial + 1_000 * SECOND);
        second.assert_is_right(trial + 2_000 * SECOND);
    });
}

/// Of two trials at once, one succeeds and one fails.
pub fn workers_agree_where_trials_end_differently() {
    beside(
        ReplicaRecord::eject,
        |worker, trial| worker.end(Judgement::Success, trial),
        |worker, trial| worker.end(Judgement::Failure, trial),
    );
}

/// The address of an ejected replica gets another process just when a trial of the last one succeeds.
pub fn workers_agree_where_a_replica_is_forgotten_and_readmitted() {
    beside(
        ReplicaRecord::eject,
        |worker, trial| worker.end(Judgement::Success, trial),
        |worker, _| worker.memory.forget(&worker.record),
    );
}

/// The address gets another process just when the last one is ejected.
pub fn workers_agree_where_a_replica_is_forgotten_and_ejected() {
    beside(
        |record, _| (0..4).for_each(|_| _ = record.fail()),
        |worker, trial| worker.end(Judgement::Failure, trial),
        |worker, _| worker.memory.forget(&worker.record),
    );
}

/// Two workers find a trial that is due: one of them takes it, and the next one is due later.
pub fn a_trial_is_taken_once() {
    check(|| {
        let begin = Instant::now();
        let record = Arc::new(ReplicaRecord::new(begin));
        record.eject(begin);
        let trial = begin + 100 * SECOND;
        let takes = {
            let record = record.clone();
            move || record.take_trial(trial, trial)
        };
        let other = thread::spawn(takes.clone());
        let is_taken = takes();
        assert_ne!(is_taken, other.join().expect("it ends"));
        let later = trial + 100 * SECOND;
        assert!(record.take_trial(later, later));
    });
}

/// Two workers each see one of two replicas fail, which both did well before: one of them is ejected, as the
/// other must be left.
pub fn half_of_the_replicas_are_left() {
    check(|| {
        let memory = Arc::new(Memory::default());
        let now = Instant::now();
        let records = [0, 1].map(|number| memory.record(address(number)));
        let workers = [0, 1].map(|number| {
            let (memory, record) = (memory.clone(), memory.record(address(number)));
            record.add(now, 100, 0);
            (0..4).for_each(|_| _ = record.fail());
            move || {
                let address = address(number);
                memory.learn(address, &record, Judgement::Failure, now, now);
            }
        });
        let [one, other] = workers;
        let other = thread::spawn(other);
        one();
        other.join().expect("it ends");
        let ejected = records.iter().filter(|record| record.is_ejected());
        assert_eq!(ejected.count(), 1);
    });
}

/// Two workers are the first in a new part of the window: both count in it.
pub fn the_window_loses_no_call() {
    check(|| {
        let begin = Instant::now();
        let record = Arc::new(ReplicaRecord::new(begin));
        record.add(begin, 7, 7);
        // The part of the begin is used again.
        let now = begin + 10 * SECOND;
        let count = {
            let record = record.clone();
            move || {
                let tally = Tally::default();
                tally.add(&record, now);
                tally.flush(&record, now);
                record.add(now, 1, 1);
            }
        };
        let other = thread::spawn(count.clone());
        count();
        other.join().expect("it ends");
        let (calls, failures) = (4, 2);
        assert_eq!(record.failure_rate(now), FailureRate { calls, failures });
    });
}

/// A call waits for another replica while the only one is readmitted: it gets that one.
pub fn a_call_that_waits_hears_of_a_readmission() {
    check(|| {
        let memory = Arc::new(Memory::default());
        let begin = Instant::now();
        let [mut worker, other] = [(); 2].map(|()| Worker::new(&memory));
        other.record.eject(begin);
        worker.connect(begin);
        let waits = thread::spawn(move || {
            // As in `Balance`.
            loop {
                let readmitted = worker.memory.readmitted();
                if worker.replica_set.pick_other(&[]).is_some() {
                    break;
                }
                block_on(readmitted);
            }
        });
        memory.readmit(address(0), &other.record, begin + SECOND);
        waits.join().expect("it ends");
    });
}
