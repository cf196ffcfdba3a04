//! Layer 4: every failure becomes a [`Problem`], written the way that the client understands.

use std::{
    any::Any,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use axum::{
    BoxError,
    body::Body,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::FutureExt;
use http::{
    Request, StatusCode,
    header::{CONTENT_LENGTH, CONTENT_TYPE},
};
use http_body_util::{BodyExt, Either};
use tower::{Layer, Service};
use tracing::error;

use super::{
    access::Quiet, caught_body::CaughtBody, head::Refusal, long_lived::Draining, shed::Overloaded,
    tonic_status,
};
use crate::{Problem, context, deadline::DeadlineExceeded, protocol::Protocol};

/// The longest text of a failure that is passed on as `detail`, in bytes.
const MAX_DETAIL: usize = 1024;

/// The answer to a caught panic. The panic hook has logged it already, with the location.
pub(super) fn panicked(_: Box<dyn Any + Send>) -> Response {
    Problem::internal().into_response()
}

/// What an error of a layer below means to the client.
fn problem_of(error: &BoxError) -> Problem {
    if error.is::<DeadlineExceeded>() {
        return Problem::deadline_exceeded();
    }
    if error.is::<Overloaded>() {
        return Problem::overloaded();
    }
    if error.is::<Draining>() {
        return Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "The service is about to stop; call again to reach another.",
        );
    }
    error!(action = "request", status = "failure", %error, "a layer failed");
    Problem::internal()
}

/// Turns errors and bare error responses into problems, and problems into gRPC statuses where
/// the client speaks gRPC.
#[derive(Debug, Clone, Copy)]
pub(super) struct FailureLayer {
    /// The limit that a body is over which is too long, in bytes.
    pub(super) body_limit: usize,
}

impl<S> Layer<S> for FailureLayer {
    type Service = FailureService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        FailureService {
            inner,
            body_limit: self.body_limit,
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct FailureService<S> {
    inner: S,
    body_limit: usize,
}

impl<S, B, R> Service<Request<B>> for FailureService<S>
where
    S: Service<Request<B>, Response = http::Response<R>>,
    S::Error: Into<BoxError>,
    R: http_body::Body<Data = Bytes> + Unpin,
{
    type Response = http::Response<Either<CaughtBody<R>, Body>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        ResponseFuture {
            protocol: context::protocol().expect("the context layer stands above this one"),
            body_limit: self.body_limit,
            inner: self.inner.call(request),
        }
    }
}

pin_project_lite::pin_project! {
    /// The future of [`FailureService`].
    pub(super) struct ResponseFuture<F> {
        #[pin]
        inner: F,
        protocol: Protocol,
        body_limit: usize,
    }
}

impl<F, R, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<http::Response<R>, E>>,
    E: Into<BoxError>,
    R: http_body::Body<Data = Bytes> + Unpin,
{
    type Output = Result<http::Response<Either<CaughtBody<R>, Body>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut is_quiet = false;
        let failure = match ready!(this.inner.poll(cx)) {
            Err(error) => {
                let error = error.into();
                let overloaded = error.downcast_ref::<Overloaded>();
                is_quiet = overloaded.is_some_and(|overloaded| !overloaded.is_told);
                match error.downcast_ref::<Refusal>() {
                    Some(refusal) => refusal.clone().into_response(),
                    None => problem_of(&error).into_response(),
                }
            }
            Ok(mut response) => match verdict(&response, *this.protocol) {
                Verdict::Fine => {
                    tonic_status::correct(response.headers_mut());
                    let caught = |body| Either::Left(CaughtBody::new(body, *this.protocol));
                    return Poll::Ready(Ok(response.map(caught)));
                }
                Verdict::Problem(problem) => problem.into_response(),
                Verdict::Bare => with_problem(response, *this.body_limit),
            },
        };
        // A status is one block of headers ("trailers-only"): a client retries no call whose
        // response has headers of its own (gRFC A6).
        let mut failure = match (this.protocol, failure.extensions().get::<Problem>()) {
            (Protocol::Grpc, Some(problem)) => problem.to_grpc().into_http(),
            _ => failure,
        };
        if is_quiet {
            failure.extensions_mut().insert(Quiet);
        }
        Poll::Ready(Ok(failure.map(Either::Right)))
    }
}

/// What is to be done about a response.
enum Verdict {
    /// Nothing: it is no failure, or a client of this protocol understands it as it is.
    Fine,
    /// This problem takes its place.
    Problem(Problem),
    /// It is a failure without a document, so it gets one.
    Bare,
}

fn verdict<R>(response: &http::Response<R>, protocol: Protocol) -> Verdict {
    let status = response.status();
    if !status.is_client_error() && !status.is_server_error() {
        return Verdict::Fine;
    }
    match (response.extensions().get::<Problem>(), protocol) {
        (Some(problem), Protocol::Grpc) => Verdict::Problem(problem.clone()),
        (None, _) if is_bare(response) => Verdict::Bare,
        _ => Verdict::Fine,
    }
}

/// The same failure with a problem as its document; what else was said, such as `Allow`, stays.
fn with_problem<R>(response: http::Response<R>, body_limit: usize) -> Response
where
    R: http_body::Body<Data = Bytes> + Unpin,
{
    let (mut parts, body) = response.into_parts();
    let problem = match text_of(body) {
        _ if parts.status == StatusCode::PAYLOAD_TOO_LARGE => Problem::new(
            parts.status,
            format!("The body is longer than the limit of {body_limit} bytes; send less."),
        ),
        Some(text) if parts.status.is_client_error() => Problem::new(parts.status, text),
        _ => Problem::of_status(parts.status),
    };
    let (problem, document) = problem.into_response().into_parts();
    parts.headers.remove(CONTENT_LENGTH);
    parts.headers.extend(problem.headers);
    parts.extensions.extend(problem.extensions);
    Response::from_parts(parts, document)
}

/// Whether an error response has no document of its own: axum's and tower-http's have a plain
/// text or nothing at all.
fn is_bare<R>(response: &http::Response<R>) -> bool {
    response
        .headers()
        .get(CONTENT_TYPE)
        .is_none_or(|media_type| media_type.as_bytes().starts_with(b"text/plain"))
}

/// The text of a body that is there as a whole.
fn text_of<R: http_body::Body<Data = Bytes> + Unpin>(mut body: R) -> Option<String> {
    let text = body.frame().now_or_never()??.ok()?.into_data().ok()?;
    let is_short = !text.is_empty() && text.len() <= MAX_DETAIL;
    if !is_short || !body.is_end_stream() {
        return None;
    }
    String::from_utf8(text.into()).ok()
}
