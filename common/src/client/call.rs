//! The layers of a call, above its attempts: [`CallTiming`] puts the time of each call into the timings of
//! its request; [`CallDeadline`] enforces the deadline of a call, from before its first attempt to the end of
//! its response; and [`CallLimit`] limits the calls in flight of the process.

use std::{
    pin::Pin,
    sync::Arc,
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
    body::{DeadlineBody, HoldingBody, WithDeadline},
    calls::{CallPermit, CallPermits, ServiceCalls},
    dialect::{grpc::GRPC, grpc_timeout::parse_timeout},
    headers::first,
    request::{
        context::{self, Context, Deadline, Scope},
        methods::RouteTable,
        timings::Running,
    },
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
    type Future = TimedFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut task::Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let timing = context::timings().map(|timings| timings.begin(request.uri()));
        let recorded = timing.as_ref().and_then(Running::recorded);
        let call = || self.0.call(request);
        TimedFuture {
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
    pub struct TimedFuture<F> {
        #[pin]
        inner: F,
        in_progress: Option<InProgress>,
    }
}

impl<F, R, E> Future for TimedFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: Body,
{
    type Output = Result<Response<HoldingBody<R, InProgress>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Self::Output> {
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
        let asked = first(request.headers(), &Deadline::GRPC_TIMEOUT);
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
    type Future = BoundedFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut task::Context<'_>) -> Poll<Result<(), Status>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let now = Instant::now();
        let context = self.context(&request, now);
        BoundedFuture {
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
    pub struct BoundedFuture<F> {
        #[pin]
        call: WithDeadline<Scope<F>>,
    }
}

impl<F, R> Future for BoundedFuture<F>
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

/// Refuses calls to a service that hangs while `MAX_CALLS` calls are in flight over all channels.
///
/// A call counts until the first data of its response. What follows comes at the pace of its reader,
/// which `MAX_IN_FLIGHT` bounds.
#[derive(Debug, Clone)]
pub struct CallLimit<S> {
    inner: S,
    /// Which calls are long-lived: they are counted apart.
    deadlines: RouteTable,
    calls: &'static CallPermits,
    service: Arc<ServiceCalls>,
}

impl<S> CallLimit<S> {
    pub(crate) fn new(
        inner: S,
        deadlines: RouteTable,
        calls: &'static CallPermits,
        service: Arc<ServiceCalls>,
    ) -> Self {
        Self {
            inner,
            deadlines,
            calls,
            service,
        }
    }
}

impl<S, B, R> Service<Request<B>> for CallLimit<S>
where
    S: Service<Request<B>, Response = Response<R>, Error = Status>,
    R: Body,
{
    type Response = Response<HoldingBody<R, CallPermit>>;
    type Error = Status;
    type Future = LimitedFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut task::Context<'_>) -> Poll<Result<(), Status>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let terms = self.deadlines.terms(request.uri().path());
        match self.calls.begin(&self.service, terms.is_long_lived) {
            Ok(in_flight) => LimitedFuture::Begun {
                call: self.inner.call(request),
                in_flight: Some(in_flight),
            },
            Err(refused) => LimitedFuture::Refused {
                status: Some(refused.into()),
            },
        }
    }
}

pin_project_lite::pin_project! {
    /// The future of [`CallLimit`].
    #[project = State]
    pub enum LimitedFuture<F> {
        /// The call is in flight.
        Begun {
            #[pin]
            call: F,
            in_flight: Option<CallPermit>,
        },
        /// There are too many calls.
        Refused { status: Option<Status> },
    }
}

const READY_ONCE: &str = "not polled after it is ready";

impl<F, R> Future for LimitedFuture<F>
where
    F: Future<Output = Result<Response<R>, Status>>,
    R: Body,
{
    type Output = Result<Response<HoldingBody<R, CallPermit>>, Status>;

    fn poll(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            State::Begun { call, in_flight } => {
                let response = ready!(call.poll(cx));
                let in_flight = in_flight.take().expect(READY_ONCE);
                in_flight.note_response();
                let response = response?;
                Poll::Ready(Ok(
                    response.map(|body| HoldingBody::until_data(body, in_flight))
                ))
            }
            State::Refused { status } => Poll::Ready(Err(status.take().expect(READY_ONCE))),
        }
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

    use bytes::Bytes;
    use http_body_util::{BodyExt, Empty, Full};
    use tokio::{task::JoinHandle, time::sleep};
    use tonic::Code;
    use tower::{ServiceExt, service_fn};

    use super::*;
    use crate::{
        client::{config::RequestIdNames, wire::origin::write_context},
        problem::Problem,
        request::{
            id::RequestId,
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

    const WATCH: &str = "/a.Service/Watch";
    const GET: &str = "/a.Service/Get";
    const HANG: &str = "/a.Service/Hang";

    type Limited = Result<Response<HoldingBody<Full<Bytes>, CallPermit>>, Status>;

    /// A function that makes a call of a method, with at most two in flight. The method `Hang` has
    /// no response.
    fn caller() -> impl Fn(&'static str) -> JoinHandle<Limited> {
        let calls: &'static CallPermits = Box::leak(Box::new(CallPermits::unlimited()));
        calls.set_limit(2);
        caller_of(calls)
    }

    /// The same, of a service of its own.
    fn caller_of(calls: &'static CallPermits) -> impl Fn(&'static str) -> JoinHandle<Limited> {
        let watch = Method {
            deadline: Some(Duration::MAX),
            ..Method::default()
        };
        let methods = Methods::from([(WATCH.to_owned(), watch)]);
        let deadlines = RouteTable::of_methods(Duration::from_secs(10), &methods);
        let inner = service_fn(async |request: Request<()>| {
            if request.uri().path().ends_with("Hang") {
                return pending().await;
            }
            Ok::<_, Status>(Response::new(Full::new(Bytes::from_static(b"data"))))
        });
        let limited = CallLimit::new(inner, deadlines, calls, Arc::default());
        move |method| {
            let request = Request::post(method).body(()).unwrap();
            tokio::spawn(limited.clone().oneshot(request))
        }
    }

    #[tokio::test]
    async fn a_call_beyond_the_limit_fails_at_once_and_says_why() {
        let call = caller();
        let hanging = [call(HANG), call(HANG)];
        tokio::task::yield_now().await;
        let refused = call(GET).await.unwrap().unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        assert!(refused.metadata().contains_key("grpc-retry-pushback-ms"));
        let problem = Problem::from(refused);
        assert_eq!(problem.status(), 503);
        assert!(problem.detail().contains("MAX_CALLS"), "{problem:?}");
        for one in hanging {
            one.abort();
            assert!(one.await.is_err());
        }
        assert!(call(GET).await.unwrap().is_ok(), "there is room again");
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_responds_may_have_more() {
        let call = caller();
        let responses = [call(GET), call(GET), call(GET)];
        let [.., last] = responses;
        let _open = last.await.unwrap().unwrap();
        sleep(Duration::from_millis(99)).await;
        assert!(call(GET).await.unwrap().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_hangs_leaves_room_for_another() {
        let calls: &'static CallPermits = Box::leak(Box::new(CallPermits::unlimited()));
        calls.set_limit(2);
        let (call, other) = (caller_of(calls), caller_of(calls));
        let _hanging = [call(HANG), call(HANG)];
        tokio::task::yield_now().await;
        assert!(call(GET).await.unwrap().is_err());
        assert!(other(GET).await.unwrap().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_counts_until_the_first_data_of_its_response() {
        let call = caller();
        let mut open = call(GET).await.unwrap().unwrap();
        let _other = call(GET).await.unwrap().unwrap();
        sleep(Duration::from_secs(1)).await;
        assert!(call(GET).await.unwrap().is_err());
        assert!(open.frame().await.is_some());
        assert!(call(GET).await.unwrap().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn long_lived_calls_are_counted_apart() {
        let call = caller();
        let long = [
            call(WATCH).await.unwrap().unwrap(),
            call(WATCH).await.unwrap().unwrap(),
        ];
        sleep(Duration::from_secs(1)).await;
        assert!(call(WATCH).await.unwrap().is_err());
        let _ordinary = [
            call(GET).await.unwrap().unwrap(),
            call(GET).await.unwrap().unwrap(),
        ];
        sleep(Duration::from_secs(1)).await;
        assert!(call(GET).await.unwrap().is_err());
        drop(long);
        assert!(call(WATCH).await.unwrap().is_ok());
    }
}
