//! [`Balancer`]: the replicas of a service, for the tasks and the calls of a worker.
//!
//! While no replica is connected, calls wait, but not for long: when a service has been away for
//! `FAILFAST`, its calls fail at once until it is back.

use std::{
    collections::HashMap,
    net::SocketAddr,
    slice,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    select,
    sync::{Notify, watch},
    time::{Instant, timeout_at},
};

use super::replica_set::{Candidate, ReplicaSet};
use crate::{
    client::{
        ejection::{
            memory::{Memory, ReplicaRecord},
            state::{Event, State},
        },
        ending::{class::Ending, failure::Failure},
    },
    limits,
    sync::lock,
    telemetry::metrics::{self, CountedReplica},
};

/// Counts the waiting calls and the connections of a channel, over all workers. Clones share their
/// state.
#[derive(Debug, Clone, Default)]
pub(crate) struct ChannelCounts {
    calls: Arc<AtomicUsize>,
    connections: Arc<AtomicUsize>,
}

/// A connection that counts among those of the process.
#[derive(Debug)]
pub(crate) struct CountedConnection(Arc<AtomicUsize>);

impl Drop for CountedConnection {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// The permit of a call that waits for a replica.
struct WaitingPermit<'a> {
    process: &'a AtomicUsize,
    worker: &'a AtomicUsize,
}

impl<'a> WaitingPermit<'a> {
    /// Takes a permit, or returns `None` if all are taken.
    fn take(process: &'a ChannelCounts, worker: &'a AtomicUsize) -> Option<Self> {
        worker.fetch_add(1, Relaxed);
        let process = &*process.calls;
        let place = Self { process, worker };
        (process.fetch_add(1, Relaxed) < limits::MAX_CALLS_WITHOUT_REPLICA).then_some(place)
    }
}

impl Drop for WaitingPermit<'_> {
    fn drop(&mut self) {
        self.process.fetch_sub(1, Relaxed);
        self.worker.fetch_sub(1, Relaxed);
    }
}

/// The replicas of a service, as one worker sees them. Clones share their state.
#[derive(Debug)]
pub(crate) struct Balancer<R>(Arc<Shared<R>>);

#[derive(Debug)]
struct Shared<R> {
    /// Each worker has its own, so the lock is uncontended.
    replica_set: Mutex<ReplicaSet<R>>,
    /// What all workers know.
    memory: Arc<Memory>,
    /// Since when no replica has been connected; `None` while one is.
    away: watch::Sender<Option<Instant>>,
    failfast: Duration,
    /// The calls that wait in the process, and on this worker.
    waiting: ChannelCounts,
    waiting_here: AtomicUsize,
    /// Notified by each call that finds no replica, whether or not the call waits.
    wanted: Notify,
    reachability: Notify,
    /// Notified whenever a replica may have come up.
    came_up: Notify,
}

impl<R> Clone for Balancer<R> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<R: Candidate> Balancer<R> {
    /// Creates a balancer without replicas. The service counts as away from now on.
    pub(crate) fn new(failfast: Duration, waiting: ChannelCounts, memory: Arc<Memory>) -> Self {
        Self(Arc::new(Shared {
            replica_set: Mutex::new(ReplicaSet::new(memory.clone())),
            memory,
            away: watch::Sender::new(Some(Instant::now())),
            failfast,
            waiting,
            waiting_here: AtomicUsize::new(0),
            wanted: Notify::new(),
            reachability: Notify::new(),
            came_up: Notify::new(),
        }))
    }

    /// Adds a replica that is not connected yet. It leaves when the result is dropped.
    pub(crate) fn join(&self, address: SocketAddr) -> Membership<R> {
        let counted = CountedReplica::new(address);
        let record = self.0.memory.record(address);
        let membership = Membership {
            balancer: self.clone(),
            address,
            metrics: counted.replica.clone(),
            record: record.clone(),
        };
        self.lock().join(counted, record);
        membership
    }

    /// Marks the replica at this address as connected.
    pub(crate) fn connect(&self, address: SocketAddr, replica: Arc<R>) {
        self.lock().connect(address, replica, Instant::now());
        self.0.away.send_replace(None);
        self.0.reachability.notify_one();
        self.0.came_up.notify_waiters();
    }

    /// Applies an event to the replica at this address. Returns whether its state has changed.
    pub(crate) fn apply(&self, address: SocketAddr, event: Event) -> bool {
        let now = Instant::now();
        let is_changed = self.lock().apply(address, event, now);
        if !is_changed {
            return false;
        }
        self.0.came_up.notify_waiters();
        if matches!(event, Event::Closed | Event::ConnectFailed) {
            self.0.reachability.notify_one();
            let is_away = !self.lock().is_any_connected();
            self.0.away.send_if_modified(|since| {
                let is_new = is_away && since.is_none();
                if is_new {
                    *since = Some(now);
                }
                is_new
            });
        }
        true
    }

