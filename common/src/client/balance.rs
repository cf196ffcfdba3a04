//! [`Balance`]: the replicas that can be asked, and which of them a call goes to.
//!
//! Of two replicas picked at random the one that would cost far less is taken ("power of two
//! choices"), so that no two callers run for the same best one. While there is none, calls wait
//! for one, but not for long: a service that has been away for `FAILFAST` is taken to be away for
//! good, and its calls fail at once until it is back.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    time::{Instant, timeout_at},
};

use super::failure::Failure;

/// How many calls of a worker may wait for a replica.
const MAX_WAITING: usize = 1_024;

/// How many times as much one of two must cost for the other to be preferred. With less, replicas
/// that are as good as each other would be ranked by the noise, or by whether one call or none is
/// in flight, and get uneven shares.
const FAR_LESS: f64 = 2.5;

/// Something to choose by what it costs.
pub(super) trait Cost {
    fn cost(&self) -> f64;
}

/// The replicas of a service that are up, as one worker sees them. Clones are the same.
#[derive(Debug)]
pub(super) struct Balance<R>(Arc<Shared<R>>);

#[derive(Debug)]
struct Shared<R> {
    /// Never waited for: each worker has its own.
    up: Mutex<Vec<Arc<R>>>,
    /// Since when there has been none, if there is none.
    away: watch::Sender<Option<Instant>>,
    failfast: Duration,
    waiting: AtomicUsize,
    wanted: Notify,
}

impl<R> Clone for Balance<R> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<R: Cost> Balance<R> {
    /// Without replicas yet, as of now.
    pub(super) fn new(failfast: Duration) -> Self {
        Self(Arc::new(Shared {
            up: Mutex::default(),
            away: watch::Sender::new(Some(Instant::now())),
            failfast,
            waiting: AtomicUsize::new(0),
            wanted: Notify::new(),
        }))
    }

    /// A replica is up.
    pub(super) fn add(&self, replica: Arc<R>) {
        self.lock().push(replica);
        self.0.away.send_replace(None);
    }

    /// A replica is not to be asked any more; calls on it may go on.
    pub(super) fn remove(&self, replica: &Arc<R>) {
        let mut up = self.lock();
        up.retain(|other| !Arc::ptr_eq(other, replica));
        if up.is_empty() {
            self.0.away.send_if_modified(|since| {
                since.is_none() && {
                    *since = Some(Instant::now());
                    true
                }
            });
        }
    }

    /// The replica to ask next; waits for one if there is none.
    pub(super) async fn pick(&self) -> Result<Arc<R>, Failure> {
        loop {
            if let Some(replica) = self.pick_now() {
                return Ok(replica);
            }
            self.wait().await?;
        }
    }

    pub(super) fn pick_now(&self) -> Option<Arc<R>> {
        let up = self.lock();
        let replica = match &up[..] {
            [] => return None,
            [only] => only,
            replicas => {
                let one = fastrand::usize(..replicas.len());
                let other = fastrand::usize(..replicas.len() - 1);
                let other = other + usize::from(other >= one);
                let (one, other) = (&replicas[one], &replicas[other]);
                let prefer_other = other.cost() * FAR_LESS < one.cost();
                if prefer_other { other } else { one }
            }
        };
        Some(replica.clone())
    }

    /// Waits until there may be a replica.
    async fn wait(&self) -> Result<(), Failure> {
        let mut away = self.0.away.subscribe();
        let Some(since) = *away.borrow_and_update() else {
            return Ok(());
        };
        self.0.wanted.notify_waiters();
        let _place = Place::take(&self.0.waiting).ok_or_else(Failure::no_replica)?;
        match timeout_at(since + self.0.failfast, away.wait_for(Option::is_none)).await {
            Ok(_) => Ok(()),
            Err(_) => Err(Failure::no_replica()),
        }
    }

