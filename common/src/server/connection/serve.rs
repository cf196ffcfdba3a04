//! [`ServeConnection`]: serves a connection, and ends it when its [`Lifetime`] says so, or when it gives way.

use std::{
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use hyper_util::server::graceful::GracefulConnection;
use tokio::time::{Instant, Sleep, sleep_until};

use super::lifetime::{Lifetime, Verdict};
use crate::{limits, server::capacity::open::Open, telemetry::metrics};

pin_project_lite::pin_project! {
    /// Serves a connection to its end.
    pub(crate) struct ServeConnection<C> {
        #[pin]
        connection: C,
        open: Arc<Open>,
        lifetime: Lifetime,
        // Whether the last poll was another chance for a client that takes nothing.
        had_chance: bool,
        // Fires when the lifetime needs the next look.
        timer: Pin<Box<Sleep>>,
        is_timer_set: bool,
        // The waker that is registered with `open`.
        waker: Option<Waker>,
    }

    impl<C> PinnedDrop for ServeConnection<C> {
        fn drop(this: Pin<&mut Self>) {
            this.open.outbound.close();
        }
    }
}

impl<C> ServeConnection<C> {
    pub(crate) fn new(connection: C, open: Arc<Open>, lifetime: Lifetime) -> Self {
        open.outbound.watch();
        Self {
            connection,
            open,
            lifetime,
            had_chance: false,
            timer: Box::pin(sleep_until(Instant::now() + limits::IDLE_TIMEOUT)),
            is_timer_set: false,
            waker: None,
        }
    }

    /// Registers the task with `open` when it is new.
    fn listen(self: Pin<&mut Self>, cx: &Context<'_>) {
        let this = self.project();
        let is_known = |waker: &Waker| waker.will_wake(cx.waker());
        if !this.waker.as_ref().is_some_and(is_known) {
            this.open.wake_to_close(cx.waker());
            *this.waker = Some(cx.waker().clone());
        }
    }

    /// Whether the connection ends because its client takes nothing.
    ///
    /// That was seen by another worker. This one may have been busy while the client took something. So
    /// its streams, which this poll may have woken, run once more before the connection ends.
    fn gives_way(self: Pin<&mut Self>, cx: &Context<'_>) -> bool {
        let this = self.project();
        if !this.open.held.gives_way() {
            return false;
        }
        this.open.held.stays_if_taken();
        let is_last = mem::replace(this.had_chance, this.open.held.gives_way());
        if *this.had_chance && !is_last {
            cx.waker().wake_by_ref();
        }
        *this.had_chance && is_last
    }
}

impl<C> Future for ServeConnection<C>
where
    C: GracefulConnection,
{
    type Output = Result<(), C::Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.as_mut().listen(cx);
        loop {
            if let Poll::Ready(end) = self.as_mut().project().connection.poll(cx) {
                self.open.outbound.end(end.is_ok());
                return Poll::Ready(end);
            }
            if !self.open.outbound.is_writing() {
                self.open.outbound.drained();
            }
            if self.open.release_end() {
                continue;
            }
            if self.as_mut().gives_way(cx) {
                metrics::of_this_thread()
                    .preempted
                    .add(self.open.in_flight() as u64);
                return Poll::Ready(Ok(()));
            }
            let mut this = self.as_mut().project();
            // The timer never fires too late: its instants only move forward.
            let has_timer = *this.is_timer_set && !this.timer.is_elapsed();
            if this.lifetime.goes_on(this.open) && has_timer {
                return Poll::Pending;
            }
            match this.lifetime.verdict(this.open) {
                Verdict::Drop => return Poll::Ready(Ok(())),
                Verdict::End => this.connection.as_mut().graceful_shutdown(),
                Verdict::Wait(None) => return Poll::Pending,
                Verdict::Wait(Some(until)) => {
                    // The timer may fire too early, and is then set again.
                    if this.timer.deadline() > until || this.timer.is_elapsed() {
                        this.timer.as_mut().reset(until);
                    }
                    *this.is_timer_set = true;
                    if this.timer.as_mut().poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                }
            }
        }
    }
}
