//! Layer 6: the deadline, enforced. Work that has not answered by then is dropped.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use axum::BoxError;
use http::{Request, Response};
use http_body::Body;
use tower::{Layer, Service};

use crate::{
    bounded::{Bounded, BoundedBody},
    context,
    protocol::Protocol,
};

/// Ends each request at the deadline of its [`Context`](crate::Context): with
/// [`DeadlineExceeded`](crate::deadline::DeadlineExceeded) before the response, in the middle of its body with a [`BoundedBody`].
#[derive(Debug, Clone, Copy)]
pub(super) struct DeadlineLayer;

impl<S> Layer<S> for DeadlineLayer {
    type Service = DeadlineService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        DeadlineService { inner }
    }
}

#[derive(Debug, Clone)]
pub(super) struct DeadlineService<S> {
    inner: S,
}

impl<S, B, R> Service<Request<B>> for DeadlineService<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: Into<BoxError>,
    R: Body,
{
    type Response = Response<BoundedBody<R>>;
    type Error = BoxError;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        const ABOVE: &str = "the context layer stands above this one";
        let arrived = context::arrived().expect(ABOVE);
        let deadline = context::deadline().expect(ABOVE);
        ResponseFuture {
            protocol: context::protocol().expect(ABOVE),
            inner: Bounded::start(arrived, deadline, || self.inner.call(request)),
        }
    }
}

pin_project_lite::pin_project! {
    /// The future of [`DeadlineService`].
    pub(super) struct ResponseFuture<F> {
        #[pin]
        inner: Bounded<F>,
        protocol: Protocol,
    }
}

impl<F, R, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    E: Into<BoxError>,
    R: Body,
{
    type Output = Result<Response<BoundedBody<R>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let deadline = this.inner.deadline();
        let response = ready!(this.inner.poll(cx))?.map_err(Into::into)?;
        let bounded = |body| BoundedBody::new(body, deadline, *this.protocol);
        Poll::Ready(Ok(response.map(bounded)))
    }
}
