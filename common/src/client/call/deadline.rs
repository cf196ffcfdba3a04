//! [`CallDeadline`]: the deadline of a call, from before its first attempt to the end of its
//! response.

use std::{
    pin::Pin,
    task::{self, Poll, ready},
};

use axum::BoxError;
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tokio::time::Instant;
use tonic::Status;
use tower::Service;

use crate::{
    body::{DeadlineBody, WithDeadline},
    dialect::{grpc::GRPC, grpc_timeout::parse_timeout},
    request::{
        context::{Context, Deadline, Scope},
        methods::RouteTable,
    },
};

/// Fails a call with `DEADLINE_EXCEEDED` when no time is left for it, and drops a call that
/// outlives its deadline with the same status.
///
/// The deadline of a call is the earliest of three: its method's, its caller's
/// (`tonic::Request::set_timeout`) and its request's. A call outside of any request is a request
/// of its own, with a fresh id.
#[derive(Debug, Clone)]
pub struct CallDeadline<S> {
    inner: S,
    deadlines: RouteTable,
}

impl<S> CallDeadline<S> {
    pub(crate) fn new(inner: S, deadlines: RouteTable) -> Self {
        Self { inner, deadlines }
    }

    /// The context of a call that starts `now`.
    fn context<B>(&self, request: &Request<B>, now: Instant) -> Context {
        let mut timeout = self.deadlines.terms(request.uri().path()).longest;
        let asked = request.headers().get(Deadline::GRPC_TIMEOUT);
        if let Some(Ok(asked)) = asked.map(parse_timeout) {
            timeout = timeout.min(asked);
        }
        Context::of_call(Deadline::after_from(now, timeout))
    }
}

impl<S, B, R> Service<Request<B>> for CallDeadline<S>
where
    S: Service<Request<B>, Response = Response<R>, Error = Status>,
    R: Body<Data = Bytes>,
    R::Error: Into<BoxError>,
{
    type Response = Response<DeadlineBody<R>>;
    type Error = Status;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut task::Context<'_>) -> Poll<Result<(), Status>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let now = Instant::now();
        let context = self.context(&request, now);
        ResponseFuture {
            call: WithDeadline::start(now, context.deadline, || {
                let entered = context.clone().enter();
                let call = self.inner.call(request);
                drop(entered);
                context.scope(call)
            }),
        }
    }
}

pin_project_lite::pin_project! {
    /// The future of [`CallDeadline`].
    pub struct ResponseFuture<F> {
        #[pin]
        call: WithDeadline<Scope<F>>,
    }
}

impl<F, R> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, Status>>,
    R: Body<Data = Bytes>,
{
    type Output = Result<Response<DeadlineBody<R>>, Status>;

    fn poll(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let deadline = this.call.deadline();
        let response = ready!(this.call.poll(cx))
            .map_err(|exceeded| Status::deadline_exceeded(exceeded.to_string()))??;
        let bounded = |body| DeadlineBody::new(body, deadline, GRPC);
        Poll::Ready(Ok(response.map(bounded)))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        future::{self, pending},
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
        time::Duration,
    };

    use http_body_util::Empty;
    use tonic::Code;
    use tower::{ServiceExt, service_fn};

    use super::*;
    use crate::{
        client::{config::RequestIdNames, wire::origin::write_context},
        request::{
            context::RequestId,
            methods::{Method, Methods},
        },
    };

    type Outcome = Result<Response<Empty<Bytes>>, Status>;

    const DEFAULT: Duration = Duration::from_secs(10);
    const SECOND: Duration = Duration::from_secs(1);

    fn context(deadline: Duration) -> Context {
        Context::new("the-request".parse().unwrap(), Deadline::after(deadline))
    }

    fn write(headers: &mut http::HeaderMap) {
        write_context(headers, RequestIdNames::Both);
    }

    /// Sends a request through the layer with an `inner` in place of the channel.
    async fn send<S>(inner: S, request: Request<()>) -> Result<(), Code>
    where
        S: Service<Request<()>, Response = Response<Empty<Bytes>>, Error = Status>,
    {
        let declared = [
            ("/a.Service/Long", Duration::from_mins(2)),
            ("/a.Service/Short", SECOND),
        ];
        let declared = declared.map(|(path, deadline)| {
            let method = Method {
                deadline: Some(deadline),
                ..Method::default()
            };
            (path.to_owned(), method)
        });
        let deadlines = RouteTable::of_methods(DEFAULT, &Methods::from(declared));
        let outcome = CallDeadline::new(inner, deadlines).oneshot(request).await;
        outcome.map(drop).map_err(|status| status.code())
    }

    async fn call<S>(inner: S) -> Result<(), Code>
    where
        S: Service<Request<()>, Response = Response<Empty<Bytes>>, Error = Status>,
    {
        send(inner, Request::new(())).await
    }

    /// The `grpc-timeout` that a call of this method carries.
    async fn timeout_of(method: &'static str, asked: Option<&'static str>) -> String {
        let (sent, timeout) = std::sync::mpsc::channel();
        let inner = service_fn(|mut request: Request<()>| {
            write(request.headers_mut());
            let timeout = request.headers()[Deadline::GRPC_TIMEOUT].to_str();
            sent.send(timeout.unwrap().to_owned()).unwrap();
            future::ready(Outcome::Ok(Response::default()))
        });
        let mut request = Request::post(method);
        if let Some(asked) = asked {
            request = request.header(Deadline::GRPC_TIMEOUT, asked);
        }
        let request = request.body(()).unwrap();
        assert_eq!(send(inner, request).await, Ok(()));
        timeout.recv().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_has_the_earliest_deadline_of_its_method_its_caller_and_its_request() {
        const ANY: &str = "/a.Service/Any";
        const LONG: &str = "/a.Service/Long";
        const SHORT: &str = "/a.Service/Short";
        assert_eq!(timeout_of(ANY, None).await, "10000m");
        assert_eq!(timeout_of(ANY, Some("2S")).await, "2000m");
        assert_eq!(timeout_of(ANY, Some("1M")).await, "10000m");
        assert_eq!(timeout_of(LONG, None).await, "120000m");
        assert_eq!(timeout_of(LONG, Some("1M")).await, "60000m");
        assert_eq!(timeout_of(SHORT, None).await, "1000m");
        for (method, left) in [(ANY, "3000m"), (LONG, "3000m"), (SHORT, "1000m")] {
            let request = context(3 * SECOND).scope(timeout_of(method, None));
            assert_eq!(request.await, left, "{method}");
        }
        // A call has a deadline even if its request has none.
        let endless = context(Duration::MAX).scope(timeout_of(ANY, None));
        assert_eq!(endless.await, "10000m");
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_carries_the_id_and_what_is_left_of_the_deadline() {
        let inner = service_fn(async |mut request: Request<()>| -> Outcome {
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
        let inner = service_fn(async |mut request: Request<()>| -> Outcome {
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