    /// Waits until a call wants a replica where there is none.
    pub(super) async fn wanted(&self) {
        let wanted = self.0.wanted.notified();
        if self.0.waiting.load(Ordering::Relaxed) == 0 {
            wanted.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<R>>> {
        self.0.up.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place among the calls that wait.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(waiting: &'a AtomicUsize) -> Option<Self> {
        let place = Self(waiting);
        (waiting.fetch_add(1, Ordering::Relaxed) < MAX_WAITING).then_some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{advance, sleep};

    use super::*;

    const FAILFAST: Duration = Duration::from_secs(3);

    #[derive(Debug)]
    struct Fake(f64);

    impl Cost for Fake {
        fn cost(&self) -> f64 {
            self.0
        }
    }

    fn balance(costs: &[f64]) -> (Balance<Fake>, Vec<Arc<Fake>>) {
        let balance = Balance::new(FAILFAST);
        let replicas: Vec<_> = costs.iter().map(|cost| Arc::new(Fake(*cost))).collect();
        for replica in &replicas {
            balance.add(replica.clone());
        }
        (balance, replicas)
    }

    #[tokio::test(start_paused = true)]
    async fn the_cheaper_of_two_is_taken_and_the_dearest_of_all_never() {
        let (balance, replicas) = balance(&[1.0, 3.0, 9.0]);
        let mut picks = [0; 3];
        for _ in 0..3_000 {
            let pick = balance.pick().await.unwrap();
            let which = replicas.iter().position(|one| Arc::ptr_eq(one, &pick));
            picks[which.unwrap()] += 1;
        }
        assert!((1_850..2_150).contains(&picks[0]), "{picks:?}");
        assert!((850..1_150).contains(&picks[1]), "{picks:?}");
        assert_eq!(picks[2], 0);
    }

    #[tokio::test(start_paused = true)]
    async fn those_that_cost_about_the_same_get_even_shares() {
        let (balance, replicas) = balance(&[1.0, 1.5, 1.9]);
        let mut picks = [0; 3];
        for _ in 0..3_000 {
            let pick = balance.pick().await.unwrap();
            let which = replicas.iter().position(|one| Arc::ptr_eq(one, &pick));
            picks[which.unwrap()] += 1;
        }
        let even = picks.iter().all(|picks| (850..1_150).contains(picks));
        assert!(even, "{picks:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_gone_is_not_picked() {
        let (balance, replicas) = balance(&[1.0, 9.0]);
        balance.remove(&replicas[0]);
        for _ in 0..100 {
            assert!(Arc::ptr_eq(&balance.pick().await.unwrap(), &replicas[1]));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn calls_wait_for_a_replica_that_comes_back_in_time() {
        let (balance, replicas) = balance(&[1.0]);
        balance.remove(&replicas[0]);
        let call = tokio::spawn({
            let balance = balance.clone();
            async move { balance.pick().await.is_ok() }
        });
        sleep(FAILFAST * 9 / 10).await;
        balance.add(replicas[0].clone());
        assert!(call.await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_is_away_for_too_long_fails_at_once_until_it_is_back() {
        let (balance, replicas) = balance(&[1.0]);
        balance.remove(&replicas[0]);
        advance(Duration::from_secs(1)).await;
        let begin = Instant::now();
        let failure = balance.pick().await.unwrap_err();
        assert!(!failure.may_retry);
        assert_eq!(
            begin.elapsed(),
            Duration::from_secs(2),
            "counted from the loss"
        );
        let begin = Instant::now();
        assert!(balance.pick().await.is_err());
        assert_eq!(begin.elapsed(), Duration::ZERO);
        balance.add(replicas[0].clone());
        assert!(balance.pick().await.is_ok());
        balance.remove(&replicas[0]);
        let begin = Instant::now();
        assert!(balance.pick().await.is_err());
        assert_eq!(begin.elapsed(), FAILFAST, "a new absence");
    }

    #[tokio::test(start_paused = true)]
    async fn the_waiting_calls_have_a_limit_and_leave_their_places() {
        let balance = Balance::<Fake>::new(FAILFAST);
        let mut calls = Vec::new();
        for _ in 0..MAX_WAITING {
            let balance = balance.clone();
            calls.push(tokio::spawn(async move { balance.pick().await.is_ok() }));
        }
        let waiting = || balance.0.waiting.load(Ordering::Relaxed);
        while waiting() < MAX_WAITING {
            tokio::task::yield_now().await;
        }
        let begin = Instant::now();
        assert!(balance.pick().await.is_err());
        assert_eq!(begin.elapsed(), Duration::ZERO, "no place to wait");
        calls.pop().unwrap().abort();
        while waiting() == MAX_WAITING {
            tokio::task::yield_now().await;
        }
        let waits = tokio::time::timeout(Duration::from_secs(1), balance.pick()).await;
        assert!(waits.is_err(), "it waits in the place that was left");
        balance.add(Arc::new(Fake(1.0)));
        for call in calls {
            assert!(call.await.unwrap());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_looks_for_replicas_knows_that_one_is_wanted() {
        let balance = Balance::<Fake>::new(FAILFAST);
        let wanted = tokio::spawn({
            let balance = balance.clone();
            async move { balance.wanted().await }
        });
        tokio::task::yield_now().await;
        assert!(!wanted.is_finished());
        assert!(balance.pick().await.is_err());
        assert!(wanted.await.is_ok());
    }
}
