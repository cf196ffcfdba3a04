//! [`ShedLayer`]: refuses requests beyond what the service can carry, so that it serves the others
//! in time.

#[cfg(test)]
mod tests;

use std::{
    future::Future,
    net::Ipv4Addr,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, ready},
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
    /// Whether long-lived requests have a limit of their own, and end with the drain.
    limits_long_lived: bool,
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
        Self(Arc::new(Admission {
            capacity: Arc::new(Capacity::alone(max_in_flight)),
            open,
            port,
            limits_long_lived: false,
        }))
    }

    /// A layer for the requests of one connection. `port` is the protocol of its port.
    pub(crate) fn of_connection(capacity: Arc<Capacity>, open: Arc<Open>, port: Protocol) -> Self {
        Self(Arc::new(Admission {
            capacity,
            open,
            port,
            limits_long_lived: true,
        }))
    }
}

impl Admission {
    fn admit<B>(&self, request: &Request<B>) -> Result<Served, BoxError> {
        head::check(request, self.port)?;
        head::check_peer(&self.open)?;
        let is_long_lived =
            self.limits_long_lived && context::terms().is_some_and(|terms| terms.is_long_lived);
        let kind = Kind::of(request.uri().path(), is_long_lived);
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
