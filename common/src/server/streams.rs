//! The requests of a connection as hyper hands them over, and the tasks of HTTP/2 streams.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::FutureExt;
use http::Request;
use hyper::{body::Incoming, rt::Executor};

use super::{connections::Open, evictable::Evictable, places};
use crate::{Deadline, bounded::Bounded, methods::Deadlines};

/// How much later than the deadline a stream ends whose client makes no room: late enough for
/// the deadline layer to say it properly to all others.
const STALLED_STREAM_GRACE: Duration = Duration::from_millis(500);

/// Streams of a worker whose requests were refused and whose clients do not take the responses.
/// One more is reset: refusing must not hold more than serving does.
const MAX_REFUSALS: usize = 4_096;

/// Streams of a worker that may wait for their first turn among its tasks; more wait outside. A
/// connection writes when its turn comes: behind 2,000 new streams whose handlers compute for 2 ms
/// it would be silent for 4 s, and its peer would take it for dead.
const MAX_NEW: usize = 64;

thread_local! {
    /// How long the stream may take whose request was given to the stack last.
    static LONGEST: Cell<Duration> = const { Cell::new(Duration::ZERO) };

    /// One clone more than there are refusals that nobody took.
    static REFUSALS: Arc<()> = Arc::default();

    /// Streams that wait for their first turn, among the tasks and outside.
    static NEW: Cell<usize> = const { Cell::new(0) };
    static WAITING: RefCell<VecDeque<Pin<Box<dyn Future<Output = ()> + Send>>>> =
        const { RefCell::new(VecDeque::new()) };
}

/// The inbound stack as hyper calls it. Nothing in it is ever not ready: what must wait, waits in
/// its future. So it is not asked, which saves a future around all others.
#[derive(Clone)]
pub(super) struct Stack<S> {
    service: S,
    deadlines: Deadlines,
    open: Arc<Open>,
}

impl<S> Stack<S> {
    pub(super) fn new(service: S, deadlines: Deadlines, open: Arc<Open>) -> Self {
        Self {
            service,
            deadlines,
            open,
        }
    }
}

impl<S> hyper::service::Service<Request<Incoming>> for Stack<S>
where
    S: tower::Service<Request<Incoming>> + Clone,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn call(&self, request: Request<Incoming>) -> S::Future {
        self.open.note_request();
        LONGEST.set(self.deadlines.of(request.uri().path()));
        self.service.clone().call(request)
    }
}

/// Runs the streams of HTTP/2 connections, none of them for longer than its request may take and
/// a little more.
///
/// The deadline layer ends those that wait for their handler. One whose client makes no room
/// for more of the answer waits in hyper, which does not poll the body then.
#[derive(Debug, Clone, Copy)]
pub(super) struct Streams;

impl<F> Executor<F> for Streams
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, stream: F) {
        // hyper gives a request to the stack, and then, before any other, its stream to this.
        let longest = LONGEST.get().saturating_add(STALLED_STREAM_GRACE);
        let request = places::take_begun();
        let refusal = request.is_none().then(|| REFUSALS.with(Arc::clone));
        if refusal.as_ref().map_or(0, Arc::strong_count) > MAX_REFUSALS {
            return; // which resets the stream
        }
        // Boxed: tokio moves a task about before and after it runs.
        let stream = Box::pin(Evictable::new(stream, request));
        let stream = Bounded::begun(Deadline::after(longest), stream);
        let stream = stream.map(|_| drop(refusal));
        if NEW.get() < MAX_NEW {
            begin(stream);
        } else {
            WAITING.with_borrow_mut(|waiting| waiting.push_back(Box::pin(stream)));
        }
    }
}

fn begin(stream: impl Future<Output = ()> + Send + 'static) {
    NEW.set(NEW.get() + 1);
    tokio::spawn(New {
        stream,
        is_new: true,
    });
}

pin_project_lite::pin_project! {
    /// A stream that lets the next one in at its first turn.
    struct New<F> {
        #[pin]
        stream: F,
        is_new: bool,
    }

    impl<F> PinnedDrop for New<F> {
        fn drop(this: Pin<&mut Self>) {
            if this.is_new {
                NEW.set(NEW.get() - 1);
            }
        }
    }
}

impl<F: Future> Future for New<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        if mem::take(this.is_new) {
            NEW.set(NEW.get() - 1);
            if let Some(next) = WAITING.with_borrow_mut(VecDeque::pop_front) {
                begin(next);
            }
        }
        this.stream.poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    #[tokio::test]
    async fn a_burst_of_streams_leaves_room_for_other_tasks() {
        let done = Arc::new(());
        for _ in 0..10 * MAX_NEW {
            let mut done = Some(done.clone());
            Streams.execute(async move {
                drop(done.take());
                pending::<()>().await;
            });
        }
        // A task of another kind has to wait for no more than those that are let in at once.
        let left = tokio::spawn({
            let done = Arc::downgrade(&done);
            async move { done.strong_count() - 1 }
        });
        assert_eq!(left.await.unwrap(), 9 * MAX_NEW);
        while Arc::strong_count(&done) > 1 {
            tokio::task::yield_now().await; // each has its turn
        }
    }
}
