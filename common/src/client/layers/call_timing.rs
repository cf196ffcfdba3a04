//! Layer 1: each call is in the timings of its request.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use tower::Service;

use crate::{context, timings::Running};

/// Measures each call up to the last of its answer, for the `Server-Timing` of its request.
#[derive(Debug, Clone)]
pub struct TimingService<S> {
    inner: S,
}

impl<S> TimingService<S> {
    pub(in crate::client) fn new(inner: S) -> Self {
        Self { inner }
    }
}

impl<S, B, R> Service<Request<B>> for TimingService<S>
where
    S: Service<Request<B>, Response = Response<R>>,
{
    type Response = Response<TimedBody<R>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let timings = context::timings();
        ResponseFuture {
            running: timings.map(|timings| timings.begin(request.uri())),
            inner: self.inner.call(request),
        }
    }
}

pin_project_lite::pin_project! {
    /// The future of [`TimingService`].
    pub struct ResponseFuture<F> {
        #[pin]
        inner: F,
        running: Option<Running>,
    }
}

impl<F, R, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = Result<Response<TimedBody<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.inner.poll(cx));
        let running = this.running.take();
        Poll::Ready(response.map(|response| response.map(|body| TimedBody { body, running })))
    }
}

pin_project_lite::pin_project! {
    /// A body whose call is over when it is dropped.
    pub struct TimedBody<B> {
        #[pin]
        body: B,
        running: Option<Running>,
    }
}

impl<B: Body> Body for TimedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.project().body.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
