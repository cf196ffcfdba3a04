//! [`RequestLayer`]: creates the [`Context`] of a request, logs its access line, and adds the id and
//! `Server-Timing` to its response.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{self, Poll, ready},
};

use axum::BoxError;
use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Version,
    header::{CONTENT_LENGTH, TE, TRAILER},
};
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;
use tower::{Layer, Service};
use tracing::warn;

use super::{
    access::{AccessLine, ConnectionInfo, End},
    cause::Cause,
    http1,
};
use crate::{
    body::DroppableBody,
    dialect::http::HTTP,
    headers::all,
    limits,
    rate_limit::RateLimit,
    request::{
        context::{Context, Deadline, SharedContext},
        dialect::Fault,
        id::RequestId,
        timings::{SERVER_TIMING, Timings},
        trace::Trace,
    },
    server::routes::note,
};
#[cfg(feature = "traces")]
use crate::{server::capacity::permits::RequestClass, telemetry::traces};

/// Gives each request a [`Context`], runs the layers below and the body of the
/// response in it, and logs the request when its response has left.
#[derive(Debug, Clone)]
pub(crate) struct RequestLayer {
    connection: Arc<ConnectionInfo>,
}

impl RequestLayer {
    /// A layer for the requests of one connection.
    pub(crate) fn new(connection: ConnectionInfo) -> Self {
        Self {
            connection: Arc::new(connection),
        }
    }
}

impl<S> Layer<S> for RequestLayer {
    type Service = RequestService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        RequestService {
            inner,
            connection: self.connection.clone(),
        }
    }
}

/// The service of [`RequestLayer`].
#[derive(Debug, Clone)]
pub struct RequestService<S> {
    inner: S,
    connection: Arc<ConnectionInfo>,
}

impl<S, B, R> Service<Request<B>> for RequestService<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: Body<Data = Bytes, Error: Into<BoxError>>,
{
    type Response = Response<ResponseBody<R>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut task::Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (context, faults) = context_of(&request, &self.connection);
        let line = AccessLine::new(&request, self.connection.clone(), context.clone());
        let takes_trailers = takes_trailers(request.version(), request.headers());
        let _entered = context.enter();
        warn_of(&faults);
        // Below a router of another server, the route is known.
        note(&request);
        ResponseFuture {
            inner: Some(self.inner.call(request)),
            line: Some(line),
            takes_trailers,
        }
    }
}

/// Logs the faults of the headers of a request. Must run in its context.
fn warn_of(faults: &[Fault]) {
    if !faults.is_empty()
        && let Some(untold) = WARNINGS.with(RateLimit::allow)
    {
        for fault in faults {
            warn!(
                action = fault.action,
                status = fault.status,
                reason = fault.reason,
                untold,
                "{}",
                fault.message
            );
        }
    }
}

thread_local! {
    static WARNINGS: RateLimit = RateLimit::per_second(limits::HEADER_WARNINGS);
}

/// The context of a request on this connection. Without a valid id from the client, the id is fresh.
/// The deadline is that of the method, or the client's if it is sooner.
fn context_of<B>(request: &Request<B>, connection: &ConnectionInfo) -> (Context, Vec<Fault>) {
    let (port, headers) = (connection.port, request.headers());
    let mismatch = port.accept(request.method(), request.version(), headers);
    // Whoever does not speak the dialect of the port can read an error over HTTP.
    let dialect = if mismatch.is_ok() { port } else { HTTP };
    let mut asked = dialect.read(headers);
    let (trace, bad_trace) = Trace::of(headers);
    asked.faults.extend(bad_trace.map(|reason| Fault {
        action: "trace",
        status: "ignored",
        reason: Some(reason.to_string()),
        message: "the request's trace headers are not usable",
    }));
    let arrived = Instant::now(); // everything that begins with the request shares this reading
    #[cfg(feature = "traces")]
    let trace = match RequestClass::of(request.uri().path(), false) {
        RequestClass::Probe => trace, // a span every few seconds would tell nothing
        _ => traces::of_request(trace, connection.is_inside, arrived),
    };
    let mut terms = connection.paths.terms(request.uri().path());
    if mismatch.is_err() {
        terms.method = None;
    }
    let timeout = asked
        .timeout
        .map_or(terms.longest, |timeout| timeout.min(terms.longest));
    let context = Context {
        deadline: Deadline::after_from(arrived, timeout),
        shared: Arc::new(SharedContext {
            request_id: asked.request_id.unwrap_or_else(RequestId::fresh),
            arrived,
            dialect: Some(dialect),
            mismatch: mismatch.err(),
            timings: asked.is_timed.then(|| Timings::since(arrived.into_std())),
            trace: trace.map(Arc::new),
            peer: connection.peer.clone(),
            address: connection.client_of(request),
            scheme: connection.scheme_of(request),
            terms,
            log_fields: OnceLock::new(),
        }),
    };
    (context, asked.faults)
}

/// The headers that the layer adds to most responses over HTTP/1.1: how long the connection stays, the id,
/// two that protect the response, and its timing.
const ADDED_HEADERS: usize = 5;

/// Whether the client takes trailers. Over HTTP/1.1 it has to ask for them, as hyper does, too
/// (headers.rs, `te_is_trailers`).
fn takes_trailers(version: Version, headers: &HeaderMap) -> bool {
    let asks = |value| lists(value, "trailers");
    version >= Version::HTTP_2 || all(headers, &TE).any(asks)
}

/// Whether a list in a header has this member.
fn lists(list: &HeaderValue, member: &str) -> bool {
    let mut members = list.as_bytes().split(|byte| *byte == b',');
    members.any(|found| found.trim_ascii().eq_ignore_ascii_case(member.as_bytes()))
}

