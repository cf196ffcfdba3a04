//! [`GuardLayer`]: ends work at its deadline, and turns panics into errors. A panic fails one
//! request, not its worker.
//!
//! tower-http's catch-panic layer guards a handler until it returns a response. This layer guards
//! the body, too: a panic in a body would end all streams of the connection.

use std::{
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll, ready},
};

use axum::BoxError;
use http::{Request, Response};
use http_body::Body;
use tower::{Layer, Service};

use crate::{
    body::{DeadlineBody, Panicked, WithDeadline},
    request::{context, dialect::Dialect},
};

/// Fails late requests with [`DeadlineExceeded`](crate::deadline::DeadlineExceeded), and requests
/// whose handler panics with an error of its own. Once a response has begun, it breaks off.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GuardLayer;

impl<S> Layer<S> for GuardLayer {
    type Service = GuardService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        GuardService { inner }
    }
}

/// The service of [`GuardLayer`].
#[derive(Debug, Clone)]
pub struct GuardService<S> {
    inner: S,
}

impl<S, B, R> Service<Request<B>> for GuardService<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: Into<BoxError>,
    R: Body,
{
    type Response = Response<DeadlineBody<R>>;
    type Error = BoxError;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        const ABOVE: &str = "the request layer stands above this one";
        let arrived = context::arrived().expect(ABOVE);
        let deadline = context::deadline().expect(ABOVE);
        let dialect = context::dialect().expect(ABOVE);
        // By reference, because a closure is moved with all that it has, and these are large.
        let (mut request, mut inner) = (Some(request), None);
        let work = || {
            let call = || self.inner.call(request.take().expect("it is called once"));
            inner = Some(WithDeadline::start(arrived, deadline, call));
        };
        let _panic = catch_unwind(AssertUnwindSafe(work));
        ResponseFuture { inner, dialect }
    }
}

pin_project_lite::pin_project! {
    /// The response future of [`GuardLayer`].
    pub struct ResponseFuture<F> {
        // `None` after a panic.
        #[pin]
        inner: Option<WithDeadline<F>>,
        dialect: &'static dyn Dialect,
    }
}

impl<F, R, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    E: Into<BoxError>,
    R: Body,
{
    type Output = Result<Response<DeadlineBody<R>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let Some(mut inner) = this.inner.as_mut().as_pin_mut() else {
            return Poll::Ready(Err(Panicked.into()));
        };
        let deadline = inner.deadline();
        let poll = catch_unwind(AssertUnwindSafe(|| inner.as_mut().poll(cx)));
        let Ok(poll) = poll else {
            this.inner.set(None);
            return Poll::Ready(Err(Panicked.into()));
        };
        let response = ready!(poll)?.map_err(Into::into)?;
        let guarded = |body| DeadlineBody::new(body, deadline, *this.dialect);
        Poll::Ready(Ok(response.map(guarded)))
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, future, time::Duration};

    use axum::body::Body;
    use futures_util::future::BoxFuture;
    use tower::{ServiceExt, service_fn};

    use super::*;
    use crate::{
        dialect::http::HTTP,
        request::{
            context::{Context as RequestContext, Deadline, DeadlineExceeded},
            id::RequestId,
        },
    };

    type Handled = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    /// The error of a request to this handler, with a deadline of one second.
    async fn error_of(handler: fn(Request<()>) -> Handled) -> BoxError {
        let deadline = Deadline::after(Duration::from_secs(1));
        let service = GuardLayer.layer(service_fn(handler));
        let response = RequestContext::new(RequestId::fresh(), deadline)
            .with(|shared| shared.dialect = Some(HTTP))
            .scope(service.oneshot(Request::new(())));
        response.await.map(drop).expect_err("the handler fails")
    }

    #[tokio::test]
    async fn a_panic_is_an_error_wherever_it_happens() {
        let at_call = error_of(|_| panic!("at the call")).await;
        let later = error_of(|_| Box::pin(async { panic!("later") })).await;
        assert!(at_call.is::<Panicked>() && later.is::<Panicked>());
    }

    #[tokio::test(start_paused = true)]
    async fn a_handler_that_takes_too_long_is_dropped() {
        let late = error_of(|_| Box::pin(future::pending())).await;
        assert!(late.is::<DeadlineExceeded>());
    }
}
