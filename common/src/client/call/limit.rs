//! [`CallLimit`]: limits the calls in flight of the process.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{Request, Response};
use http_body::Body;
use tonic::Status;
use tower::Service;

use crate::{
    body::HoldingBody,
    calls::{CallPermit, CallPermits, ServiceCalls},
    request::methods::RouteTable,
};

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
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let terms = self.deadlines.terms(request.uri().path());
        match self.calls.begin(&self.service, terms.is_long_lived) {
            Ok(in_flight) => ResponseFuture::Begun {
                call: self.inner.call(request),
                in_flight: Some(in_flight),
            },
            Err(refused) => ResponseFuture::Refused {
                status: Some(refused.into()),
            },
        }
    }
}

pin_project_lite::pin_project! {
    /// The future of [`CallLimit`].
    #[project = State]
    pub enum ResponseFuture<F> {
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

impl<F, R> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, Status>>,
    R: Body,
{
    type Output = Result<Response<HoldingBody<R, CallPermit>>, Status>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
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
    use std::{future::pending, time::Duration};

    use bytes::Bytes;
    use http_body_util::{BodyExt, Full};
    use tokio::{task::JoinHandle, time::sleep};
    use tonic::Code;
    use tower::{ServiceExt, service_fn};

    use super::*;
    use crate::{
        problem::Problem,
        request::methods::{Method, Methods},
    };

    const WATCH: &str = "/a.Service/Watch";
    const GET: &str = "/a.Service/Get";
    const HANG: &str = "/a.Service/Hang";

    type Outcome = Result<Response<HoldingBody<Full<Bytes>, CallPermit>>, Status>;

    /// A function that makes a call of a method, with at most two in flight. The method `Hang` has
    /// no response.
    fn caller() -> impl Fn(&'static str) -> JoinHandle<Outcome> {
        let calls: &'static CallPermits = Box::leak(Box::new(CallPermits::unlimited()));
        calls.set_limit(2);
        caller_of(calls)
    }

    /// The same, of a service of its own.
    fn caller_of(calls: &'static CallPermits) -> impl Fn(&'static str) -> JoinHandle<Outcome> {
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