pin_project_lite::pin_project! {
    /// The response future of [`RequestLayer`].
    pub struct ResponseFuture<F> {
        // It is polled and dropped in the context of its request.
        #[pin]
        inner: Option<F>,
        // `None` once there is a response.
        line: Option<AccessLine>,
        takes_trailers: bool,
    }

    impl<F> PinnedDrop for ResponseFuture<F> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            if let Some(line) = this.line {
                let _entered = line.context.clone().enter();
                this.inner.set(None);
                line.write();
            }
        }
    }
}

impl<F, R, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: Body<Data = Bytes, Error: Into<BoxError>>,
{
    type Output = Result<Response<ResponseBody<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Self::Output> {
        const NOT_DONE: &str = "the future is not polled after its end";
        let mut this = self.project();
        let line = this.line.as_ref().expect(NOT_DONE);
        let _entered = line.context.clone().enter();
        let inner = this.inner.as_mut().as_pin_mut().expect(NOT_DONE);
        let response = ready!(inner.poll(cx))?;
        this.inner.set(None);
        let mut line = this.line.take().expect(NOT_DONE);
        let mut response = if line.has_no_body(response.status()) {
            without_body(response)
        } else {
            response.map(DroppableBody::new)
        };
        line.see_response(&response);
        if let Some(state) = &line.connection.state {
            let keep_alive = line.connection.keep_alive.as_ref();
            if keep_alive.is_some() && !state.is_http2.get() {
                // With that header, most responses outgrow the smallest map: at once, in place of with the last
                // header, which would move all others.
                response.headers_mut().reserve(ADDED_HEADERS);
            }
            http1::note_framing(&response, state);
            http1::say_goodbye(response.headers_mut(), state, keep_alive);
        }
        let is_stream = !line.has_length() && !response.body().is_end_stream();
        let headers = response.headers_mut();
        let SharedContext {
            request_id,
            timings,
            ..
        } = &*line.context.shared;
        let dialect = line.dialect();
        dialect.write_id(request_id, headers);
        dialect.protect(headers);
        let mut trailer = None;
        if let Some(timings) = timings
            && line.connection.shows_timings
        {
            headers.extend(server_timing(timings));
            if is_stream && *this.takes_trailers && dialect.has_free_trailers() {
                // Beside those that the handler has announced.
                headers.append(TRAILER, HeaderValue::from_static("server-timing"));
                trailer = Some(timings.clone());
            }
        }
        Poll::Ready(Ok(response.map(|body| ResponseBody {
            body,
            line,
            trailer,
            break_off: None,
        })))
    }
}

/// Drops the body of a response that has none in its protocol: hyper would send it over HTTP/2, and
/// clients take that for an error of the whole connection (h2/server.rs, `poll2`).
fn without_body<R: Body>(response: Response<R>) -> Response<DroppableBody<R>> {
    let (mut head, body) = response.into_parts();
    match (head.status, body.size_hint().exact()) {
        // RFC 9110, 8.6: a 204 response has no length.
        (StatusCode::NO_CONTENT, _) => drop(head.headers.remove(CONTENT_LENGTH)),
        (StatusCode::NOT_MODIFIED, _) => {}
        // The length that the response to GET would have.
        (_, Some(length)) if !body.is_end_stream() => {
            head.headers.entry(CONTENT_LENGTH).or_insert(length.into());
        }
        _ => {}
    }
    Response::from_parts(head, DroppableBody::dropped())
}

fn server_timing(timings: &Timings) -> Option<(HeaderName, HeaderValue)> {
    Some((SERVER_TIMING, timings.header_value()?))
}

pin_project_lite::pin_project! {
    /// A body that is polled and dropped in the context of its request.
    pub struct ResponseBody<B> {
        #[pin]
        body: DroppableBody<B>,
        line: AccessLine,
        // The timings to send as a trailer.
        trailer: Option<Timings>,
        // The end of a response that breaks off: an error, or none if the body is too short. At either,
        // hyper drops what it has buffered. So it may write that first, and gets the end at the next
        // poll.
        break_off: Option<Result<(), BoxError>>,
    }

    impl<B> PinnedDrop for ResponseBody<B> {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            let _entered = this.line.context.clone().enter();
            this.body.drop_body();
            this.line.finish();
        }
    }
}

impl<B: Body<Data = Bytes, Error: Into<BoxError>>> Body for ResponseBody<B> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut this = self.project();
        if let Some(end) = this.break_off.take() {
            return Poll::Ready(end.err().map(Err));
        }
        let entered = this.line.context.clone().enter();
        let frame = this.body.as_mut().poll_frame(cx);
        drop(entered);
        let mut frame = match ready!(frame) {
            None => {
                this.line.see_end();
                if this.line.end != End::Complete {
                    *this.break_off = Some(Ok(()));
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                let timings = this.trailer.take();
                let timing = timings.and_then(|timings| server_timing(&timings));
                let trailers = timing.map(|timing| HeaderMap::from_iter([timing]));
                return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
            }
            Some(Err(error)) => {
                let error = error.into();
                this.line.end = End::Cut(Cause::of(&error));
                *this.break_off = Some(Err(error));
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Some(Ok(frame)) => frame,
        };
        if let Some(data) = frame.data_ref() {
            this.line.see_data(data.len());
        } else if let Some(trailers) = frame.trailers_mut() {
            this.line.dialect().correct(trailers);
            let timings = this.trailer.take();
            trailers.extend(timings.and_then(|timings| server_timing(&timings)));
            this.line.see_code(trailers);
            this.line.see_end();
        }
        if this.body.is_end_stream() {
            this.line.see_end();
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.break_off.is_none() && self.trailer.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
