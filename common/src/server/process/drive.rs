//! [`Drive`]: serves a connection, and ends it when its [`Lifetime`] says so.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use hyper_util::server::graceful::GracefulConnection;
use tokio::time::{Instant, Sleep, sleep_until};

use super::{
    evictable::Evictable,
    lifetime::{Lifetime, Verdict},
};
use crate::{
    limits,
    server::capacity::{
        cause::{self, Cause},
        in_flight,
        kind::Kind,
        open::{Close, Open},
        places::NoPlace,
        share::{InFlight, Share},
    },
};

pin_project_lite::pin_project! {
    /// Serves a connection to its end.
    pub(crate) struct Drive<C> {
        #[pin]
        connection: Evictable<C>,
        open: Arc<Open>,
        share: Arc<Share>,
        lifetime: Lifetime,
        // The place of a response whose end is still in a buffer.
        rest: Option<InFlight>,
        // Fires when the lifetime needs the next look.
        timer: Pin<Box<Sleep>>,
        is_timer_set: bool,
        // The waker that is registered with `open`, and what the connection was told by then. Each
        // reason to close takes the waker.
        waker: Option<Waker>,
        told: Option<Close>,
    }

    impl<C> PinnedDrop for Drive<C> {
        fn drop(this: Pin<&mut Self>) {
            this.open.rests.end(false);
        }
    }
}

impl<C> Drive<C> {
    /// Serves the connection. The rest of a response that its client does not read takes a place of
    /// `share`.
    pub(crate) fn new(
        connection: C,
        open: Arc<Open>,
        share: Arc<Share>,
        lifetime: Lifetime,
    ) -> Self {
        open.rests.watch();
        Self {
            connection: Evictable::new(connection, None),
            lifetime,
            rest: None,
            timer: Box::pin(sleep_until(Instant::now() + limits::IDLE_TIMEOUT)),
            is_timer_set: false,
            waker: None,
            told: None,
            share,
            open,
        }
    }

    /// Keeps a response in flight until all of it has left: when its body ends, the last part may
    /// still be in hyper's buffer.
    fn hold_place_of_rest(self: Pin<&mut Self>, cx: &Context<'_>) -> Result<(), NoPlace> {
        let this = self.project();
        if !this.open.is_writing() {
            *this.rest = None;
            this.open.rests.end(true);
        } else if this.open.in_flight() == 0 {
            let rest = this.share.take(this.open, Kind::Ordinary)?;
            rest.request.note_offered();
            *this.rest = Some(rest);
            this.connection.carry(in_flight::take_begun(), cx);
        }
        Ok(())
    }
}

impl<C> Future for Drive<C>
where
    C: GracefulConnection,
{
    type Output = Result<(), C::Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.as_mut().project();
        let is_known = |waker: &Waker| waker.will_wake(cx.waker());
        let told = this.open.told_to_close();
        if *this.told != told || !this.waker.as_ref().is_some_and(is_known) {
            this.open.wake_to_close(cx.waker());
            *this.told = told;
            *this.waker = Some(cx.waker().clone());
        }
        loop {
            if let Poll::Ready(end) = self.as_mut().project().connection.poll(cx) {
                let rests = &self.open.rests;
                match &end {
                    Some(end) => rests.end(end.is_ok()),
                    None => cause::with_cause(Cause::GivesWay, || rests.end(false)),
                }
                return Poll::Ready(end.unwrap_or(Ok(())));
            }
            if self.open.release_end() {
                continue;
            }
            if self.as_mut().hold_place_of_rest(cx).is_err() {
                cause::with_cause(Cause::GivesWay, || self.open.rests.end(false));
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
                Verdict::End => {
                    if let Some(connection) = this.connection.as_mut().inner() {
                        connection.graceful_shutdown();
                    }
                }
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
