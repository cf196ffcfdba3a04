//! Layer 2: the deadline of the call, from before it is made to the last byte of its answer.

use std::{
    future::Future,
    pin::Pin,
    task::{self, Poll, ready},
    time::Duration,
};

use axum::BoxError;
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tokio::task::futures::TaskLocalFuture;
use tonic::Status;
use tower::Service;

use crate::{
    Context, Deadline, RequestId,
    bounded::{Bounded, BoundedBody},
    context,
    protocol::Protocol,
};

/// Makes no call when nothing is left of the deadline, and drops one that outlives it; both are
/// `DEADLINE_EXCEEDED`.
///
/// A call outside of any request is a request of its own: it gets a fresh id and the default
/// deadline.
#[derive(Debug, Clone)]
pub struct DeadlineService<S> {
    inner: S,
    default: Duration,
}

impl<S> DeadlineService<S> {
    pub(in crate::client) fn new(inner: S, default: Duration) -> Self {
        Self { inner, default }
    }
}

impl<S, B, R> Service<Request<B>> for DeadlineService<S>
where
    S: Service<Request<B>, Response = Response<R>, Error = Status>,
    R: Body<Data = Bytes>,
    R::Error: Into<BoxError>,
{
    type Response = Response<BoundedBody<R>>;
    type Error = Status;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut task::Context<'_>) -> Poll<Result<(), Status>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let context = context::current()
            .unwrap_or_else(|| Context::new(RequestId::fresh(), Deadline::after(self.default)));
        ResponseFuture {
            call: Bounded::start(context.deadline, || {
                let call = context.clone().sync_scope(|| self.inner.call(request));
                context.scope(call)
            }),
        }
    }
}

pin_project_lite::pin_project! {
    /// The future of [`DeadlineService`].
    pub struct ResponseFuture<F> {
        #[pin]
        call: Bounded<TaskLocalFuture<Context, F>>,
    }
}

impl<F, R> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, Status>>,
    R: Body<Data = Bytes>,
{
    type Output = Result<Response<BoundedBody<R>>, Status>;

    fn poll(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let deadline = this.call.deadline();
        let response = ready!(this.call.poll(cx))
            .map_err(|exceeded| Status::deadline_exceeded(exceeded.to_string()))??;
        let bounded = |body| BoundedBody::new(body, deadline, Protocol::Grpc);
        Poll::Ready(Ok(response.map(bounded)))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        future::pending,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
    };

    use http_body_util::Empty;
    use tonic::Code;
    use tower::{ServiceExt, service_fn};

    use super::*;
    use crate::client::wire::write_context as write;

    type Answer = Result<Response<Empty<Bytes>>, Status>;

    const DEFAULT: Duration = Duration::from_secs(10);

    fn context(deadline: Duration) -> Context {
        Context::new("the-request".parse().unwrap(), Deadline::after(deadline))
    }

    /// Calls through the stack with an `inner` in place of the channel.
    async fn call<S>(inner: S) -> Result<(), Code>
    where
        S: Service<Request<()>, Response = Response<Empty<Bytes>>, Error = Status>,
    {
        let answer = DeadlineService::new(inner, DEFAULT)
            .oneshot(Request::new(()))
            .await;
        answer.map(drop).map_err(|status| status.code())
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_carries_the_id_and_what_is_left_of_the_deadline() {
        let inner = service_fn(async |mut request: Request<()>| -> Answer {
            write(request.headers_mut());
            assert_eq!(request.headers()[RequestId::GRPC_METADATA], "the-request");
            assert_eq!(request.headers()[Deadline::GRPC_TIMEOUT], "2000m");
            Ok(Response::default())
        });
        let request = context(Duration::from_secs(3)).scope(async {
            tokio::time::advance(Duration::from_secs(1)).await;
            call(inner).await
        });
        assert_eq!(request.await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_outside_of_any_request_has_a_fresh_id_and_the_default_deadline() {
        let inner = service_fn(async |mut request: Request<()>| -> Answer {
            write(request.headers_mut());
            assert_eq!(request.headers()[RequestId::GRPC_METADATA].len(), 36);
            assert_eq!(request.headers()[Deadline::GRPC_TIMEOUT], "10000m");
            pending().await
        });
        assert_eq!(call(inner).await, Err(Code::DeadlineExceeded));
    }

    #[tokio::test(start_paused = true)]
    async fn with_nothing_left_no_call_is_made() {
        let calls = Arc::new(AtomicUsize::new(0));
        let inner = {
            let calls = calls.clone();
            service_fn(move |_: Request<()>| {
                calls.fetch_add(1, Ordering::Relaxed);
                async { Ok::<_, Infallible>(Response::default()) }
            })
            .map_err(|never| match never {})
        };
        let request = context(Duration::from_secs(1)).scope(async {
            tokio::time::advance(Duration::from_secs(1)).await;
            call(inner).await
        });
        assert_eq!(request.await, Err(Code::DeadlineExceeded));
        assert_eq!(calls.load(Ordering::Relaxed), 0);
    }
}
