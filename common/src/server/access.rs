//! Layer 3: the access line, one for each request, when the last of its answer has left.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Buf;
use http::{HeaderMap, Method, Request, Response, StatusCode, Version, uri::PathAndQuery};
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;
use tonic::{Code, Status};
use tower::{Layer, Service};
use tracing::{debug, info, warn};

use super::{evictable, worker};
use crate::{
    context,
    methods::Deadlines,
    metrics,
    problem::CLIENT_CLOSED_REQUEST,
    protocol::{Protocol, code_name},
    timings::Timings,
};

/// Put into the extensions of a response that is not worth a line at `info`: a health probe
/// comes every few seconds, and of refused requests one a second is enough.
#[derive(Debug, Clone, Copy)]
pub(super) struct Quiet;

/// Writes the access line of each request on a connection.
#[derive(Debug, Clone)]
pub(super) struct AccessLayer {
    pub(super) connection: Arc<Connection>,
}

/// What is the same for all requests of a connection.
#[derive(Debug)]
pub(super) struct Connection {
    /// The address of the peer, as text.
    pub(super) remote_address: String,
    /// The methods that requests are counted by.
    pub(super) methods: Deadlines,
}

impl<S> Layer<S> for AccessLayer {
    type Service = AccessService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        AccessService {
            inner,
            connection: self.connection.clone(),
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct AccessService<S> {
    inner: S,
    connection: Arc<Connection>,
}

impl<S, B, R> Service<Request<B>> for AccessService<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: Body,
{
    type Response = Response<AccessBody<R>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let line = AccessLine {
            connection: self.connection.clone(),
            method: request.method().clone(),
            path: request.uri().path_and_query().cloned(),
            version: request.version(),
            protocol: context::protocol().expect("the context layer stands above this one"),
            started: context::arrived().expect("the context layer stands above this one"),
            status: CLIENT_CLOSED_REQUEST,
            grpc_code: None,
            size: 0,
            quiet: false,
            end: End::Dropped,
        };
        ResponseFuture {
            inner: self.inner.call(request),
            line: Some(line),
        }
    }
}

pin_project_lite::pin_project! {
    /// The future of [`AccessService`].
    pub(super) struct ResponseFuture<F> {
        #[pin]
        inner: F,
        line: Option<AccessLine>,
    }
}

impl<F, R, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: Body,
{
    type Output = Result<Response<AccessBody<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.inner.poll(cx))?;
        let mut line = this.line.take().expect("not polled after it is done");
        line.status = response.status().as_u16();
        line.quiet = response.extensions().get::<Quiet>().is_some();
        line.see_grpc_status(response.headers());
        // The body of the answer to HEAD is never sent.
        if response.body().is_end_stream() || line.method == Method::HEAD {
            line.end = End::Complete;
        }
        Poll::Ready(Ok(response.map(|body| AccessBody {
            body,
            line,
            error: None,
        })))
    }
}

pin_project_lite::pin_project! {
    /// Counts the bytes of a body and sees how it ends.
    pub(super) struct AccessBody<B: Body> {
        #[pin]
        body: B,
        line: AccessLine,
        error: Option<B::Error>,
    }
}

