//! [`LateCalls`]: wakes the calls of a worker that are late, by one timer for all.
//!
//! A timer for each call costs more than it seems. Calls end long before they are late, so a new timer is
//! often the earliest of the worker, and tokio then wakes its own event loop by a system call
//! (runtime/time/mod.rs, `reregister`). That was one system call for each second call to several replicas.

use std::{
    collections::BTreeMap,
    future::pending,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use tokio::{
    select,
    time::{Instant, sleep_until},
};

use crate::sync::{Mutex, Notify, lock};

/// The calls of a worker, by the time from which they are late. Clones share their state.
#[derive(Debug, Clone, Default)]
pub(super) struct LateCalls(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// Uncontended, as each worker has its own.
    waiting: Mutex<Waiting>,
    /// Notified when a call is to be woken before the timer fires.
    earlier: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    /// With a number, as several calls may have the same time.
    calls: BTreeMap<(Instant, u64), Waker>,
    /// The number of the next call.
    next: u64,
    /// When the timer fires; `None` while there is none.
    timer: Option<Instant>,
}

impl LateCalls {
    /// Becomes ready at this time, while [`Self::wake`] runs.
    pub(super) fn at(&self, at: Instant) -> Late<'_> {
        Late {
            calls: self,
            at,
            number: None,
        }
    }

    /// Wakes the calls that are late. Does not end.
    pub(super) async fn wake(self) {
        loop {
            let timer = self.set_timer();
            let fired = async {
                match timer {
                    Some(at) => sleep_until(at).await,
                    None => pending().await,
                }
            };
            select! {
                () = self.0.earlier.notified() => {}
                () = fired => {}
            }
            let late = self.take_late(Instant::now());
            late.into_values().for_each(Waker::wake);
        }
    }

    /// The time of the first call that waits. Calls that come later, and are late later, need no other timer.
    fn set_timer(&self) -> Option<Instant> {
        let mut waiting = lock(&self.0.waiting);
        waiting.timer = waiting.calls.keys().next().map(|(at, _)| *at);
        waiting.timer
    }

    fn take_late(&self, now: Instant) -> BTreeMap<(Instant, u64), Waker> {
        let mut waiting = lock(&self.0.waiting);
        let rest = waiting.calls.split_off(&(now, u64::MAX));
        std::mem::replace(&mut waiting.calls, rest)
    }
}

/// The wait of one call until it is late.
#[derive(Debug)]
pub(super) struct Late<'a> {
    calls: &'a LateCalls,
    at: Instant,
    /// `None` until the first poll.
    number: Option<u64>,
}

impl Future for Late<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Shared { waiting, earlier } = &*self.calls.0;
        let mut waiting = lock(waiting);
        let Some(number) = self.number else {
            let number = waiting.next;
            waiting.next += 1;
            waiting.calls.insert((self.at, number), cx.waker().clone());
            if waiting.timer.is_none_or(|timer| self.at < timer) {
                earlier.notify_one();
            }
            drop(waiting);
            self.number = Some(number);
            return Poll::Pending;
        };
        match waiting.calls.get_mut(&(self.at, number)) {
            Some(waker) => {
                waker.clone_from(cx.waker());
                Poll::Pending
            }
            None => Poll::Ready(()),
        }
    }
}

impl Drop for Late<'_> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            lock(&self.calls.0.waiting).calls.remove(&(self.at, number));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{pin::pin, time::Duration};

    use futures_util::{
        FutureExt,
        future::{join_all, select},
    };
    use tokio::time::{advance, sleep};
    use tokio_util::task::AbortOnDropHandle;

    use super::*;

    const TIME: Duration = Duration::from_millis(10);

    fn late_calls() -> (LateCalls, AbortOnDropHandle<()>) {
        let late = LateCalls::default();
        let wakes = tokio::spawn(late.clone().wake());
        (late, AbortOnDropHandle::new(wakes))
    }

    #[tokio::test(start_paused = true)]
    async fn each_call_is_woken_at_its_time_whatever_the_order() {
        let (late, _wakes) = late_calls();
        let begin = Instant::now();
        let calls = [5, 3, 8, 3, 1, 9].map(|times| {
            let late = &late;
            async move {
                late.at(begin + TIME * times).await;
                assert_eq!(begin.elapsed(), TIME * times);
            }
        });
        join_all(calls).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_begins_later_may_be_late_earlier() {
        let (late, _wakes) = late_calls();
        let begin = Instant::now();
        let first = pin!(late.at(begin + TIME * 10));
        let second = pin!(async {
            sleep(TIME).await;
            late.at(begin + TIME * 2).await;
        });
        select(first, second).await;
        assert_eq!(begin.elapsed(), TIME * 2);
    }

    #[tokio::test(start_paused = true)]
    async fn calls_that_have_ended_are_forgotten() {
        let (late, _wakes) = late_calls();
        let begin = Instant::now();
        for _ in 0..3 {
            assert!(late.at(begin + TIME).now_or_never().is_none());
        }
        assert!(lock(&late.0.waiting).calls.is_empty());
        advance(TIME * 5).await;
        late.at(begin + TIME * 6).await;
        assert_eq!(begin.elapsed(), TIME * 6);
        assert!(lock(&late.0.waiting).calls.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn one_timer_serves_the_calls_that_follow() {
        let (late, _wakes) = late_calls();
        let begin = Instant::now();
        let first = late.at(begin + TIME);
        let timer = || lock(&late.0.waiting).timer;
        let later = async {
            while timer().is_none() {
                tokio::task::yield_now().await;
            }
            for more in 1..10 {
                assert!(late.at(begin + TIME * more).now_or_never().is_none());
                tokio::task::yield_now().await;
                assert_eq!(timer(), Some(begin + TIME));
            }
        };
        tokio::join!(first, later);
    }
}
