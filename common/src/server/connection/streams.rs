//! [`HyperService`]: the inbound stack as a service of hyper; and [`StreamExecutor`]: the executor of HTTP/2
//! streams.

use std::{
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::FutureExt;
use http::Request;
use hyper::{body::Incoming, rt::Executor};

use super::turns::Turns;
use crate::{
    body::deadline::WithDeadline, limits, request::deadline::Deadline, server::capacity::open::Open,
};

thread_local! {
    /// Counts, by its clones, the refusals that their clients have not read yet.
    static REFUSALS: Arc<()> = Arc::default();
}

/// The inbound stack as a service of hyper. Its layers are always ready, because they wait in their
/// futures. So `poll_ready` is not called, which saves a future around the others.
pub(crate) struct HyperService<S> {
    service: S,
    open: Arc<Open>,
    turns: Turns,
}

impl<S> HyperService<S> {
    /// The stack of a connection with these streams.
    pub(crate) fn new(service: S, open: Arc<Open>, streams: &StreamExecutor) -> Self {
        Self {
            service,
            open,
            turns: streams.turns.clone(),
        }
    }
}

/// hyper owns the stack for as long as it serves the connection.
impl<S> Drop for HyperService<S> {
    fn drop(&mut self) {
        self.turns.end();
    }
}

impl<S> hyper::service::Service<Request<Incoming>> for HyperService<S>
where
    S: tower::Service<Request<Incoming>> + Clone,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Begun<S::Future>;

    fn call(&self, request: Request<Incoming>) -> Begun<S::Future> {
        self.open.note_request();
        Begun {
            lets_hyper_look: self.turns.are_many(),
            future: self.service.clone().call(request),
        }
    }
}

pin_project_lite::pin_project! {
    /// A request. If it had to wait for many others, its client may have reset it by now, for which
    /// hyper looks only after a poll of this future.
    pub(crate) struct Begun<F> {
        lets_hyper_look: bool,
        #[pin]
        future: F,
    }
}

impl<F: Future> Future for Begun<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        if mem::take(this.lets_hyper_look) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        this.future.poll(cx)
    }
}

/// Runs the HTTP/2 streams of a connection in [turns](Turns), each for little longer than its request
/// may take.
///
/// The guard layer ends a request at its deadline, unless the client reads nothing of the response:
/// hyper does not poll the body then.
#[derive(Clone)]
pub(crate) struct StreamExecutor {
    open: Arc<Open>,
    turns: Turns,
}

impl StreamExecutor {
    pub(crate) fn new(open: Arc<Open>) -> Self {
        Self {
            open,
            turns: Turns::default(),
        }
    }
}

impl<F> Executor<F> for StreamExecutor
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
        let stream = WithDeadline::begun(end, stream);
        match refusal {
            None => self.turns.add(Box::pin(stream.map(drop))),
            Some(refusal) => {
                let stream = stream.map(|_| drop(refusal));
                self.turns.add_refused(Box::pin(stream));
            }
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
