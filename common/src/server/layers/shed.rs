//! [`ShedLayer`]: refuses requests beyond what the service can carry, so that it serves the others
//! in time.

use std::{
    future::Future,
    net::Ipv4Addr,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::BoxError;
use bytes::Bytes;
use http::{Request, Response, Version};
use http_body::{Body, Frame, SizeHint};
use tonic::Code;
use tower::{Layer, Service};

use super::head;
use crate::{
    body::DroppableBody,
    context, limits,
    methods::{Deadlines, Methods},
    protocol::Protocol,
    server::capacity::{
        Capacity, Overloaded,
        kind::Kind,
        long_lived::{self, Draining},
        open::Open,
        share::InFlight,
    },
};

/// The places and the metrics of a request in flight.
struct Served {
    in_flight: InFlight,
    capacity: Arc<Capacity>,
    long_lived: Option<long_lived::Call>,
}

/// The reason why a request must end before its deadline.
enum MustEnd {
    GivesWay,
    Draining,
}

impl MustEnd {
    fn into_error(self) -> BoxError {
        match self {
            Self::GivesWay => GIVES_WAY.into(),
            Self::Draining => Draining.into(),
        }
    }

    /// Ends a response that has begun.
    fn break_off(self) -> Result<Frame<Bytes>, BoxError> {
        let protocol = context::protocol().unwrap_or(Protocol::Http);
        match self {
            Self::GivesWay => protocol.break_off(Code::ResourceExhausted, GIVES_WAY),
            Self::Draining => protocol.break_off(Code::Unavailable, Draining),
        }
    }
}

const GIVES_WAY: Overloaded = Overloaded { is_logged: false };

impl Served {
    /// Whether the request must end, and why. Registers the task to be woken when it must.
    fn must_end(&mut self, cx: &mut Context<'_>) -> Option<MustEnd> {
        if self.in_flight.request.gives_way() {
            return Some(MustEnd::GivesWay);
        }
        let end = self.long_lived.as_mut().map(|call| call.poll_end(cx));
        end.is_some_and(|end| end.is_ready())
            .then_some(MustEnd::Draining)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let in_flight = &self.capacity.counters.in_flight;
        in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Refuses requests with a bad head and requests without a place, and ends requests that give way.
/// A request is in flight until its client has read nearly all of the response.
///
/// Below another server than [`server::run`](crate::server::run), no request gives way, and all
/// connections count as one.
///
/// ```
/// use axum::{Router, body::Body, routing::get};
/// use common::server::layers::{GuardLayer, ProblemLayer, RequestLayer, ShedLayer};
/// use http::Request;
/// use std::time::Duration;
/// use tower::{ServiceBuilder, ServiceExt};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let router = Router::new().route("/", get(|| async { "Hello!" })).layer(
///     ServiceBuilder::new()
///         .layer(RequestLayer::http(Duration::from_secs(10)))
///         .layer(ProblemLayer::default())
///         .layer(ShedLayer::http(0))
///         .layer(GuardLayer),
/// );
/// let request = Request::get("/").header("host", "localhost").body(Body::empty());
/// let response = router.oneshot(request.unwrap()).await.unwrap();
/// assert_eq!(response.status(), 503);
/// assert_eq!(response.headers()["retry-after"], "1");
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct ShedLayer(Arc<Admission>);

#[derive(Debug)]
struct Admission {
    capacity: Arc<Capacity>,
    open: Arc<Open>,
    port: Protocol,
    deadlines: Deadlines,
}

impl ShedLayer {
    /// A layer for HTTP, for at most this number of requests in flight. Probes and scrapes are
    /// counted apart.
    pub fn http(max_in_flight: usize) -> Self {
        Self::alone(max_in_flight, Protocol::Http)
    }

    /// A layer for gRPC, for at most this number of requests in flight. Health checks are counted
    /// apart.
    pub fn grpc(max_in_flight: usize) -> Self {
        Self::alone(max_in_flight, Protocol::Grpc)
    }

    fn alone(max_in_flight: usize, port: Protocol) -> Self {
        let open = Arc::new(Open::new(Ipv4Addr::UNSPECIFIED.into()));
        let deadlines = Deadlines::of_methods(Duration::MAX, &Methods::new());
        let capacity = Arc::new(Capacity::alone(max_in_flight));
        Self::of_connection(capacity, open, port, deadlines)
    }

    /// A layer for the requests of one connection. `port` is the protocol of its port, and
    /// `deadlines` has the methods of the port.
    pub(crate) fn of_connection(
        capacity: Arc<Capacity>,
        open: Arc<Open>,
        port: Protocol,
        deadlines: Deadlines,
    ) -> Self {
        Self(Arc::new(Admission {
            capacity,
            open,
            port,
            deadlines,
        }))
    }
}

impl Admission {
    fn admit<B>(&self, request: &Request<B>) -> Result<Served, BoxError> {
        head::check(request, self.port)?;
        let path = request.uri().path();
        let is_long_lived = self.deadlines.is_long_lived(path);
        let kind = Kind::of(path, is_long_lived);
        let capacity = &self.capacity;
        let in_flight = capacity.share.take(&self.open, kind);
        let in_flight = in_flight.map_err(|no_place| capacity.refuse(kind, no_place))?;
        capacity.counters.in_flight.fetch_add(1, Ordering::Relaxed);
        Ok(Served {
            in_flight,
            capacity: capacity.clone(),
            long_lived: is_long_lived.then(|| capacity.long_lived.begin()),
        })
    }
}

impl<S> Layer<S> for ShedLayer {
    type Service = ShedService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        ShedService {
            inner,
            admission: self.0.clone(),
        }
    }
}

/// The service of [`ShedLayer`].
#[derive(Debug, Clone)]
pub struct ShedService<S> {
    inner: S,
    admission: Arc<Admission>,
}

impl<S, B, R> Service<Request<B>> for ShedService<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: Into<BoxError>,
    R: Body,
{
    type Response = Response<ShedBody<R>>;
    type Error = BoxError;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        match self.admission.admit(&request) {
            Ok(served) => ResponseFuture::Admitted {
                is_http2: request.version() == Version::HTTP_2,
                inner: self.inner.call(request),
                served: Some(served),
            },
            Err(error) => ResponseFuture::Refused { error: Some(error) },
        }
    }
}

pin_project_lite::pin_project! {
    #[project = Projection]
    /// The response future of [`ShedLayer`].
    pub enum ResponseFuture<F> {
        Admitted {
            #[pin]
            inner: F,
            served: Option<Served>,
            is_http2: bool,
        },
        Refused {
            error: Option<BoxError>,
        },
    }
}

const NOT_DONE: &str = "the future is not polled after its end";

impl<F, R, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    E: Into<BoxError>,
    R: Body,
{
    type Output = Result<Response<ShedBody<R>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            Projection::Admitted {
                inner,
                served,
                is_http2,
            } => {
                if let Some(why) = served.as_mut().expect(NOT_DONE).must_end(cx) {
                    return Poll::Ready(Err(why.into_error()));
                }
                let response = ready!(inner.poll(cx)).map_err(Into::into)?;
                let served = served.take().expect(NOT_DONE);
                served.in_flight.request.note_offered();
                Poll::Ready(Ok(response.map(|body| ShedBody {
                    ends_alone: *is_http2 && !body.is_end_stream(),
                    body: DroppableBody::new(body),
                    served: Some(served),
                    rest: Bytes::new(),
                })))
            }
            Projection::Refused { error } => Poll::Ready(Err(error.take().expect(NOT_DONE))),
        }
    }
}

