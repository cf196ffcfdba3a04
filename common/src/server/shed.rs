//! Layer 5: what is more than the service can carry is refused at once, so that the rest is
//! served in time.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::BoxError;
use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use tonic::Code;
use tower::{Layer, Service};
use tracing::warn;

use super::{
    head_limit,
    long_lived::{self, Draining, LongLived},
    probe::is_probe,
};
use crate::{
    body::DroppableBody,
    context,
    limited::Limited,
    methods::Deadlines,
    metrics::{self, Counters},
    protocol::Protocol,
};

/// What a worker can carry.
#[derive(Debug, Clone)]
pub(super) struct Capacity(Arc<Worker>);

#[derive(Debug)]
struct Worker {
    limit: i64,
    counters: Arc<Counters>,
    telling: Limited,
    long_lived: LongLived,
}

impl Capacity {
    /// For a worker that may have this many requests in flight, and drains for that long.
    pub(super) fn new(max_in_flight: usize, drain_timeout: Duration) -> Self {
        Self(Arc::new(Worker {
            limit: i64::try_from(max_in_flight).unwrap_or(i64::MAX),
            counters: metrics::of_this_thread(),
            telling: Limited::per_second(1),
            long_lived: LongLived::new(max_in_flight, drain_timeout),
        }))
    }

    /// Ends the long-lived calls, soon.
    pub(super) fn drain(&self) {
        self.0.long_lived.drain();
    }

    /// The layer for methods with these deadlines.
    pub(super) fn layer(self, deadlines: Deadlines) -> ShedLayer {
        ShedLayer {
            capacity: self,
            deadlines,
        }
    }
}

/// There are as many requests in flight as there may be.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("there are as many requests in flight as there may be")]
pub(super) struct Overloaded {
    /// Whether this one is told of in the log.
    pub(super) is_told: bool,
}

/// A request in flight.
struct InFlight {
    worker: Arc<Worker>,
    long_lived: Option<long_lived::Call>,
}

impl InFlight {
    fn begin(worker: &Arc<Worker>) -> (Self, i64) {
        let others = worker.counters.in_flight.fetch_add(1, Ordering::Relaxed);
        let in_flight = Self {
            worker: worker.clone(),
            long_lived: None,
        };
        (in_flight, others)
    }

    /// Whether it has to end before its deadline.
    fn has_to_end(&mut self, cx: &mut Context<'_>) -> bool {
        let end = self.long_lived.as_mut().map(|call| call.poll_end(cx));
        end.is_some_and(|end| end.is_ready())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let in_flight = &self.worker.counters.in_flight;
        in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Refuses requests beyond the limit of their headers or the capacity of a worker. A request is in flight until the last of its
/// answer has left.
#[derive(Debug, Clone)]
pub(super) struct ShedLayer {
    capacity: Capacity,
    deadlines: Deadlines,
}

impl ShedLayer {
    fn admit<B>(&self, request: &Request<B>) -> Result<InFlight, BoxError> {
        head_limit::check(request.headers())?;
        let path = request.uri().path();
        let worker = &self.capacity.0;
        let (mut in_flight, others) = InFlight::begin(worker);
        // Whoever asks how the service is must get an answer now above all.
        if others < worker.limit || is_probe(path) {
            if self.deadlines.is_long_lived(path) {
                in_flight.long_lived = Some(worker.long_lived.begin()?);
            }
            return Ok(in_flight);
        }
        let refused = worker.counters.shed.add(1);
        let is_told = worker.telling.tell().is_some();
        if is_told {
            warn!(
                action = "shed",
                status = "failure",
                limit = worker.limit,
                refused,
                "more requests in flight than this worker may have; they are refused"
            );
        }
        Err(Overloaded { is_told }.into())
    }
}

impl<S> Layer<S> for ShedLayer {
    type Service = ShedService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        ShedService {
            inner,
            layer: self.clone(),
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct ShedService<S> {
    inner: S,
    layer: ShedLayer,
}

impl<S, B, R> Service<Request<B>> for ShedService<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: Into<BoxError>,
{
    type Response = Response<ShedBody<R>>;
    type Error = BoxError;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        match self.layer.admit(&request) {
            Ok(in_flight) => ResponseFuture::Admitted {
                inner: self.inner.call(request),
                in_flight: Some(in_flight),
            },
            Err(error) => ResponseFuture::Refused { error: Some(error) },
        }
    }
}

pin_project_lite::pin_project! {
    /// The future of [`ShedService`].
    #[project = Projection]
    pub(super) enum ResponseFuture<F> {
        Admitted {
            #[pin]
            inner: F,
            in_flight: Option<InFlight>,
        },
        Refused {
            error: Option<BoxError>,
        },
    }
}

impl<F, R, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    E: Into<BoxError>,
{
    type Output = Result<Response<ShedBody<R>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            Projection::Admitted { inner, in_flight } => {
                if has_to_end(in_flight, cx) {
                    return Poll::Ready(Err(Draining.into()));
                }
                let response = ready!(inner.poll(cx)).map_err(Into::into)?;
                let in_flight = in_flight.take();
                Poll::Ready(Ok(response.map(|body| ShedBody {
                    body: DroppableBody::new(body),
                    in_flight,
                })))
            }
            Projection::Refused { error } => {
                let error = error.take().expect("not polled after it is done");
                Poll::Ready(Err(error))
            }
        }
    }
}

fn has_to_end(in_flight: &mut Option<InFlight>, cx: &mut Context<'_>) -> bool {
    let in_flight = in_flight.as_mut();
    in_flight.is_some_and(|in_flight| in_flight.has_to_end(cx))
}

pin_project_lite::pin_project! {
    /// A body whose request is in flight as long as it is there.
    pub(super) struct ShedBody<B> {
        #[pin]
        body: DroppableBody<B>,
        in_flight: Option<InFlight>,
    }
}

impl<B> Body for ShedBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.project();
        if has_to_end(this.in_flight, cx) {
            *this.in_flight = None;
            this.body.drop_body();
            let protocol = context::protocol().unwrap_or(Protocol::Http);
            return Poll::Ready(Some(protocol.break_off(Code::Unavailable, Draining)));
        }
        let frame = ready!(this.body.poll_frame(cx));
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::stream;
    use http_body_util::{BodyExt, StreamBody};
    use tokio::time::{Instant, timeout};
    use tonic::Status;
    use tower::{ServiceBuilder, ServiceExt, service_fn, util::BoxCloneSyncService};

