//! [`AdmittedLayer`]: fails what the shed layer has refused, where layers of the service stand between
//! the two and are to see the response.

use std::{
    future::{Ready, ready},
    task::{Context, Poll},
};

use axum::BoxError;
use futures_util::{TryFutureExt, future::Either, future::MapErr};
use http::Request;
use tower::{Layer, Service};

use crate::server::{capacity::worker_capacity::Overloaded, layers::problem::Refusal};

/// The reason why a request gets no permit.
#[derive(Debug, Clone)]
pub(crate) enum NotAdmitted {
    Invalid(Refusal),
    Overloaded(Overloaded),
}

impl From<Refusal> for NotAdmitted {
    fn from(refusal: Refusal) -> Self {
        Self::Invalid(refusal)
    }
}

impl From<Overloaded> for NotAdmitted {
    fn from(overloaded: Overloaded) -> Self {
        Self::Overloaded(overloaded)
    }
}

impl From<NotAdmitted> for BoxError {
    fn from(reason: NotAdmitted) -> Self {
        match reason {
            NotAdmitted::Invalid(refusal) => refusal.into(),
            NotAdmitted::Overloaded(overloaded) => overloaded.into(),
        }
    }
}

/// What the shed layer says of a request, in the extensions of the request.
#[derive(Debug, Clone)]
pub(super) struct Admission(pub(super) Result<(), NotAdmitted>);

/// The layers between have lost what the shed layer said: so the request may be a refused one.
#[derive(Debug, thiserror::Error)]
#[error("a layer of the listener has dropped the extensions of the request")]
struct LostAdmission;

/// Fails requests that the [shed layer](super::ShedLayer) has refused.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AdmittedLayer;

impl<S> Layer<S> for AdmittedLayer {
    type Service = AdmittedService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        AdmittedService { inner }
    }
}

/// The service of [`AdmittedLayer`].
#[derive(Debug, Clone)]
pub(crate) struct AdmittedService<S> {
    inner: S,
}

impl<S, B> Service<Request<B>> for AdmittedService<S>
where
    S: Service<Request<B>>,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future =
        Either<MapErr<S::Future, fn(S::Error) -> BoxError>, Ready<Result<S::Response, BoxError>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let error = match request.extensions().get() {
            Some(Admission(Ok(()))) => {
                return Either::Left(self.inner.call(request).map_err(Into::into));
            }
            Some(Admission(Err(reason))) => reason.clone().into(),
            None => LostAdmission.into(),
        };
        Either::Right(ready(Err(error)))
    }
}
