//! [`Notify`]: tokio's, on loom's mutex.

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use loom::sync::Mutex;

/// `tokio::sync::Notify`, with each of its steps under a mutex, as tokio's steps on its state are in one
/// order, too.
#[derive(Debug, Default)]
pub struct Notify(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// A call of `notify_one` that nobody waited for.
    has_permit: bool,
    /// The number of calls of `notify_waiters`.
    calls: usize,
    /// The number of the next one who waits.
    next: usize,
    waiting: VecDeque<(usize, Waker)>,
}

impl Notify {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn notified(&self) -> Notified<'_> {
        Notified {
            notify: self,
            calls: self.0.lock().expect("nobody panics").calls,
            number: None,
        }
    }

    pub(crate) fn notify_one(&self) {
        let mut state = self.0.lock().expect("nobody panics");
        let first = state.waiting.pop_front();
        state.has_permit |= first.is_none();
        drop(state);
        if let Some((_, waker)) = first {
            waker.wake();
        }
    }

    pub(crate) fn notify_waiters(&self) {
        let mut state = self.0.lock().expect("nobody panics");
        state.calls += 1;
        let all = std::mem::take(&mut state.waiting);
        drop(state);
        for (_, waker) in all {
            waker.wake();
        }
    }
}

/// Completes when it was notified. The models drop none that waits.
#[derive(Debug)]
pub struct Notified<'a> {
    notify: &'a Notify,
    calls: usize,
    /// The number among those who wait, once it waits.
    number: Option<usize>,
}

impl Future for Notified<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let notify = self.notify;
        let mut state = notify.0.lock().expect("nobody panics");
        if state.calls != self.calls {
            return Poll::Ready(());
        }
        let Some(number) = self.number else {
            if std::mem::take(&mut state.has_permit) {
                return Poll::Ready(());
            }
            let number = state.next;
            state.next += 1;
            state.waiting.push_back((number, cx.waker().clone()));
            drop(state);
            self.number = Some(number);
            return Poll::Pending;
        };
        match state.waiting.iter_mut().find(|(one, _)| *one == number) {
            None => Poll::Ready(()),
            Some((_, waker)) => {
                waker.clone_from(cx.waker());
                Poll::Pending
            }
        }
    }
}
