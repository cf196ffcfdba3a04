//! [`ShedLayer`]: refuses requests that no handler may see, and those beyond what the service can carry, so
//! that it serves the others in time.
//!
//! hyper accepts larger heads, and leaves the rules for `Host` and transfer codings to the server.
//! So every refusal has an id, an access line and, over gRPC, a status.

pub(crate) mod admitted;
#[cfg(test)]
mod tests;

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, ready},
};

use axum::BoxError;
use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, Version,
    header::{HOST, TRANSFER_ENCODING},
    uri::Authority,
};
use http_body::{Body, Frame, SizeHint};
use tonic::Code;
use tower::{Layer, Service};

use self::admitted::{Admission, NotAdmitted};
use super::problem::Refusal;
use crate::{
    body::DroppableBody,
    headers::all,
    limits,
    request::context,
    server::{
        capacity::{
            long_lived::{self, Draining},
            permits::{RequestClass, RequestPermit},
            worker_capacity::WorkerCapacity,
        },
        connection::state::ConnectionState,
    },
};

/// The permit of a request in flight, and its count in the metrics.
struct Admitted {
    permit: RequestPermit,
    connection: Arc<ConnectionState>,
    long_lived: Option<long_lived::LongLivedCall>,
}

impl Admitted {
    /// Whether the request must end now, because the service drains. Wakes the task when that begins.
    fn must_end(&mut self, cx: &mut Context<'_>) -> bool {
        let end = self.long_lived.as_mut().map(|call| call.poll_end(cx));
        end.is_some_and(|end| end.is_ready())
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let in_flight = &self.connection.capacity.counters.in_flight;
        in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Refuses requests with an invalid head, and those that get no permit. A request is in flight until
/// the socket has taken its response; over HTTP/2, all but the last 128 KiB of a connection.
#[derive(Debug, Clone)]
pub(crate) struct ShedLayer(Arc<Rules>);

#[derive(Debug)]
struct Rules {
    connection: Arc<ConnectionState>,
    /// Whether long-lived requests have a limit of their own, and end with the drain.
    limits_long_lived: bool,
    /// Whether a refused request goes on, to the [`AdmittedLayer`](admitted::AdmittedLayer) below.
    passes_refused: bool,
}

impl ShedLayer {
    /// A layer for the requests of one connection. With `passes_refused`, an
    /// [`AdmittedLayer`](admitted::AdmittedLayer) stands below it.
    pub(crate) fn new(connection: Arc<ConnectionState>, passes_refused: bool) -> Self {
        Self(Arc::new(Rules {
            connection,
            limits_long_lived: true,
            passes_refused,
        }))
    }

    /// A layer for the requests of another server: all its connections count as one, and a request is
    /// in flight until its body ends.
    pub(crate) fn of_other_server(max_in_flight: usize) -> Self {
        let capacity = Arc::new(WorkerCapacity::alone(max_in_flight));
        Self(Arc::new(Rules {
            connection: Arc::new(ConnectionState::alone(capacity)),
            limits_long_lived: false,
            passes_refused: false,
        }))
    }
}

impl Rules {
    fn admit<B>(&self, request: &Request<B>) -> Result<Admitted, NotAdmitted> {
        check(request)?;
        check_peer(&self.connection)?;
        let (is_long_lived, client) = context::with_current(|context| {
            let shared = context.map(|context| &*context.shared);
            let is_long_lived = shared.is_some_and(|shared| shared.terms.is_long_lived);
            (is_long_lived, shared.and_then(|shared| shared.address))
        });
        let is_long_lived = self.limits_long_lived && is_long_lived;
        let class = RequestClass::of(request.uri().path(), is_long_lived);
        let ConnectionState {
            handle, capacity, ..
        } = &*self.connection;
        let behind = client.filter(|client| *client != handle.address);
        let permit = capacity.permits.take(handle, class, behind);
        let permit = permit.map_err(|no_permit| capacity.refuse(class, no_permit))?;
        if request.version() == Version::HTTP_2
            && let Some(deadline) = context::deadline()
        {
            self.connection.note_admitted(deadline);
        }
        capacity.counters.in_flight.fetch_add(1, Ordering::Relaxed);
        Ok(Admitted {
            permit,
            long_lived: is_long_lived.then(|| capacity.long_lived.begin()),
            connection: self.connection.clone(),
        })
    }
}

impl<S> Layer<S> for ShedLayer {
    type Service = ShedService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        ShedService {
            inner,
            rules: self.0.clone(),
        }
    }
}

/// The service of [`ShedLayer`].
#[derive(Debug, Clone)]
pub struct ShedService<S> {
    inner: S,
    rules: Arc<Rules>,
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

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let Rules {
            connection,
            passes_refused,
            ..
        } = &*self.rules;
        let admitted = self.rules.admit(&request);
        if *passes_refused {
            let outcome = admitted.as_ref().map(drop).map_err(Clone::clone);
            request.extensions_mut().insert(Admission(outcome));
        }
        match admitted {
            Ok(served) => ResponseFuture::Admitted {
                is_http2: request.version() == Version::HTTP_2,
                inner: self.inner.call(request),
                served: Some(served),
            },
            Err(error) => {
                connection.handle.usage.restart_idle_time();
                if *passes_refused {
                    let inner = self.inner.call(request);
                    return ResponseFuture::Passed { inner };
                }
                let error = Some(error.into());
                ResponseFuture::Refused { error }
            }
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
            served: Option<Admitted>,
            is_http2: bool,
        },
        // The layers below respond, without a permit.
        Passed {
            #[pin]
            inner: F,
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
                if served.as_mut().expect(NOT_DONE).must_end(cx) {
                    return Poll::Ready(Err(Draining.into()));
                }
                let response = ready!(inner.poll(cx)).map_err(Into::into)?;
                let mut served = served.take().expect(NOT_DONE);
                served.permit.note_waits_for_service(false);
                Poll::Ready(Ok(response.map(|body| ShedBody {
                    is_http2: *is_http2,
                    ends_alone: *is_http2 && !body.is_end_stream(),
                    body: DroppableBody::new(body),
                    served: Some(served),
                    rest: Bytes::new(),
                    given: 0,
                })))
            }
            Projection::Passed { inner } => {
                let response = ready!(inner.poll(cx)).map_err(Into::into)?;
                Poll::Ready(Ok(response.map(|body| ShedBody {
                    is_http2: false,
                    ends_alone: false,
                    body: DroppableBody::new(body),
                    served: None,
                    rest: Bytes::new(),
                    given: 0,
                })))
            }
            Projection::Refused { error } => Poll::Ready(Err(error.take().expect(NOT_DONE))),
        }
    }
}

