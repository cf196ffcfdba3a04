//! Layer 4: what breaks the connection is `UNAVAILABLE`.
//!
//! tonic has that code for a connection that can't be opened. One that breaks in the middle of
//! a call is `UNKNOWN` or `CANCELLED` to it, which would read as the fault of the service or as
//! the wish of the client; and so is a call that its channel ends for the `grpc-timeout` that
//! it carries, often a moment before our own timer does.

use std::{
    error::Error,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use http::{Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, combinators::MapErr};
use tonic::{Code, Status, TimeoutExpired};
use tower::Service;

use crate::deadline::DeadlineExceeded;

/// Gives the errors of a transport their gRPC code.
#[derive(Debug, Clone)]
pub struct TransportService<S> {
    inner: S,
}

impl<S> TransportService<S> {
    pub(super) fn new(inner: S) -> Self {
        Self { inner }
    }
}

impl<S, B, R> Service<Request<B>> for TransportService<S>
where
    S: Service<Request<B>, Response = Response<R>, Error = tonic::transport::Error>,
    R: Body<Error = Status>,
{
    type Response = Response<MapErr<R, fn(Status) -> Status>>;
    type Error = Status;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        self.inner.poll_ready(cx).map_err(status_of)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        ResponseFuture {
            inner: self.inner.call(request),
        }
    }
}

pin_project_lite::pin_project! {
    /// The future of [`TransportService`].
    pub struct ResponseFuture<F> {
        #[pin]
        inner: F,
    }
}

impl<F, R> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, tonic::transport::Error>>,
    R: Body<Error = Status>,
{
    type Output = Result<Response<MapErr<R, fn(Status) -> Status>>, Status>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().inner.poll(cx).map(|result| match result {
            Ok(response) => Ok(response.map(|body| body.map_err(broken as fn(Status) -> Status))),
            Err(error) => Err(status_of(error)),
        })
    }
}

fn status_of(error: tonic::transport::Error) -> Status {
    let mut cause: Option<&dyn Error> = Some(&error);
    while let Some(error) = cause {
        if error.is::<TimeoutExpired>() {
            return Status::deadline_exceeded(DeadlineExceeded.to_string());
        }
        cause = error.source();
    }
    broken(Status::from_error(error.into()))
}

/// The status of a call whose connection broke. Codes that say more are kept.
fn broken(status: Status) -> Status {
    match status.code() {
        Code::Unknown | Code::Cancelled => Status::unavailable(status.message()),
        _ => status,
    }
}