    /// Notes that the connection of `replica` takes no new calls. Does nothing if another
    /// connection has taken its place.
    pub(crate) fn close(&self, address: SocketAddr, replica: &R) {
        if self.lock().is_connected_as(address, replica) {
            self.apply(address, Event::Closed);
        }
    }

    /// Counts the only connection to a replica.
    pub(crate) fn count_connection(&self) -> CountedConnection {
        let connections = self.0.waiting.connections.clone();
        connections.fetch_add(1, Relaxed);
        CountedConnection(connections)
    }

    /// Counts a further connection to a replica, unless the process has as many as it may.
    pub(crate) fn count_further_connection(&self) -> Option<CountedConnection> {
        let counted = self.count_connection();
        (counted.0.load(Relaxed) <= limits::MAX_CHANNEL_CONNECTIONS).then_some(counted)
    }

    /// What all workers know of the replicas.
    pub(crate) fn memory(&self) -> &Memory {
        &self.0.memory
    }

    /// Waits until a replica is connected, can't be connected, or loses its connection.
    pub(crate) async fn reachability_changed(&self) {
        self.0.reachability.notified().await;
    }

    /// The state of each replica.
    pub(crate) fn states(&self) -> HashMap<SocketAddr, State> {
        self.lock().states().collect()
    }

    /// Picks the replica for the next attempt, if possible none of those that were `tried`. An attempt of a
    /// cheap call may go together with others. Waits while no replica is connected.
    pub(crate) async fn pick(&self, tried: &[Arc<R>], is_cheap: bool) -> Result<Arc<R>, Failure> {
        loop {
            if let Some(replica) = self.pick_now(tried, is_cheap) {
                return Ok(replica);
            }
            // Boxed, as the wait is rare and its future is large.
            Box::pin(self.wait()).await?;
        }
    }

    pub(crate) fn pick_now(&self, tried: &[Arc<R>], is_cheap: bool) -> Option<Arc<R>> {
        self.lock().pick(tried, is_cheap)
    }

    /// Takes the trial of an ejected replica whose pause is over, if there is one. An idempotent call
    /// may be the trial; otherwise a health check is, a little later.
    pub(crate) fn take_trial(&self, is_idempotent: bool) -> Option<Arc<R>> {
        let mut replica_set = self.lock();
        // Few calls need the time.
        let now = replica_set.has_ejected().then(Instant::now)?;
        replica_set.take_trial(is_idempotent, now)
    }

    /// Picks a replica that is up and was not `tried`.
    pub(crate) fn pick_other(&self, tried: &[Arc<R>]) -> Option<Arc<R>> {
        self.lock().pick_other(tried)
    }

    /// Waits until a replica is up other than `late`: if possible, one that was not `tried`.
    pub(crate) async fn other(&self, late: &Arc<R>, tried: &[Arc<R>]) -> Arc<R> {
        loop {
            let came_up = self.0.came_up.notified();
            let readmitted = self.0.memory.readmitted();
            let other = self.pick_other(tried);
            if let Some(other) = other.or_else(|| self.pick_other(slice::from_ref(late))) {
                return other;
            }
            select! {
                () = came_up => {}
                () = readmitted => {}
            }
        }
    }

    /// Whether a replica other than this one is up.
    pub(crate) fn has_other(&self, replica: &Arc<R>) -> bool {
        self.lock().has_other(replica)
    }

    /// The number of replicas that are up.
    #[cfg(test)]
    pub(crate) fn count_up(&self) -> usize {
        self.lock().count_up()
    }

    /// Waits until a replica may be connected.
    async fn wait(&self) -> Result<(), Failure> {
        let mut away = self.0.away.subscribe();
        let Some(since) = *away.borrow_and_update() else {
            return Ok(());
        };
        self.0.wanted.notify_waiters();
        let place = WaitingPermit::take(&self.0.waiting, &self.0.waiting_here);
        let Some(_place) = place else {
            let why = "too many calls wait for a replica";
            return Err(Failure::new(Ending::NoReplica, why));
        };
        match timeout_at(since + self.0.failfast, away.wait_for(Option::is_none)).await {
            Ok(_) => Ok(()),
            Err(_) => Err(Failure::new(Ending::NoReplica, "no replica can be reached")),
        }
    }

