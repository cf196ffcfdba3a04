//! [`CallTiming`]: the time of each call goes into the timings of its request.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{Request, Response};
use http_body::Body;
use tower::Service;

use crate::{
    body::HoldingBody,
    request::{context, timings::Running},
};

/// Measures each call up to the end of its response, for the `Server-Timing` of its request.
#[derive(Debug, Clone)]
pub struct CallTiming<S>(S);

impl<S> CallTiming<S> {
    pub(crate) fn new(inner: S) -> Self {
        Self(inner)
    }
}

/// A call whose time is measured until this is dropped, if its request is timed.
#[derive(Debug)]
pub struct InProgress {
    _timing: Option<Running>,
}

impl<S, B, R> Service<Request<B>> for CallTiming<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: Body,
{
    type Response = Response<HoldingBody<R, InProgress>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let timing = context::timings().map(|timings| timings.begin(request.uri()));
        let recorded = timing.as_ref().and_then(Running::recorded);
        let call = || self.0.call(request);
        ResponseFuture {
            inner: match recorded {
                Some(timings) => context::with_timings(timings, call),
                None => call(),
            },
            in_progress: Some(InProgress { _timing: timing }),
        }
    }
}

pin_project_lite::pin_project! {
    /// The future of [`CallTiming`].
    pub struct ResponseFuture<F> {
        #[pin]
        inner: F,
        in_progress: Option<InProgress>,
    }
}

impl<F, R, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: Body,
{
    type Output = Result<Response<HoldingBody<R, InProgress>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.inner.poll(cx))?;
        let in_progress = this
            .in_progress
            .take()
            .expect("not polled after it is ready");
        Poll::Ready(Ok(
            response.map(|body| HoldingBody::until_end(body, in_progress))
        ))
    }
}