impl<B: Body> Body for AccessBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let mut this = self.project();
        if let Some(error) = this.error.take() {
            return Poll::Ready(Some(Err(error)));
        }
        let frame = ready!(this.body.as_mut().poll_frame(cx));
        match frame {
            None => this.line.end = End::Complete,
            Some(Err(error)) => {
                this.line.end = End::Cut;
                // hyper closes at once, with what it has buffered; so let it write that first.
                *this.error = Some(error);
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Some(Ok(ref frame)) => {
                if let Some(data) = frame.data_ref() {
                    this.line.size += data.remaining() as u64;
                } else if let Some(trailers) = frame.trailers_ref() {
                    this.line.see_grpc_status(trailers);
                    this.line.end = End::Complete;
                }
                if this.body.is_end_stream() {
                    this.line.end = End::Complete;
                }
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.error.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// How an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// All of it went to the connection.
    Complete,
    /// The body broke off with an error, and the client knows it.
    Cut,
    /// Nobody was there any more to take it.
    Dropped,
}

/// Seconds to the microsecond: more digits would be noise.
fn seconds(elapsed: Duration) -> f64 {
    let micros = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
    Duration::from_micros(micros).as_secs_f64()
}

/// What is known of a request; it becomes the line when it is dropped, with the response future
/// or with the body.
#[derive(Debug)]
struct AccessLine {
    connection: Arc<Connection>,
    method: Method,
    path: Option<PathAndQuery>,
    version: Version,
    protocol: Protocol,
    started: Instant,
    status: u16,
    grpc_code: Option<Code>,
    size: u64,
    quiet: bool,
    end: End,
}

impl AccessLine {
    /// A gRPC status comes in the trailers, or in the headers when there is nothing else.
    fn see_grpc_status(&mut self, headers: &HeaderMap) {
        if self.protocol == Protocol::Grpc
            && let Some(code) = headers.get(Status::GRPC_STATUS)
        {
            self.grpc_code = Some(Code::from_bytes(code.as_bytes()));
        }
    }
}

/// Whether a failure with this code is that of the service and not of its caller.
fn is_ours(code: Code) -> bool {
    matches!(
        code,
        Code::Unknown
            | Code::DeadlineExceeded
            | Code::ResourceExhausted
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
    )
}

impl Drop for AccessLine {
    fn drop(&mut self) {
        let path = self.path.as_ref().map_or("*", PathAndQuery::as_str);
        let (response_status, reason) = match self.end {
            End::Complete => (self.status, None),
            End::Cut => (self.status, Some("the answer broke off")),
            End::Dropped if worker::is_stopping() => (
                StatusCode::SERVICE_UNAVAILABLE.as_u16(),
                Some("the service stopped before the answer was over"),
            ),
            End::Dropped if evictable::is_giving_way() => (
                StatusCode::SERVICE_UNAVAILABLE.as_u16(),
                Some("the client took nothing, and others needed the place"),
            ),
            End::Dropped => (CLIENT_CLOSED_REQUEST, Some("the client went away")),
        };
        let grpc_code = match (self.protocol, self.end) {
            (Protocol::Http, _) => None,
            (Protocol::Grpc, End::Dropped) => Some(Code::Cancelled),
            (Protocol::Grpc, _) => Some(self.grpc_code.unwrap_or(Code::Unknown)),
        };
        let took = self.started.elapsed();
        if let Some(code) = grpc_code {
            // As the descriptors have it: whoever makes up a method must not make up a route.
            let path = self.path.as_ref().map_or("", PathAndQuery::path);
            let known = self.connection.methods.find(path);
            let route = known.map_or(metrics::OTHER, |(path, _)| path);
            metrics::count_request(route, code_name(code), took);
        } else {
            let timings = context::timings();
            let route = timings
                .as_ref()
                .and_then(Timings::route)
                .unwrap_or(metrics::OTHER);
            let mut digits = itoa::Buffer::new();
            metrics::count_request(route, digits.format(response_status), took);
        }
        // One set of fields; a level is part of an event's static description.
        macro_rules! write_at {
            ($level:ident) => {
                $level!(
                    remote_address = self.connection.remote_address,
                    first_request_line =
                        %format_args!("{} {path} {:?}", self.method, self.version),
                    response_status,
                    response_size = self.size,
                    request_time_frac = seconds(took),
                    grpc_code = grpc_code.map(code_name),
                    reason,
                    "request"
                )
            };
        }
        let stopped = self.end == End::Dropped && worker::is_stopping();
        match grpc_code {
            Some(Code::Ok) => write_at!(debug),
            _ if self.quiet => write_at!(debug),
            _ if self.end == End::Cut => write_at!(warn),
            Some(code) if stopped || is_ours(code) => write_at!(warn),
            _ => write_at!(info),
        }
    }
}