    use super::*;
    use crate::{
        Context as RequestContext, Deadline, RequestId,
        methods::{Method, Methods},
    };

    const PATIENCE: Duration = Duration::from_secs(5);

    type Silence = StreamBody<stream::Pending<Result<Frame<Bytes>, Infallible>>>;

    /// A service whose bodies never end. `/Watch` is long-lived; `/Wait` is, too, and has no
    /// response.
    fn service(
        capacity: &Capacity,
    ) -> BoxCloneSyncService<Request<()>, Response<ShedBody<Silence>>, BoxError> {
        let long = Method {
            deadline: Some(Duration::MAX),
            ..Method::default()
        };
        let methods = ["/Watch", "/Wait"].map(|path| (path.to_owned(), long));
        let deadlines = Deadlines::new(Duration::from_secs(10), &Methods::from(methods));
        let service = service_fn(async |request: Request<()>| {
            if request.uri().path() == "/Wait" {
                std::future::pending::<()>().await;
            }
            let silence = StreamBody::new(stream::pending());
            Ok::<_, Infallible>(Response::new(silence))
        });
        let layer = capacity.clone().layer(deadlines);
        BoxCloneSyncService::new(ServiceBuilder::new().layer(layer).service(service))
    }

    async fn ask(capacity: &Capacity, path: &str) -> Result<Response<ShedBody<Silence>>, BoxError> {
        let request = Request::get(path).body(()).unwrap();
        service(capacity).oneshot(request).await
    }

    /// Whether a refusal is told.
    async fn told(capacity: &Capacity, path: &str) -> bool {
        let error = ask(capacity, path).await.map(drop).unwrap_err();
        error.downcast::<Overloaded>().unwrap().is_told
    }

    #[tokio::test]
    async fn beyond_the_limit_requests_are_refused_and_one_of_them_is_told() {
        let capacity = Capacity::new(2, Duration::ZERO);
        let in_flight = [ask(&capacity, "/").await, ask(&capacity, "/").await];
        assert!(told(&capacity, "/").await);
        assert!(!told(&capacity, "/").await);
        assert!(
            ask(&capacity, "/readyz").await.is_ok(),
            "a probe is answered all the same"
        );
        drop(in_flight);
        assert!(ask(&capacity, "/").await.is_ok());
    }

    #[tokio::test]
    async fn a_part_of_them_may_be_long_lived_and_the_rest_is_for_others() {
        let capacity = Capacity::new(8, Duration::ZERO);
        let long_lived = [
            ask(&capacity, "/Watch").await,
            ask(&capacity, "/Watch").await,
        ];
        assert!(told(&capacity, "/Watch").await);
        assert!(!told(&capacity, "/Watch").await);
        assert!(ask(&capacity, "/").await.is_ok());
        drop(long_lived);
        assert!(ask(&capacity, "/Watch").await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn the_long_lived_end_soon_after_the_drain_began() {
        let capacity = Capacity::new(8, PATIENCE);
        let begin = Instant::now();
        let other = ask(&capacity, "/").await.unwrap();
        let watch = ask(&capacity, "/Watch").await.unwrap();
        let waiting = {
            let capacity = capacity.clone();
            tokio::spawn(async move { ask(&capacity, "/Wait").await.map(drop) })
        };
        tokio::task::yield_now().await;
        capacity.drain();

        let mut context = RequestContext::new(RequestId::fresh(), Deadline::after(PATIENCE));
        context.protocol = Protocol::Grpc;
        let end = context.scope(watch.into_body().collect()).await.unwrap();
        assert_eq!(end.trailers().unwrap()[Status::GRPC_STATUS], "14");
        assert!(waiting.await.unwrap().unwrap_err().is::<Draining>());
        assert_eq!(begin.elapsed(), Duration::from_secs(1));
        let other = timeout(PATIENCE, other.into_body().collect()).await;
        assert!(other.is_err(), "others go on until their deadline");
    }
}