pin_project_lite::pin_project! {
    /// A body whose request is in flight until the client has read nearly all of it.
    pub struct ShedBody<B> {
        #[pin]
        body: DroppableBody<B>,
        served: Option<Served>,
        // The rest of a frame that is longer than [`limits::FRAME`].
        rest: Bytes,
        // Over HTTP/2, the body does not announce its end: hyper polls for it once the client has
        // read the rest.
        ends_alone: bool,
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
        let mut this = self.project();
        let must_end = this.served.as_mut().and_then(|served| served.must_end(cx));
        if let Some(why) = must_end {
            *this.served = None;
            *this.rest = Bytes::new();
            this.body.drop_body();
            return Poll::Ready(Some(why.break_off()));
        }
        if !this.rest.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(next_of(this.rest)))));
        }
        let frame = this.body.as_mut().poll_frame(cx);
        if let Some(served) = this.served {
            match frame {
                Poll::Ready(_) => served.in_flight.request.note_offered(),
                Poll::Pending => served.in_flight.request.note_waited_for(),
            }
        }
        let Some(frame) = ready!(frame).transpose().map_err(Into::into)? else {
            *this.ends_alone = false;
            return Poll::Ready(None);
        };
        let frame = frame.map_data(|data| {
            *this.rest = data;
            next_of(this.rest)
        });
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        !self.ends_alone && self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.rest.len() as u64;
        let body = self.body.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(body.lower() + rest);
        if let Some(upper) = body.upper() {
            hint.set_upper(upper + rest);
        }
        hint
    }
}

