//! Layer 2: the response says in `Server-Timing` where its time went.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Response, Version,
    header::{TE, TRAILER},
};
use http_body::{Body, Frame, SizeHint};
use tower::{Layer, Service};

use crate::{body::DroppableBody, context, timings::Timings};

const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// Puts the [`Timings`] of each request that has them on its response: into the headers as far
/// as they are known by then, and, when the body is a stream and the client takes trailers,
/// into the trailers as they came out.
#[derive(Debug, Clone, Copy)]
pub(super) struct TimingLayer;

impl<S> Layer<S> for TimingLayer {
    type Service = TimingService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        TimingService { inner }
    }
}

#[derive(Debug, Clone)]
pub(super) struct TimingService<S> {
    inner: S,
}

impl<S, B, R> Service<Request<B>> for TimingService<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: Body,
{
    type Response = Response<TimedBody<R>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        ResponseFuture {
            timings: context::timings(),
            takes_trailers: takes_trailers(request.version(), request.headers()),
            inner: self.inner.call(request),
        }
    }
}

/// HTTP/1.1 has trailers only for clients that ask for them.
fn takes_trailers(version: Version, headers: &HeaderMap) -> bool {
    version >= Version::HTTP_2 || headers.get(TE).is_some_and(|te| te == "trailers")
}

pin_project_lite::pin_project! {
    /// The future of [`TimingService`].
    pub(super) struct ResponseFuture<F> {
        #[pin]
        inner: F,
        timings: Option<Timings>,
        takes_trailers: bool,
    }
}

impl<F, R, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: Body,
{
    type Output = Result<Response<TimedBody<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut response = ready!(this.inner.poll(cx))?;
        let mut timings = this.timings.take();
        if let Some(value) = timings.as_ref().and_then(Timings::header_value) {
            response.headers_mut().insert(SERVER_TIMING, value);
        }
        let streams = response.body().size_hint().exact().is_none();
        timings.take_if(|_| !streams || !*this.takes_trailers);
        if timings.is_some() {
            let announced = HeaderValue::from_static("server-timing");
            response.headers_mut().insert(TRAILER, announced);
        }
        Poll::Ready(Ok(response.map(|body| TimedBody {
            body: DroppableBody::new(body),
            timings,
        })))
    }
}

pin_project_lite::pin_project! {
    /// A body with the timings, if there are any, as its trailer.
    pub(super) struct TimedBody<B> {
        #[pin]
        body: DroppableBody<B>,
        timings: Option<Timings>,
    }
}

impl<B: Body> Body for TimedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let mut this = self.project();
        let frame = ready!(this.body.as_mut().poll_frame(cx));
        if frame.is_some() {
            return Poll::Ready(frame);
        }
        this.body.drop_body();
        let timings = this.timings.take();
        let trailers = timings.and_then(|timings| timings.header_value());
        let trailers = trailers.map(|value| HeaderMap::from_iter([(SERVER_TIMING, value)]));
        Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.timings.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
