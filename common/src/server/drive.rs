//! What moves a connection, and ends it: when it idles, when the head of a request does not come,
//! when it is old, when the service drains, when another needs its place.

use std::{
    cell::Cell,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use hyper_util::server::graceful::GracefulConnection;
use tokio::time::{Instant, Sleep, sleep_until};

use super::{
    connections::{Close, Open, now},
    places::{self, InFlight, Kind, Request, Share},
};

/// How long the head of an HTTP/1.1 request may take, from its first byte; also how long a new
/// connection may leave open what it speaks.
pub(super) const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a client that has closed its side of an HTTP/1.1 connection is answered. It may wait for
/// that, or be gone: the two look the same until something is written.
const HALF_CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a draining connection is read before it is told to end: what was sent by then is there.
const LAST_LOOK: Duration = Duration::from_millis(10);

/// How long a connection without requests may take to end after it was told to (HTTP/2 asks the
/// client whether it has heard).
const FAREWELL: Duration = Duration::from_millis(500);

/// How long connections last.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lifetime {
    /// Without a request.
    pub(super) idle_timeout: Duration,
    /// At all; its requests go on to their end.
    pub(super) max_age: Option<Duration>,
}

pin_project_lite::pin_project! {
    /// Serves a connection to its end.
    pub(super) struct Drive<C> {
        #[pin]
        connection: Evictable<C>,
        open: Arc<Open>,
        share: Arc<Share>,
        // The place of what is left of a response.
        rest: Option<InFlight>,
        idle_timeout: Duration,
        // When it is too old.
        old_at: Option<Instant>,
        // Since when a client has to go on, or be gone.
        waits_since: Option<Instant>,
        phase: Phase,
        timer: Pin<Box<Sleep>>,
        is_timer_set: bool,
        // What is called when the connection is told to end.
        waker: Option<Waker>,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Serving,
    /// The service drains; what was sent is still read until then.
    LastLook(Instant),
    /// It is told to end, and does so with its last request; without one at that time at the latest.
    Ending(Instant),
}

impl<C> Drive<C> {
    /// Serves it; what its client does not take has a place of this share.
    pub(super) fn new(
        connection: C,
        open: Arc<Open>,
        share: Arc<Share>,
        lifetime: Lifetime,
    ) -> Self {
        let begin = Instant::now();
        Self {
            connection: Evictable::new(connection, None),
            idle_timeout: lifetime.idle_timeout,
            old_at: lifetime.max_age.and_then(|age| begin.checked_add(age)),
            waits_since: None,
            phase: Phase::Serving,
            is_timer_set: false,
            timer: Box::pin(sleep_until(begin + lifetime.idle_timeout)),
            waker: None,
            rest: None,
            share,
            open,
        }
    }
}

/// What is to be done about a connection.
enum Verdict {
    /// Look again then, if nothing happens before.
    Wait(Option<Instant>),
    /// Tell it to end; without requests it has that long.
    Tell(Duration),
    /// Drop it.
    Drop,
}

impl<C> Future for Drive<C>
where
    C: GracefulConnection,
{
    type Output = Result<(), C::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let is_known = |waker: &Waker| waker.will_wake(cx.waker());
        if !this.waker.as_ref().is_some_and(is_known) {
            this.open.wake_to_close(cx.waker());
            *this.waker = Some(cx.waker().clone());
        }
        loop {
            if let Poll::Ready(end) = this.connection.as_mut().poll(cx) {
                return Poll::Ready(end.unwrap_or(Ok(())));
            }
            // A response is in flight until all of it has left: the server buffers its last part.
            if !this.open.is_writing() {
                *this.rest = None;
            } else if this.open.in_flight() == 0 {
                let Ok(rest) = this.share.take(this.open, Kind::Ordinary) else {
                    return Poll::Ready(Ok(()));
                };
                rest.request.note_offered();
                *this.rest = Some(rest);
                this.connection.as_mut().carry(places::take_begun(), cx);
            }
            let told = this.open.told_to_close();
            let must_go_on = this.open.has_half_head() || this.open.is_half_closed();
            // The timer is never too late: what it is set for only moves on.
            let has_timer = *this.is_timer_set && !this.timer.is_elapsed();
            if *this.phase == Phase::Serving && told.is_none() && !must_go_on && has_timer {
                *this.waits_since = None;
                return Poll::Pending;
            }
            let idle_since = this.open.idle_since();
            let verdict = match (*this.phase, told) {
                (Phase::Serving, Some(Close::MakeRoom)) => Verdict::Tell(Duration::ZERO),
                (Phase::Serving, Some(Close::Drain)) => {
                    let until = Instant::now() + LAST_LOOK;
                    *this.phase = Phase::LastLook(until);
                    Verdict::Wait(Some(until))
                }
                (Phase::Serving, None) => {
                    let patience = if this.open.has_half_head() {
                        Some(HEADER_TIMEOUT)
                    } else if this.open.is_half_closed() {
                        Some(HALF_CLOSE_TIMEOUT)
                    } else {
                        *this.waits_since = None;
                        None
                    };
                    let drop_at = patience.map(|patience| {
                        *this.waits_since.get_or_insert_with(Instant::now) + patience
                    });
                    serving(drop_at, idle_since, *this.idle_timeout, *this.old_at)
                }
                (Phase::LastLook(until), _) if until > Instant::now() => Verdict::Wait(Some(until)),
                (Phase::LastLook(_), _) => Verdict::Tell(FAREWELL),
                (Phase::Ending(_), _) if this.open.is_busy() => {
                    *this.phase = Phase::Ending(Instant::now() + FAREWELL);
                    Verdict::Wait(None)
                }
                (Phase::Ending(at), _) if at <= Instant::now() => Verdict::Drop,
                (Phase::Ending(at), _) => Verdict::Wait(Some(at)),
            };
            match verdict {
                Verdict::Drop => return Poll::Ready(Ok(())),
                Verdict::Tell(patience) => {
                    *this.phase = Phase::Ending(Instant::now() + patience);
                    if let Some(connection) = this.connection.as_mut().inner() {
                        connection.graceful_shutdown();
                    }
                }
                Verdict::Wait(until) => {
                    let Some(until) = until else {
                        return Poll::Pending;
                    };
                    // It may fire too early, and is set again then; hardly ever is it too late.
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

fn serving(
    drop_at: Option<Instant>,
    idle_since: Option<u64>,
    idle_timeout: Duration,
    old_at: Option<Instant>,
) -> Verdict {
    let at = Instant::now();
    if let Some(drop_at) = drop_at {
        return if drop_at <= at {
            Verdict::Drop
        } else {
            Verdict::Wait(Some(drop_at))
        };
    }
    if old_at.is_some_and(|old_at| old_at <= at) {
        return Verdict::Tell(FAREWELL);
    }
    let idle_until = idle_since.map(|since| {
        let idle = Duration::from_millis(now().saturating_sub(since));
        at + idle_timeout.saturating_sub(idle)
    });
    match (idle_until, old_at) {
        (Some(until), _) if until <= at => Verdict::Tell(FAREWELL),
        (Some(until), Some(old_at)) => Verdict::Wait(Some(until.min(old_at))),
        (until, old_at) => Verdict::Wait(until.or(old_at)),
    }
}

pin_project_lite::pin_project! {
    /// What carries a request, an HTTP/2 stream or an HTTP/1.1 connection: it is dropped when its
    /// client takes nothing and the request has to give way, as nobody asks the body then.
    pub(super) struct Evictable<F> {
        #[pin]
        inner: Option<F>,
        request: Option<Arc<Request>>,
    }
}

impl<F> Evictable<F> {
    /// For one that carries this request; another that begins while it runs takes its place.
    pub(super) fn new(inner: F, request: Option<Arc<Request>>) -> Self {
        Self {
            inner: Some(inner),
            request,
        }
    }

    /// It carries this request from now on.
    fn carry(self: Pin<&mut Self>, request: Option<Arc<Request>>, cx: &Context<'_>) {
        if let Some(request) = &request {
            request.wake_to_give_way(cx.waker());
        }
        *self.project().request = request;
    }

    fn inner(self: Pin<&mut Self>) -> Option<Pin<&mut F>> {
        self.project().inner.as_pin_mut()
    }
}

impl<F: Future> Future for Evictable<F> {
    /// `None` where it had to give way.
    type Output = Option<F::Output>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let Some(inner) = this.inner.as_mut().as_pin_mut() else {
            return Poll::Ready(None);
        };
        if this
            .request
            .as_ref()
            .is_some_and(|request| request.is_cut_off())
        {
            GIVING_WAY.set(true);
            this.inner.set(None);
            GIVING_WAY.set(false);
            return Poll::Ready(None);
        }
        let poll = inner.poll(cx);
        if let Some(begun) = places::take_begun() {
            *this.request = Some(begun);
        }
        this.request.take_if(|request| request.is_over());
        if let (Poll::Pending, Some(request)) = (&poll, this.request) {
            request.wake_to_give_way(cx.waker());
        }
        poll.map(Some)
    }
}

thread_local! {
    static GIVING_WAY: Cell<bool> = const { Cell::new(false) };
}

/// Whether what is dropped on this thread gives way to others.
pub(super) fn is_giving_way() -> bool {
    GIVING_WAY.get()
}