/// Splits the next frame off.
fn next_of(rest: &mut Bytes) -> Bytes {
    rest.split_to(rest.len().min(limits::FRAME))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::{FutureExt, stream};
    use http_body_util::{BodyExt, Full, StreamBody};
    use tokio::time::{Instant, timeout};
    use tokio_util::sync::CancellationToken;
    use tonic::Status;
    use tower::{ServiceBuilder, ServiceExt, service_fn, util::BoxCloneSyncService};

    use super::*;
    use crate::server::capacity::{
        connections::{Connection, Connections},
        long_lived::LongLived,
        places::Places,
    };
    use crate::{Context as RequestContext, Deadline, RequestId, methods::Method};

    const PATIENCE: Duration = Duration::from_secs(5);

    type Silence = StreamBody<stream::Pending<Result<Frame<Bytes>, Infallible>>>;

    /// The capacity for this number of requests in flight.
    fn capacity(max_in_flight: usize) -> (Arc<Capacity>, Arc<Connections>) {
        let connections = Arc::new(Connections::new(16));
        let places = Arc::new(Places::new(max_in_flight, connections.clone()));
        let long_lived = LongLived::new(CancellationToken::new(), PATIENCE);
        (Arc::new(Capacity::new(places, 1, long_lived)), connections)
    }

    async fn connect(connections: &Arc<Connections>) -> Connection {
        connections.admit(Ipv4Addr::LOCALHOST.into()).await
    }

    /// A service whose bodies never end. `/Watch` and `/Wait` are long-lived; `/Wait` never
    /// responds.
    fn service(
        capacity: &Arc<Capacity>,
        connection: &Connection,
    ) -> BoxCloneSyncService<Request<()>, Response<ShedBody<Silence>>, BoxError> {
        let long = Method {
            deadline: Some(Duration::MAX),
            ..Method::default()
        };
        let methods = ["/Watch", "/Wait"].map(|path| (path.to_owned(), long));
        let deadlines = Deadlines::of_methods(Duration::from_secs(10), &Methods::from(methods));
        let service = service_fn(async |request: Request<()>| {
            if request.uri().path() == "/Wait" {
                std::future::pending::<()>().await;
            }
            let silence = StreamBody::new(stream::pending());
            Ok::<_, Infallible>(Response::new(silence))
        });
        let open = connection.open.clone();
        let layer = ShedLayer::of_connection(capacity.clone(), open, Protocol::Http, deadlines);
        BoxCloneSyncService::new(ServiceBuilder::new().layer(layer).service(service))
    }

    async fn ask(
        capacity: &Arc<Capacity>,
        connection: &Connection,
        path: &str,
    ) -> Result<Response<ShedBody<Silence>>, BoxError> {
        let request = Request::get(path).version(Version::HTTP_2);
        let request = request.body(()).unwrap();
        service(capacity, connection).oneshot(request).await
    }

    /// Whether the access line of a refused request has its usual level.
    async fn is_refusal_logged(
        capacity: &Arc<Capacity>,
        connection: &Connection,
        path: &str,
    ) -> bool {
        let error = ask(capacity, connection, path).await.map(drop).unwrap_err();
        error.downcast::<Overloaded>().unwrap().is_logged
    }

    /// Whether a response is still served: its client waits for more.
    fn is_served(response: &mut Response<ShedBody<Silence>>) -> bool {
        response.body_mut().frame().now_or_never().is_none()
    }

    #[tokio::test]
    async fn requests_beyond_the_limit_are_refused_and_one_refusal_is_logged() {
        let (capacity, connections) = capacity(2);
        let peer = connect(&connections).await;
        let in_flight = [
            ask(&capacity, &peer, "/").await,
            ask(&capacity, &peer, "/").await,
        ];
        assert!(is_refusal_logged(&capacity, &peer, "/").await);
        assert!(!is_refusal_logged(&capacity, &peer, "/").await);
        let probe = ask(&capacity, &peer, "/readyz").await;
        assert!(probe.is_ok(), "probes have a limit of their own");
        drop(in_flight);
        assert!(ask(&capacity, &peer, "/").await.is_ok());
    }

    #[tokio::test]
    async fn long_lived_calls_leave_a_part_of_the_places_to_others() {
        let (capacity, connections) = capacity(8);
        let peer = connect(&connections).await;
        let long_lived = [
            ask(&capacity, &peer, "/Watch").await,
            ask(&capacity, &peer, "/Watch").await,
        ];
        assert!(is_refusal_logged(&capacity, &peer, "/Watch").await);
        assert!(!is_refusal_logged(&capacity, &peer, "/Watch").await);
        assert!(ask(&capacity, &peer, "/").await.is_ok());
        drop(long_lived);
        assert!(ask(&capacity, &peer, "/Watch").await.is_ok());
    }

    #[tokio::test]
    async fn the_client_with_the_most_requests_gives_way_to_one_with_few() {
        let (capacity, connections) = capacity(4);
        let [greedy, modest] = [connect(&connections).await, connect(&connections).await];
        let mut held = Vec::new();
        for _ in 0..4 {
            held.push(ask(&capacity, &greedy, "/").await.unwrap());
        }
        assert!(
            held.iter_mut().all(is_served),
            "one client may have all places"
        );
        let mut first = ask(&capacity, &modest, "/").await.unwrap();
        assert_eq!(
            held.iter_mut()
                .filter_map(|one| is_served(one).then_some(()))
                .count(),
            3
        );
        // The greedy client has 3 of 4 now, less than twice the 2 that the modest one would have.
        assert!(ask(&capacity, &modest, "/").await.is_err());
        assert!(is_served(&mut first));
    }

    #[tokio::test]
    async fn a_client_whose_requests_have_ended_is_passed_over() {
        let (capacity, connections) = capacity(7);
        let [quick, greedy] = [connect(&connections).await, connect(&connections).await];
        let mut held = Vec::new();
        for peer in [&quick, &quick, &quick, &quick, &greedy, &greedy] {
            held.push(ask(&capacity, peer, "/").await.unwrap());
        }
        assert!(held.iter_mut().all(is_served));
        tokio::time::sleep(limits::STALLED_AFTER).await;
        // Near the limit, this request scans the others.
        held.push(ask(&capacity, &greedy, "/").await.unwrap());
        let newcomer = connect(&connections).await;
        let first = ask(&capacity, &newcomer, "/").await;
        assert!(first.is_ok(), "the quick client gives way");
        // Before the next scan, the requests of the quick client end; the greedy one takes the places.
        held.drain(..4);
        for _ in 0..3 {
            held.push(ask(&capacity, &greedy, "/").await.unwrap());
        }
        assert!(held.iter_mut().all(is_served));
        let second = connect(&connections).await;
        assert!(ask(&capacity, &second, "/").await.is_ok());
    }

    #[tokio::test]
    async fn a_client_that_reads_nothing_gives_way_first() {
        let (capacity, connections) = capacity(3);
        let mut held = Vec::new();
        let mut peers = Vec::new();
        for _ in 0..3 {
            let peer = connect(&connections).await;
            held.push(ask(&capacity, &peer, "/").await.unwrap());
            peers.push(peer);
        }
        // Two clients wait for more; the third has read nothing of its response.
        assert!(is_served(&mut held[0]) && is_served(&mut held[1]));
        let newcomer = connect(&connections).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        let early = ask(&capacity, &newcomer, "/").await;
        assert!(early.is_err(), "the third client may still read");
        tokio::time::sleep(Duration::from_millis(120)).await;
        assert!(ask(&capacity, &newcomer, "/").await.is_ok());
        let served = held.iter_mut().map(is_served).collect::<Vec<_>>();
        assert_eq!(served, [true, true, false]);
    }

    #[tokio::test]
    async fn a_request_is_in_flight_until_its_client_has_read_all_of_a_long_body() {
        const LENGTH: usize = 2 * limits::FRAME + 1;
        let (capacity, connections) = capacity(1);
        let peer = connect(&connections).await;
        for (version, ends_alone) in [(Version::HTTP_11, false), (Version::HTTP_2, true)] {
            let open = peer.open.clone();
            let deadlines = Deadlines::of_methods(PATIENCE, &Methods::new());
            let layer = ShedLayer::of_connection(capacity.clone(), open, Protocol::Http, deadlines);
            let service = service_fn(async |_: Request<()>| {
                let body = Full::new(Bytes::from(vec![0; LENGTH]));
                Ok::<_, Infallible>(Response::new(body))
            });
            let service = ServiceBuilder::new().layer(layer).service(service);
            let request = Request::get("/").version(version).header("host", "a");
            let response = service.oneshot(request.body(()).unwrap()).await.unwrap();
            let mut body = response.into_body();
            for (frame, left) in [
                (limits::FRAME, limits::FRAME + 1),
                (limits::FRAME, 1),
                (1, 0),
            ] {
                assert!(!body.is_end_stream());
                let data = body.frame().await.unwrap().unwrap().into_data().unwrap();
                let hint = body.size_hint().exact();
                assert_eq!((data.len(), hint), (frame, Some(left as u64)));
            }
            assert_eq!(body.is_end_stream(), !ends_alone);
            assert_eq!(peer.open.in_flight(), 1);
            assert!(body.frame().await.is_none());
            assert!(body.is_end_stream());
            drop(body);
            assert_eq!(peer.open.in_flight(), 0);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn long_lived_calls_end_soon_after_a_drain_begins() {
        let (capacity, connections) = capacity(8);
        let peer = connect(&connections).await;
        let begin = Instant::now();
        let other = ask(&capacity, &peer, "/").await.unwrap();
        let watch = ask(&capacity, &peer, "/Watch").await.unwrap();
        let waiting = {
            let capacity = capacity.clone();
            tokio::spawn(async move { ask(&capacity, &peer, "/Wait").await.map(drop) })
        };
        tokio::task::yield_now().await;
        capacity.long_lived.draining.cancel();

        let mut context = RequestContext::new(RequestId::fresh(), Deadline::after(PATIENCE));
        context.protocol = Protocol::Grpc;
        let end = context.scope(watch.into_body().collect()).await.unwrap();
        assert_eq!(end.trailers().unwrap()[Status::GRPC_STATUS], "14");
        assert!(waiting.await.unwrap().unwrap_err().is::<Draining>());
        assert_eq!(begin.elapsed(), Duration::from_secs(1));
        let other = timeout(PATIENCE, other.into_body().collect()).await;
        assert!(other.is_err(), "other requests last until their deadline");
    }
}
