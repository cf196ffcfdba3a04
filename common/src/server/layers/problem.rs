//! [`ProblemLayer`]: turns the failures of the layers below into responses.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use axum::{BoxError, body::Body as AxumBody};
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::Either;
use tower::{Layer, Service};

use super::error_response::with_problems;

/// Turns errors, and error responses without a document, into a [`Problem`](crate::Problem): over
/// HTTP a `problem+json`, over gRPC a status. It belongs below
/// [`RequestLayer`](super::RequestLayer), and above every layer that can fail.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ProblemLayer {
    body_limit: Option<usize>,
}

impl ProblemLayer {
    /// The layer. `body_limit` is the limit of a body, in bytes, if it is known: the response to a
    /// longer body names it.
    pub(crate) fn new(body_limit: Option<usize>) -> Self {
        Self { body_limit }
    }
}

impl<S> Layer<S> for ProblemLayer {
    type Service = ProblemService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        ProblemService {
            inner,
            body_limit: self.body_limit,
            failure: None,
        }
    }
}

/// The service of [`ProblemLayer`].
#[derive(Debug)]
pub struct ProblemService<S> {
    inner: S,
    body_limit: Option<usize>,
    /// The inner service has failed, and takes no request any more.
    failure: Option<BoxError>,
}

impl<S: Clone> Clone for ProblemService<S> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            body_limit: self.body_limit,
            failure: None,
        }
    }
}

impl<S, B, R> Service<Request<B>> for ProblemService<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: Into<BoxError>,
    R: Body<Data = Bytes> + Unpin,
{
    type Response = Response<Either<R, AxumBody>>;
    type Error = Infallible;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.failure = ready!(self.inner.poll_ready(cx)).err().map(Into::into);
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let failure = self.failure.take();
        ResponseFuture {
            inner: failure.is_none().then(|| self.inner.call(request)),
            failure,
            body_limit: self.body_limit,
        }
    }
}

pin_project_lite::pin_project! {
    /// The response future of [`ProblemLayer`].
    pub struct ResponseFuture<F> {
        // `None` if there is a failure.
        #[pin]
        inner: Option<F>,
        failure: Option<BoxError>,
        body_limit: Option<usize>,
    }
}

impl<F, R, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    E: Into<BoxError>,
    R: Body<Data = Bytes> + Unpin,
{
    type Output = Result<Response<Either<R, AxumBody>>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = match (this.inner.as_pin_mut(), this.failure.take()) {
            (Some(inner), _) => ready!(inner.poll(cx)).map_err(Into::into),
            (None, Some(failure)) => Err(failure),
            (None, None) => panic!("the future is not polled after its end"),
        };
        Poll::Ready(Ok(with_problems(result, *this.body_limit)))
    }
}
