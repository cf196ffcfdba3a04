//! [`Stack`], the inbound stack as hyper calls it, and [`Streams`], which runs HTTP/2 streams as
//! tasks.

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

use super::evictable::Evictable;
use crate::{
    Deadline,
    bounded::Bounded,
    limits,
    methods::Deadlines,
    server::capacity::{in_flight, open::Open},
};

thread_local! {
    /// The longest time of the last request that went into the stack.
    static LONGEST: Cell<Duration> = const { Cell::new(Duration::ZERO) };

    /// Has a clone for each refusal that no client took yet.
    static REFUSALS: Arc<()> = Arc::default();

    /// Streams that wait for their first turn, among the tasks and outside.
    static NEW: Cell<usize> = const { Cell::new(0) };
    static WAITING: RefCell<VecDeque<Pin<Box<dyn Future<Output = ()> + Send>>>> =
        const { RefCell::new(VecDeque::new()) };
}

/// The inbound stack as hyper calls it. All of its layers are always ready: they wait in their
/// futures. So `poll_ready` is not called, which saves a future around all others.
#[derive(Clone)]
pub(crate) struct Stack<S> {
    service: S,
    deadlines: Deadlines,
    open: Arc<Open>,
}

impl<S> Stack<S> {
    pub(crate) fn new(service: S, deadlines: Deadlines, open: Arc<Open>) -> Self {
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

/// Runs the streams of HTTP/2 connections, each for little longer than its request may take.
///
/// The guard layer ends a request at its deadline, unless the client takes nothing of the response:
/// then the stream waits in hyper, which does not poll the body.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Streams;

impl<F> Executor<F> for Streams
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, stream: F) {
        // hyper hands over a request, and before the next one its stream.
        let longest = LONGEST.get().saturating_add(limits::STALLED_STREAM_GRACE);
        let request = in_flight::take_begun();
        let refusal = request.is_none().then(|| REFUSALS.with(Arc::clone));
        if refusal.as_ref().map_or(0, Arc::strong_count) > limits::MAX_REFUSALS {
            return; // which resets the stream
        }
        // Boxed: tokio moves a task before and after it runs.
        let stream = Box::pin(Evictable::new(stream, request));
        let stream = Bounded::begun(Deadline::after(longest), stream);
        let stream = stream.map(|_| drop(refusal));
        if NEW.get() < limits::MAX_NEW_STREAMS {
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
        for _ in 0..10 * limits::MAX_NEW_STREAMS {
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
        assert_eq!(left.await.unwrap(), 9 * limits::MAX_NEW_STREAMS);
        while Arc::strong_count(&done) > 1 {
            tokio::task::yield_now().await; // each has its turn
        }
    }
}