    /// Waits until a call finds no replica.
    pub(crate) async fn wanted(&self) {
        let wanted = self.0.wanted.notified();
        if self.0.waiting_here.load(Relaxed) == 0 {
            wanted.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, ReplicaSet<R>> {
        lock(&self.0.replica_set)
    }
}

/// A replica of a balancer. It leaves when this is dropped.
#[derive(Debug)]
pub(crate) struct Membership<R: Candidate> {
    pub(crate) balancer: Balancer<R>,
    pub(crate) address: SocketAddr,
    pub(crate) metrics: Arc<metrics::ReplicaMetrics>,
    pub(crate) record: Arc<ReplicaRecord>,
}

impl<R: Candidate> Drop for Membership<R> {
    fn drop(&mut self) {
        self.balancer.apply(self.address, Event::Closed);
        self.balancer.lock().leave(self.address);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{advance, sleep};

    use super::*;

    const FAILFAST: Duration = Duration::from_secs(3);

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

    /// A balance with one replica that is not connected.
    fn balancer() -> (Balancer<Fake>, Membership<Fake>) {
        let balancer = Balancer::new(FAILFAST, ChannelCounts::default(), Arc::default());
        let membership = balancer.join(([127, 0, 0, 1], 1).into());
        (balancer, membership)
    }

    impl Membership<Fake> {
        fn connect(&self) {
            self.balancer.connect(self.address, Arc::new(Fake));
        }

        fn close(&self) {
            self.balancer.apply(self.address, Event::Closed);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn calls_wait_for_a_replica_that_comes_back_in_time() {
        let (balancer, replica) = balancer();
        let call = tokio::spawn(async move { balancer.pick(&[], false).await.is_ok() });
        sleep(FAILFAST * 9 / 10).await;
        replica.connect();
        assert!(call.await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn calls_to_a_service_that_is_away_for_too_long_fail_at_once_until_it_is_back() {
        let (balancer, replica) = balancer();
        advance(Duration::from_secs(1)).await;
        let begin = Instant::now();
        assert!(balancer.pick(&[], false).await.is_err());
        let waited = begin.elapsed();
        assert_eq!(
            waited,
            Duration::from_secs(2),
            "counted from the start of the absence"
        );
        let begin = Instant::now();
        assert!(balancer.pick(&[], false).await.is_err());
        assert_eq!(begin.elapsed(), Duration::ZERO);
        replica.connect();
        assert!(balancer.pick(&[], false).await.is_ok());
        replica.close();
        let begin = Instant::now();
        assert!(balancer.pick(&[], false).await.is_err());
        assert_eq!(begin.elapsed(), FAILFAST, "a new absence");
    }

    #[tokio::test(start_paused = true)]
    async fn a_balance_whose_last_replica_leaves_has_none() {
        let (balancer, replica) = balancer();
        replica.connect();
        drop(replica);
        assert!(balancer.pick_now(&[], false).is_none());
        let begin = Instant::now();
        assert!(balancer.pick(&[], false).await.is_err());
        assert_eq!(begin.elapsed(), FAILFAST);
    }

    #[tokio::test(start_paused = true)]
    async fn the_waiting_calls_of_all_workers_have_one_limit() {
        let waiting = ChannelCounts::default();
        let workers =
            [0; 2].map(|_| Balancer::<Fake>::new(FAILFAST, waiting.clone(), Arc::default()));
        let mut calls = Vec::new();
        for number in 0..limits::MAX_CALLS_WITHOUT_REPLICA {
            let balancer = workers[number % 2].clone();
            calls.push(tokio::spawn(async move {
                balancer.pick(&[], false).await.is_ok()
            }));
        }
        let is_full = || waiting.calls.load(Relaxed) == limits::MAX_CALLS_WITHOUT_REPLICA;
        while !is_full() {
            tokio::task::yield_now().await;
        }
        let begin = Instant::now();
        assert!(workers[0].pick(&[], false).await.is_err());
        assert_eq!(begin.elapsed(), Duration::ZERO, "no place to wait");
        calls.pop().unwrap().abort();
        while is_full() {
            tokio::task::yield_now().await;
        }
        let call = workers[0].pick(&[], false);
        let waits = tokio::time::timeout(Duration::from_secs(1), call).await;
        assert!(waits.is_err(), "the call waits in the place that was left");
        for call in calls {
            assert!(!call.await.unwrap());
        }
        assert_eq!(waiting.calls.load(Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_keeper_learns_that_a_replica_is_wanted() {
        let (balancer, _replica) = balancer();
        let wanted = tokio::spawn({
            let balancer = balancer.clone();
            async move { balancer.wanted().await }
        });
        // Long after calls have begun to fail at once.
        sleep(FAILFAST * 2).await;
        assert!(!wanted.is_finished());
        assert!(balancer.pick(&[], false).await.is_err());
        assert!(wanted.await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn an_absence_begins_with_the_loss_of_the_last_connection_and_not_anew_with_each_failure()
    {
        let (balancer, replica) = balancer();
        replica.connect();
        replica.close();
        let begin = Instant::now();
        advance(FAILFAST / 2).await;
        balancer.apply(replica.address, Event::ConnectFailed);
        assert!(balancer.pick(&[], false).await.is_err());
        assert_eq!(begin.elapsed(), FAILFAST);
    }

    #[tokio::test(start_paused = true)]
    async fn a_replica_has_another_while_that_is_up() {
        let (balancer, replica) = balancer();
        replica.connect();
        let only = balancer.pick_now(&[], false).expect("it is up");
        assert!(!balancer.has_other(&only));
        let second = balancer.join(([127, 0, 0, 1], 2).into());
        second.connect();
        assert!(balancer.has_other(&only));
        second.close();
        assert!(!balancer.has_other(&only));
    }
}
