//! [`with_problems`]: turns every failure into a [`Problem`], in the protocol of the client.

use axum::{
    BoxError,
    body::Body,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::FutureExt;
use http::{
    StatusCode,
    header::{CONTENT_LENGTH, CONTENT_TYPE},
};
use http_body_util::{BodyExt, Either};
use tonic::Status;
use tracing::error;

use super::{access::Quiet, head::Refusal, tonic_quirks};
use crate::{
    Problem,
    bounded::Panicked,
    context,
    deadline::DeadlineExceeded,
    limits,
    protocol::Protocol,
    server::capacity::{Overloaded, long_lived::Draining},
};

fn response_to(error: &BoxError) -> Response {
    if let Some(refusal) = error.downcast_ref::<Refusal>() {
        return refusal.clone().into_response();
    }
    if let Some(overloaded) = error.downcast_ref::<Overloaded>() {
        let mut response = Problem::overloaded().into_response();
        if !overloaded.is_logged {
            response.extensions_mut().insert(Quiet);
        }
        return response;
    }
    let problem = if error.is::<DeadlineExceeded>() {
        Problem::deadline_exceeded()
    } else if error.is::<Draining>() {
        Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "The service is about to stop; call again to reach another.",
        )
    } else {
        // The panic hook has already logged the panic, with its location.
        if !error.is::<Panicked>() {
            error!(action = "request", status = "failure", %error, "a layer failed");
        }
        Problem::internal()
    };
    problem.into_response()
}

/// Turns errors and bare error responses into problems, and, for gRPC clients, problems into gRPC
/// statuses. `body_limit` is the limit of a request body, in bytes.
pub(crate) fn with_problems<R>(
    result: Result<http::Response<R>, BoxError>,
    body_limit: usize,
) -> http::Response<Either<R, Body>>
where
    R: http_body::Body<Data = Bytes> + Unpin,
{
    let protocol = context::protocol().expect("the request layer stands above this one");
    let failure = match result {
        Err(error) => response_to(&error),
        Ok(mut response) => match verdict(&response, protocol) {
            Verdict::Fine => {
                tonic_quirks::correct(response.headers_mut());
                return response.map(Either::Left);
            }
            Verdict::Problem(problem) => problem.into_response(),
            Verdict::Bare => with_problem(response, body_limit),
        },
    };
    // The status is one block of headers ("trailers-only"): clients do not retry a call whose
    // response has separate headers (gRFC A6).
    let failure = match (protocol, failure.extensions().get::<Problem>()) {
        (Protocol::Grpc, Some(problem)) => {
            let quiet = failure.extensions().get::<Quiet>().copied();
            let mut status = Status::from(problem.clone()).into_http();
            if let Some(quiet) = quiet {
                status.extensions_mut().insert(quiet);
            }
            status
        }
        _ => failure,
    };
    failure.map(Either::Right)
}

/// The change that a response needs.
enum Verdict {
    /// None: the response is no failure, or the client understands it.
    Fine,
    /// Replace the response with this problem.
    Problem(Problem),
    /// Add a document: the response is a failure without one.
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

/// Replaces the body of a failure with a problem. Headers such as `Allow` stay.
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

/// Whether an error response has no document: those of axum and tower-http have plain text or no
/// body.
fn is_bare<R>(response: &http::Response<R>) -> bool {
    response
        .headers()
        .get(CONTENT_TYPE)
        .is_none_or(|media_type| media_type.as_bytes().starts_with(b"text/plain"))
}

/// The text of a body, if it is short and completely buffered.
fn text_of<R: http_body::Body<Data = Bytes> + Unpin>(mut body: R) -> Option<String> {
    let text = body.frame().now_or_never()??.ok()?.into_data().ok()?;
    let is_short = !text.is_empty() && text.len() <= limits::DETAIL;
    if !is_short || !body.is_end_stream() {
        return None;
    }
    String::from_utf8(text.into()).ok()
}
