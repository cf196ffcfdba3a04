//! [`Balance`]: the replicas of a service, as its keepers and its calls see them.
//!
//! While no replica is connected, calls wait, but not for long: a service that has been away for
//! `FAILFAST` is taken to be away for good, and its calls fail at once until it is back.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    time::{Instant, timeout_at},
};

use super::{
    members::{Candidate, Members},
    state::Event,
};
use crate::{client::Failure, lock::lock, metrics::CountedReplica};

/// Calls of a channel that may wait for a replica, in the whole process. A waiting call has
/// about 4 KiB of memory.
const MAX_WAITING: usize = 8_192;

/// The number of calls that wait for a replica, in the whole process. Clones share it.
#[derive(Debug, Clone, Default)]
pub(in crate::client) struct Waiting(Arc<AtomicUsize>);

/// A place among the calls that wait.
struct Place<'a> {
    process: &'a AtomicUsize,
    worker: &'a AtomicUsize,
}

impl<'a> Place<'a> {
    fn take(process: &'a Waiting, worker: &'a AtomicUsize) -> Option<Self> {
        worker.fetch_add(1, Ordering::Relaxed);
        let process = &process.0;
        let place = Self { process, worker };
        (process.fetch_add(1, Ordering::Relaxed) < MAX_WAITING).then_some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.process.fetch_sub(1, Ordering::Relaxed);
        self.worker.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The replicas of a service, as one worker sees them. Clones share their state.
#[derive(Debug)]
pub(in crate::client) struct Balance<R>(Arc<Shared<R>>);

#[derive(Debug)]
struct Shared<R> {
    /// Never waited for: each worker has its own.
    members: Mutex<Members<R>>,
    /// Since when no replica has been connected, if none is.
    away: watch::Sender<Option<Instant>>,
    failfast: Duration,
    /// The calls that wait in the process, and on this worker.
    waiting: Waiting,
    waiting_here: AtomicUsize,
    /// Notified of each call that finds no replica, also of one that does not wait.
    wanted: Notify,
    reachability: Notify,
}

impl<R> Clone for Balance<R> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// A [`Balance`] that does not keep its replicas alive.
#[derive(Debug)]
pub(super) struct WeakBalance<R>(Weak<Shared<R>>);

impl<R> WeakBalance<R> {
    pub(super) fn upgrade(&self) -> Option<Balance<R>> {
        self.0.upgrade().map(Balance)
    }
}

impl<R: Candidate> Balance<R> {
    /// Without replicas yet, as of now.
    pub(in crate::client) fn new(failfast: Duration, waiting: Waiting) -> Self {
        Self(Arc::new(Shared {
            members: Mutex::default(),
            away: watch::Sender::new(Some(Instant::now())),
            failfast,
            waiting,
            waiting_here: AtomicUsize::new(0),
            wanted: Notify::new(),
            reachability: Notify::new(),
        }))
    }

    pub(super) fn downgrade(&self) -> WeakBalance<R> {
        WeakBalance(Arc::downgrade(&self.0))
    }

    /// Adds a replica, which is not connected yet, for as long as the result is there.
    pub(super) fn join(&self, counted: CountedReplica) -> Membership<R> {
        let address = counted.address;
        self.lock().join(counted);
        Membership {
            balance: self.clone(),
            address,
        }
    }

    /// The replica is connected.
    pub(super) fn connected(&self, address: SocketAddr, replica: Arc<R>) {
        self.change(address, Event::Connected, Some(replica));
        self.0.away.send_replace(None);
    }

    /// Something happened to the replica. Returns whether that changed its state.
    pub(super) fn tell(&self, address: SocketAddr, event: Event) -> bool {
        let is_changed = self.change(address, event, None);
        if matches!(event, Event::Closed | Event::ConnectFailed) {
            self.note_absence();
        }
        is_changed
    }

    /// The connection of the replica takes no new calls, if `replica` still is what is connected.
    pub(super) fn close(&self, address: SocketAddr, replica: &R) {
        if self.lock().is_connected_as(address, replica) {
            self.tell(address, Event::Closed);
        }
    }

    fn change(&self, address: SocketAddr, event: Event, connected: Option<Arc<R>>) -> bool {
        let now = Instant::now();
        let is_changed = self.lock().change(address, event, connected, now);
        if matches!(
            event,
            Event::Connected | Event::Closed | Event::ConnectFailed
        ) {
            self.0.reachability.notify_one();
        }
        is_changed
    }

    fn note_absence(&self) {
        if self.lock().is_any_connected() {
            return;
        }
        self.0.away.send_if_modified(|since| {
            since.is_none() && {
                *since = Some(Instant::now());
                true
            }
        });
    }

    /// Waits until a replica is connected, or can't be, or is no more.
    pub(super) async fn reachability_changed(&self) {
        self.0.reachability.notified().await;
    }

    pub(super) fn is_unreachable(&self, address: SocketAddr) -> bool {
        self.lock().is_unreachable(address)
    }

    /// The replica for the next attempt, another than those that were `tried` if there is one;
    /// waits for one if none is connected.
    pub(in crate::client) async fn pick(&self, tried: &[Arc<R>]) -> Result<Arc<R>, Failure> {
        loop {
            if let Some(replica) = self.pick_now(tried) {
                return Ok(replica);
            }
            self.wait().await?;
        }
    }

    pub(super) fn pick_now(&self, tried: &[Arc<R>]) -> Option<Arc<R>> {
        self.lock().pick(tried)
    }

    /// A replica that is up and none of those that were `tried`.
    pub(in crate::client) fn pick_other(&self, tried: &[Arc<R>]) -> Option<Arc<R>> {
        self.lock().pick_other(tried)
    }

    /// Whether a replica other than this one is up.
    pub(in crate::client) fn has_other(&self, replica: &Arc<R>) -> bool {
        self.lock().has_other(replica)
    }

    /// How many replicas are up.
    #[cfg(test)]
    pub(in crate::client) fn count_up(&self) -> usize {
        self.lock().count_up()
    }

    /// Waits until there may be a replica.
    async fn wait(&self) -> Result<(), Failure> {
        let mut away = self.0.away.subscribe();
        let Some(since) = *away.borrow_and_update() else {
            return Ok(());
        };
        self.0.wanted.notify_waiters();
        let place = Place::take(&self.0.waiting, &self.0.waiting_here);
        let Some(_place) = place else {
            return Err(Failure::NoReplica("too many calls wait for a replica"));
        };
        match timeout_at(since + self.0.failfast, away.wait_for(Option::is_none)).await {
            Ok(_) => Ok(()),
            Err(_) => Err(Failure::NoReplica("no replica can be reached")),
        }
    }

    /// Waits until a call wants a replica where there is none.
    pub(super) async fn wanted(&self) {
        let wanted = self.0.wanted.notified();
        if self.0.waiting_here.load(Ordering::Relaxed) == 0 {
            wanted.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Members<R>> {
        lock(&self.0.members)
    }
}

/// A replica that belongs to a balance; it does not any more when this is dropped.
#[derive(Debug)]
pub(super) struct Membership<R: Candidate> {
    balance: Balance<R>,
    address: SocketAddr,
}

impl<R: Candidate> Drop for Membership<R> {
    fn drop(&mut self) {
        self.balance.tell(self.address, Event::Closed);
        self.balance.lock().leave(self.address);
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
    }

    /// A balance with one replica that is not connected.
    fn balance() -> (Balance<Fake>, Membership<Fake>) {
        let balance = Balance::new(FAILFAST, Waiting::default());
        let address = ([127, 0, 0, 1], 1).into();
        let membership = balance.join(CountedReplica::new(address));
        (balance, membership)
    }

    impl Membership<Fake> {
        fn connect(&self) {
            self.balance.connected(self.address, Arc::new(Fake));
        }

        fn close(&self) {
            self.balance.tell(self.address, Event::Closed);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn calls_wait_for_a_replica_that_comes_back_in_time() {
        let (balance, replica) = balance();
        let call = tokio::spawn(async move { balance.pick(&[]).await.is_ok() });
        sleep(FAILFAST * 9 / 10).await;
        replica.connect();
        assert!(call.await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_is_away_for_too_long_fails_at_once_until_it_is_back() {
        let (balance, replica) = balance();
        advance(Duration::from_secs(1)).await;
        let begin = Instant::now();
        assert!(balance.pick(&[]).await.is_err());
        let waited = begin.elapsed();
        assert_eq!(waited, Duration::from_secs(2), "counted from the loss");
        let begin = Instant::now();
        assert!(balance.pick(&[]).await.is_err());
        assert_eq!(begin.elapsed(), Duration::ZERO);
        replica.connect();
        assert!(balance.pick(&[]).await.is_ok());
        replica.close();
        let begin = Instant::now();
        assert!(balance.pick(&[]).await.is_err());
        assert_eq!(begin.elapsed(), FAILFAST, "a new absence");
    }

    #[tokio::test(start_paused = true)]
    async fn a_balance_whose_last_replica_leaves_is_without_one() {
        let (balance, replica) = balance();
        replica.connect();
        drop(replica);
        assert!(balance.pick_now(&[]).is_none());
        let begin = Instant::now();
        assert!(balance.pick(&[]).await.is_err());
        assert_eq!(begin.elapsed(), FAILFAST);
    }

    #[tokio::test(start_paused = true)]
    async fn the_waiting_calls_of_all_workers_have_one_limit_and_leave_their_places() {
        let waiting = Waiting::default();
        let workers = [0; 2].map(|_| Balance::<Fake>::new(FAILFAST, waiting.clone()));
        let mut calls = Vec::new();
        for number in 0..MAX_WAITING {
            let balance = workers[number % 2].clone();
            calls.push(tokio::spawn(async move { balance.pick(&[]).await.is_ok() }));
        }
        let is_full = || waiting.0.load(Ordering::Relaxed) == MAX_WAITING;
        while !is_full() {
            tokio::task::yield_now().await;
        }
        let begin = Instant::now();
        assert!(workers[0].pick(&[]).await.is_err());
        assert_eq!(begin.elapsed(), Duration::ZERO, "no place to wait");
        calls.pop().unwrap().abort();
        while is_full() {
            tokio::task::yield_now().await;
        }
        let call = workers[0].pick(&[]);
        let waits = tokio::time::timeout(Duration::from_secs(1), call).await;
        assert!(waits.is_err(), "it waits in the place that was left");
        for call in calls {
            assert!(!call.await.unwrap());
        }
        assert_eq!(waiting.0.load(Ordering::Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_keeper_knows_that_a_replica_is_wanted() {
        let (balance, _replica) = balance();
        let wanted = tokio::spawn({
            let balance = balance.clone();
            async move { balance.wanted().await }
        });
        // Long after calls have begun to fail at once.
        sleep(FAILFAST * 2).await;
        assert!(!wanted.is_finished());
        assert!(balance.pick(&[]).await.is_err());
        assert!(wanted.await.is_ok());
    }
}