pin_project_lite::pin_project! {
    /// A body whose request is in flight until the socket has taken it.
    pub struct ShedBody<B> {
        #[pin]
        body: DroppableBody<B>,
        // `None` for a refused request, and once the drain has dropped the body.
        served: Option<Admitted>,
        // The rest of a frame that is longer than [`limits::FRAME`].
        rest: Bytes,
        // The bytes that hyper has taken.
        given: u64,
        is_http2: bool,
        // Over HTTP/2, the body does not announce its end: hyper polls for it once the client has
        // read the rest.
        ends_alone: bool,
    }

    impl<B> PinnedDrop for ShedBody<B> {
        // Over HTTP/1, hyper drops a body while the socket may still have to take the last bytes.
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            let has_rest = !*this.is_http2 && *this.given > limits::SENT_AT_ONCE;
            if let Some(served) = this.served.take_if(|_| has_rest) {
                let connection = served.connection.clone();
                if connection.outbound.is_watched() {
                    connection.outbound.add_rest(move |_| drop(served));
                }
            }
        }
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
        let Some(served) = this.served.as_mut() else {
            return this.body.poll_frame(cx).map_err(Into::into);
        };
        if served.must_end(cx) {
            *this.served = None;
            *this.rest = Bytes::new();
            this.body.drop_body();
            let dialect = context::dialect().expect("the request layer stands above this one");
            let end = dialect.break_off(Code::Unavailable, Draining.into());
            return Poll::Ready(Some(end));
        }
        let connection = &served.connection;
        connection.handle.usage.note_taken();
        if *this.is_http2 && !connection.outbound.has_room(cx.waker()) {
            return Poll::Pending;
        }
        if this.rest.is_empty() {
            let frame = this.body.as_mut().poll_frame(cx);
            served.permit.note_waits_for_service(frame.is_pending());
            let Some(frame) = ready!(frame).transpose().map_err(Into::into)? else {
                *this.ends_alone = false;
                return Poll::Ready(None);
            };
            match frame.into_data() {
                Ok(data) => *this.rest = data,
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            }
        }
        let data = this.rest.split_to(this.rest.len().min(limits::FRAME));
        *this.given += data.len() as u64;
        let outbound = &served.connection.outbound;
        if *this.is_http2 {
            outbound.note_given(data.len());
        } else {
            outbound.note_taken();
        }
        Poll::Ready(Some(Ok(Frame::data(data))))
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

/// The bytes that a field counts beside its name and value (RFC 9113, 6.5.2).
const FIELD_OVERHEAD: usize = 32;

/// Checks the head of the current request.
pub(crate) fn check<B>(request: &Request<B>) -> Result<(), Refusal> {
    let headers = request.headers();
    let size = size(request);
    if size > limits::HEAD {
        return Err(Refusal::TooLarge(size));
    }
    check_hosts(request.version(), headers)?;
    if request.version() <= Version::HTTP_11 {
        check_transfer_codings(headers)?;
    }
    // After a 2xx response of a handler, hyper would leave the connection to the handler.
    if request.method() == Method::CONNECT {
        return Err(Refusal::Connect);
    }
    if let Some(mismatch) = context::mismatch() {
        return Err(Refusal::Dialect(mismatch));
    }
    if request.method() == Method::OPTIONS && request.uri().path() == "*" {
        return Err(Refusal::ServerOptions);
    }
    Ok(())
}

/// Whether the peer of a connection may call.
pub(crate) fn check_peer(connection: &ConnectionState) -> Result<(), Refusal> {
    match &connection.peer {
        Some(peer) if !peer.is_allowed => Err(Refusal::Peer(peer.identity.clone())),
        _ => Ok(()),
    }
}

fn size<B>(request: &Request<B>) -> usize {
    let fields = request.headers().iter();
    let fields = fields.map(|(name, value)| name.as_str().len() + value.len() + FIELD_OVERHEAD);
    let target = request.uri().path_and_query();
    fields.sum::<usize>() + target.map_or(0, |target| target.as_str().len())
}

/// Whether this is a name or an address, with or without a port (RFC 3986, 3.2.2). h2 checks
/// `:authority` in the same way.
fn is_host(host: &HeaderValue) -> bool {
    let host = host.as_bytes();
    let is_allowed =
        |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~:[]%!$&'()*+,;=".contains(byte);
    // Only what has more than a name and a port is parsed, as the parser copies.
    let is_plain = |host: &[u8]| {
        let mut parts = host.split(|byte| *byte == b':');
        parts.nth(2).is_none() && !host.iter().any(|byte| b"[]%".contains(byte))
    };
    host.iter().all(is_allowed) && (is_plain(host) || Authority::try_from(host).is_ok())
}

/// Checks `Host`. How many there may be is a rule of HTTP/1 (RFC 9112, 3.2).
fn check_hosts(version: Version, headers: &HeaderMap) -> Result<(), Refusal> {
    let hosts = || all(headers, &HOST);
    let is_number_valid = match hosts().count() {
        0 => version != Version::HTTP_11,
        1 => true,
        _ => version > Version::HTTP_11,
    };
    if is_number_valid && hosts().all(is_host) {
        Ok(())
    } else {
        Err(Refusal::Host)
    }
}

/// Refuses transfer codings other than `chunked` (RFC 9112, 6.1).
fn check_transfer_codings(headers: &HeaderMap) -> Result<(), Refusal> {
    let mut codings = all(headers, &TRANSFER_ENCODING);
    if codings.all(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked")) {
        Ok(())
    } else {
        Err(Refusal::TransferCoding)
    }
}
