//! [`Stack`]: the inbound stack as a service of hyper; and [`Streams`]: the executor of HTTP/2
//! streams.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::FutureExt;
use http::Request;
use hyper::{body::Incoming, rt::Executor};

use crate::{Deadline, bounded::Bounded, limits, server::capacity::open::Open};

thread_local! {
    /// Counts, by its clones, the refusals that their clients have not read yet.
    static REFUSALS: Arc<()> = Arc::default();

    /// The number of streams that are spawned and not yet polled.
    static NEW: Cell<usize> = const { Cell::new(0) };

    /// Streams that wait to be spawned.
    static WAITING: RefCell<VecDeque<Pin<Box<dyn Future<Output = ()> + Send>>>> =
        const { RefCell::new(VecDeque::new()) };
}

/// The inbound stack as a service of hyper. Its layers are always ready, because they wait in their
/// futures. So `poll_ready` is not called, which saves a future around the others.
#[derive(Clone)]
pub(crate) struct Stack<S> {
    service: S,
    open: Arc<Open>,
}

impl<S> Stack<S> {
    pub(crate) fn new(service: S, open: Arc<Open>) -> Self {
        Self { service, open }
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
        self.service.clone().call(request)
    }
}

/// Runs each HTTP/2 stream of a connection as a task, for little longer than its request may take.
///
/// The guard layer ends a request at its deadline, unless the client reads nothing of the response:
/// hyper does not poll the body then.
#[derive(Debug, Clone)]
pub(crate) struct Streams {
    open: Arc<Open>,
}

impl Streams {
    pub(crate) fn new(open: Arc<Open>) -> Self {
        Self { open }
    }
}

impl<F> Executor<F> for Streams
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, stream: F) {
        // hyper calls the stack with a request, and executes its stream before the next call.
        let admitted = self.open.held.take_admitted();
        let end = match admitted {
            Some(deadline) => {
                Deadline::after_from(deadline.instant(), limits::STALLED_STREAM_GRACE)
            }
            None => Deadline::after(limits::REFUSAL_TIMEOUT),
        };
        let refusal = admitted.is_none().then(|| Refusal::new(self.open.clone()));
        if refusal.as_ref().is_some_and(Refusal::is_beyond_limit) {
            return; // which resets the stream
        }
        // Boxed, because tokio moves a task before and after it runs.
        let stream = Bounded::begun(end, Box::pin(stream));
        let stream = stream.map(|_| drop(refusal));
        if NEW.get() < limits::MAX_NEW_STREAMS {
            begin(stream);
        } else {
            WAITING.with_borrow_mut(|waiting| waiting.push_back(Box::pin(stream)));
        }
    }
}

/// A response without a place, until its client has read it.
struct Refusal {
    open: Arc<Open>,
    of_worker: Arc<()>,
}

impl Refusal {
    fn new(open: Arc<Open>) -> Self {
        open.held.begin_refusal();
        Self {
            open,
            of_worker: REFUSALS.with(Arc::clone),
        }
    }

    fn is_beyond_limit(&self) -> bool {
        Arc::strong_count(&self.of_worker) > limits::MAX_REFUSALS
    }
}

impl Drop for Refusal {
    fn drop(&mut self) {
        self.open.held.end_refusal();
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
    /// A stream that spawns the next one at its first poll.
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
        let open = Arc::new(Open::new(std::net::Ipv4Addr::LOCALHOST.into()));
        let streams = Streams::new(open);
        for _ in 0..10 * limits::MAX_NEW_STREAMS {
            let mut done = Some(done.clone());
            streams.execute(async move {
                drop(done.take());
                pending::<()>().await;
            });
        }
        // Another task waits only for the streams that are spawned at once.
        let left = tokio::spawn({
            let done = Arc::downgrade(&done);
            async move { done.strong_count() - 1 }
        });
        assert_eq!(left.await.unwrap(), 9 * limits::MAX_NEW_STREAMS);
        while Arc::strong_count(&done) > 1 {
            tokio::task::yield_now().await; // each stream is polled
        }
    }
}
