//! [`ProblemLayer`]: turns every failure of the layers and handlers below into a [`Problem`], in the
//! dialect of the client.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use axum::{
    BoxError,
    body::Body as AxumBody,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::FutureExt;
use http::{
    Request, StatusCode,
    header::{ALLOW, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE},
};
use http_body::Body;
use http_body_util::{BodyExt, Either};
use tower::{Layer, Service};
use tracing::error;

use super::access::LogAtDebug;
use crate::{
    body::Panicked,
    limits,
    problem::Problem,
    request::{
        context::{self, DeadlineExceeded},
        dialect::{Dialect, Mismatch},
        identity::Identity,
    },
    server::capacity::{long_lived::Draining, worker_capacity::Overloaded},
};

/// Turns errors, and error responses without a document, into a [`Problem`] in the dialect of the
/// client. It belongs below [`RequestLayer`](super::request::RequestLayer), and above every layer that
/// can fail.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ProblemLayer {
    body_limit: Option<usize>,
}

impl ProblemLayer {
    /// The layer. `body_limit` is the limit of a body, in bytes, if it is known: the response to a
    /// longer body names it.
    pub(crate) fn new(body_limit: Option<usize>) -> Self {
        Self { body_limit }
    }
}

impl<S> Layer<S> for ProblemLayer {
    type Service = ProblemService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        ProblemService {
            inner,
            body_limit: self.body_limit,
            failure: None,
        }
    }
}

/// The service of [`ProblemLayer`].
#[derive(Debug)]
pub struct ProblemService<S> {
    inner: S,
    body_limit: Option<usize>,
    /// The inner service has failed, and takes no request any more.
    failure: Option<BoxError>,
}

impl<S: Clone> Clone for ProblemService<S> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            body_limit: self.body_limit,
            failure: None,
        }
    }
}

impl<S, B, R> Service<Request<B>> for ProblemService<S>
where
    S: Service<Request<B>, Response = http::Response<R>>,
    S::Error: Into<BoxError>,
    R: Body<Data = Bytes> + Unpin,
{
    type Response = http::Response<Either<R, AxumBody>>;
    type Error = Infallible;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.failure = ready!(self.inner.poll_ready(cx)).err().map(Into::into);
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let failure = self.failure.take();
        ResponseFuture {
            inner: failure.is_none().then(|| self.inner.call(request)),
            failure,
            body_limit: self.body_limit,
        }
    }
}

pin_project_lite::pin_project! {
    /// The response future of [`ProblemLayer`].
    pub struct ResponseFuture<F> {
        // `None` if there is a failure.
        #[pin]
        inner: Option<F>,
        failure: Option<BoxError>,
        body_limit: Option<usize>,
    }
}

impl<F, R, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<http::Response<R>, E>>,
    E: Into<BoxError>,
    R: Body<Data = Bytes> + Unpin,
{
    type Output = Result<http::Response<Either<R, AxumBody>>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = match (this.inner.as_pin_mut(), this.failure.take()) {
            (Some(inner), _) => ready!(inner.poll(cx)).map_err(Into::into),
            (None, Some(failure)) => Err(failure),
            (None, None) => panic!("the future is not polled after its end"),
        };
        Poll::Ready(Ok(with_problems(result, *this.body_limit)))
    }
}

fn response_to(error: &BoxError) -> Response {
    if let Some(refusal) = error.downcast_ref::<Refusal>() {
        return refusal.clone().into_response();
    }
    if let Some(overloaded) = error.downcast_ref::<Overloaded>() {
        let mut response = Problem::overloaded().unprocessed().into_response();
        if !overloaded.is_logged {
            response.extensions_mut().insert(LogAtDebug);
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
        .unprocessed()
    } else {
        // The panic hook has already logged the panic, with its location.
        if !error.is::<Panicked>() {
            error!(action = "request", status = "failure", %error, "a layer failed");
        }
        Problem::internal()
    };
    problem.into_response()
}

/// Turns errors and bare error responses into problems, in the dialect of the client. `body_limit` is the limit of a request body, in bytes, if it is known.
fn with_problems<R>(
    result: Result<http::Response<R>, BoxError>,
    body_limit: Option<usize>,
) -> http::Response<Either<R, AxumBody>>
where
    R: Body<Data = Bytes> + Unpin,
{
    let dialect = context::dialect().expect("the request layer stands above this one");
    let failure = match result {
        Err(error) => response_to(&error),
        Ok(mut response) => match verdict(&response, dialect) {
            Verdict::Fine => {
                dialect.correct(response.headers_mut());
                return response.map(Either::Left);
            }
            Verdict::Problem(problem) => problem.into_response(),
            Verdict::Bare => with_problem(response, dialect, body_limit),
        },
    };
    let quiet = failure.extensions().get::<LogAtDebug>().copied();
    let mut failure = dialect.failure(failure);
    if let Some(quiet) = quiet {
        failure.extensions_mut().insert(quiet);
    }
    failure.map(Either::Right)
}

/// The detail in place of an upgrade. hyper passes a connection on only if it is served for that
/// (`serve_connection_with_upgrades`).
const NO_UPGRADES: &str = "This service does not upgrade connections, as for WebSocket; send requests and read \
    streams over HTTP.";

/// The change that a response needs.
enum Verdict {
    /// None: the response is no failure, or the client understands it.
    Fine,
    /// Replace the response with this problem.
    Problem(Problem),
    /// Add a document: the response is a failure without one.
    Bare,
}

fn verdict<R: Body>(response: &http::Response<R>, dialect: &dyn Dialect) -> Verdict {
    let status = response.status();
    if status == StatusCode::SWITCHING_PROTOCOLS {
        return Verdict::Problem(Problem::new(StatusCode::NOT_IMPLEMENTED, NO_UPGRADES));
    }
    if !status.is_client_error() && !status.is_server_error() {
        return Verdict::Fine;
    }
    let problem = response.extensions().get::<Problem>();
    match (problem, dialect.shows_texts()) {
        (Some(problem), false) => Verdict::Problem(problem.clone()),
        (None, true) if has_unread_text(response) => Verdict::Fine,
        (None, false) if dialect.code_in(response.headers()).is_none() => Verdict::Bare,
        (None, true) if is_bare(response) => Verdict::Bare,
        _ => Verdict::Fine,
    }
}

/// Replaces the body of a failure with a problem, whose detail is the text of the body if that is for the
/// client and short enough. The text of a 5xx, such as axum's of a missing extension, is for the log alone.
/// Headers such as `Allow` stay.
fn with_problem<R>(
    response: http::Response<R>,
    dialect: &dyn Dialect,
    body_limit: Option<usize>,
) -> Response
where
    R: Body<Data = Bytes> + Unpin,
{
    let has_document = !is_bare(&response);
    let (mut parts, body) = response.into_parts();
    let text = text_of(body);
    if parts.status.is_server_error() && (text.is_some() || has_document) {
        error!(
            action = "request",
            status = "failure",
            reason = text.as_deref(),
            "the handler failed"
        );
    }
    // A document is for programs, and not for people.
    let text = text.filter(|_| !has_document);
    let problem = match (text, body_limit) {
        (Some(text), Some(limit))
            if parts.status == StatusCode::PAYLOAD_TOO_LARGE && text == PORT_LIMIT =>
        {
            let detail = format!("The body is longer than the limit of {limit} bytes; send less.");
            Problem::new(parts.status, detail)
        }
        (Some(text), Some(limit)) if is_extractor_limit(parts.status, &text) => Problem::new(
            parts.status,
            format!(
                "The body is longer than the limit of this route, which is at most {limit} bytes; send less."
            ),
        ),
        (Some(text), _) if parts.status.is_client_error() && text.len() <= limits::DETAIL => {
            Problem::new(parts.status, text)
        }
        (Some(text), _) if dialect.shows_texts() && is_own(parts.status, &text) => {
            return Response::from_parts(parts, AxumBody::from(text));
        }
        _ => Problem::of_status(parts.status),
    };
    let (problem, document) = problem.into_response().into_parts();
    parts.headers.remove(CONTENT_LENGTH);
    parts.headers.remove(CONTENT_ENCODING);
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

/// Whether a handler tells the client its error in a text that can't be read here: a stream, or a text
/// that a layer of the router has compressed.
fn has_unread_text<R: Body>(response: &http::Response<R>) -> bool {
    let headers = response.headers();
    let is_one_frame = |length| length <= limits::FRAME as u64;
    let is_unread = headers.contains_key(CONTENT_ENCODING)
        || !response
            .body()
            .size_hint()
            .exact()
            .is_some_and(is_one_frame);
    is_unread && headers.contains_key(CONTENT_TYPE) && response.status().is_client_error()
}

/// Whether the client can mend the error, and this text is the handler's own. axum's rejections have a
/// text of the client at their end, and are longer than a detail if that is.
fn is_own(status: StatusCode, text: &str) -> bool {
    let rejections = ["Failed to ", "Invalid URL: "];
    status.is_client_error() && !rejections.iter().any(|begin| text.starts_with(begin))
}

/// The text of tower-http (`RequestBodyLimit`) for a body whose length is over the limit of the port.
const PORT_LIMIT: &str = "length limit exceeded";

/// The texts of axum (`LengthLimitError`, `MultipartError`) for a body over a limit: that of the port, or a
/// lower one of the route. Other texts with the same status are the handler's own.
const EXTRACTOR_LIMIT: [&str; 2] = [
    "Failed to buffer the request body: length limit exceeded",
    "Request payload is too large",
];

fn is_extractor_limit(status: StatusCode, text: &str) -> bool {
    status == StatusCode::PAYLOAD_TOO_LARGE && EXTRACTOR_LIMIT.contains(&text)
}

/// The text of a body, if it is completely buffered.
fn text_of<R: Body<Data = Bytes> + Unpin>(mut body: R) -> Option<String> {
    let text = body.frame().now_or_never()??.ok()?.into_data().ok()?;
    // Over HTTP/2, a body does not announce its end (`ShedBody`).
    let is_whole = body.is_end_stream() || matches!(body.frame().now_or_never(), Some(None));
    if text.is_empty() || !is_whole {
        return None;
    }
    String::from_utf8(text.into()).ok()
}

/// The response to `OPTIONS *`: the methods that a router may serve.
const METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

/// The reason why a request does not reach a handler.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error(
        "The head of the request, its metadata included, has {0} bytes; the limit is {limit}. Send less.",
        limit = limits::HEAD
    )]
    TooLarge(usize),
    #[error("A request must have one Host header with a valid host.")]
    Host,
    #[error("The only supported transfer coding is chunked; send the body without others.")]
    TransferCoding,
    #[error("{}", .0.detail)]
    Dialect(&'static Mismatch),
    #[error(
        "The peer {0} may not call this service. Its operator lists the peers that may in MESH_ALLOWED_PEERS."
    )]
    Peer(Identity),
    #[error("This service is no proxy, and opens no tunnel; send the request itself.")]
    Connect,
    /// `OPTIONS *` asks for the capabilities of the server (RFC 9110, 9.3.7).
    #[error("the request is for the server as a whole")]
    ServerOptions,
}

impl Refusal {
    fn status(&self) -> StatusCode {
        match self {
            Self::TooLarge(_) => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Host => StatusCode::BAD_REQUEST,
            Self::TransferCoding | Self::Connect => StatusCode::NOT_IMPLEMENTED,
            Self::Dialect(mismatch) => mismatch.status,
            Self::Peer(_) => StatusCode::FORBIDDEN,
            Self::ServerOptions => StatusCode::NO_CONTENT,
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let problem = Problem::new(self.status(), self.to_string());
        match self {
            Self::ServerOptions => (self.status(), [(ALLOW, METHODS)]).into_response(),
            Self::Dialect(Mismatch {
                allow: Some(methods),
                ..
            }) => ([(ALLOW, *methods)], problem).into_response(),
            _ => problem.into_response(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::{
        Router,
        body::Body,
        routing::{get, post},
    };
    use futures_util::stream;
    use http::{HeaderMap, Request, Version};
    use tonic::{Code, Status};
    use tower::ServiceExt;

    use super::*;
    use crate::server::{
        service::{grpc::Grpc, listener::Listener},
        testing::in_memory,
    };

    /// The headers and the text of a response.
    type Seen = (HeaderMap, String);

    /// The response of a handler, as its client gets it.
    async fn response_of(handler: impl Fn() -> Response + Clone + Send + Sync + 'static) -> Seen {
        let router = Router::new().route("/", get(async move || handler()));
        let listener = Listener::http(0, router).body_limit(99);
        let stack = in_memory(listener, Duration::from_secs(10)).stack(0);
        let request = Request::get("/").body(Body::empty()).unwrap();
        let (head, body) = stack.oneshot(request).await.unwrap().into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        (head.headers, String::from_utf8(bytes.into()).unwrap())
    }

    fn detail((headers, text): &Seen) -> String {
        assert_eq!(headers[CONTENT_TYPE], "application/problem+json");
        assert!(!headers.contains_key(CONTENT_ENCODING));
        let document: serde_json::Value = serde_json::from_str(text).unwrap();
        document["detail"].as_str().unwrap().to_owned()
    }

    #[tokio::test]
    async fn an_upgrade_is_refused() {
        let upgrade = || {
            let headers = [("connection", "upgrade"), ("upgrade", "websocket")];
            (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
        };
        let seen = response_of(upgrade).await;
        assert!(detail(&seen).contains("WebSocket"));
        assert!(!seen.0.contains_key("upgrade"));
    }

    const TOO_LARGE: StatusCode = StatusCode::PAYLOAD_TOO_LARGE;

    #[tokio::test]
    async fn the_text_of_a_handler_is_the_detail_whatever_its_status_says() {
        let own = "The picture has more than 20 megapixels.";
        let seen = response_of(move || (TOO_LARGE, own).into_response()).await;
        assert_eq!(detail(&seen), own);
        let problem = move || Problem::new(TOO_LARGE, own).into_response();
        assert_eq!(detail(&response_of(problem).await), own);

        let seen = response_of(|| (TOO_LARGE, PORT_LIMIT).into_response()).await;
        assert!(detail(&seen).contains("the limit of 99 bytes"));
        for text in EXTRACTOR_LIMIT {
            let seen = response_of(move || (TOO_LARGE, text).into_response()).await;
            assert!(
                detail(&seen).contains("of this route, which is at most 99 bytes"),
                "{text}"
            );
        }
        let seen = response_of(|| TOO_LARGE.into_response()).await;
        assert!(
            !detail(&seen).contains("99"),
            "it is not the limit of the port"
        );
    }

    #[tokio::test]
    async fn the_text_of_a_handler_is_the_detail_over_http_2_too() {
        let handler = get(async || (StatusCode::CONFLICT, "There is one."));
        let listener = Listener::http(0, Router::new().route("/", handler));
        let stack = in_memory(listener, Duration::from_secs(10)).stack(0);
        let request = Request::get("/").version(Version::HTTP_2);
        let response = stack.oneshot(request.body(Body::empty()).unwrap()).await;
        let (head, body) = response.unwrap().into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let seen = (head.headers, String::from_utf8(bytes.into()).unwrap());
        assert_eq!(detail(&seen), "There is one.");
    }

    #[tokio::test]
    async fn a_text_that_is_no_detail_is_kept_and_a_rejection_is_not() {
        const PLAIN: &str = "text/plain; charset=utf-8";
        let long = "x".repeat(limits::DETAIL + 1);
        let own = long.clone();
        let (headers, text) = response_of(move || (TOO_LARGE, own.clone()).into_response()).await;
        assert_eq!(headers[CONTENT_TYPE], PLAIN);
        assert_eq!(text, long);

        let stream = || Body::from_stream(stream::iter([Ok::<_, BoxError>("text")]));
        let head = [(CONTENT_TYPE, PLAIN)];
        let response = move || (StatusCode::CONFLICT, head.clone(), stream()).into_response();
        let (headers, text) = response_of(response).await;
        assert_eq!(headers[CONTENT_TYPE], PLAIN);
        assert_eq!(text, "text");

        let rejection = format!("Failed to deserialize query string: {long}");
        let response = move || (StatusCode::BAD_REQUEST, rejection.clone()).into_response();
        assert!(!detail(&response_of(response).await).contains('x'));
    }

    /// The code and the message that a gRPC client gets for this response of a handler.
    async fn status_of(handler: fn() -> Response) -> (Code, String) {
        let router = Router::new().route("/a.S/Get", post(async move || handler()));
        let listener = Listener::grpc(0, Grpc::from_router(router));
        let stack = in_memory(listener, Duration::from_secs(10)).stack(0);
        let request = Request::post("/a.S/Get")
            .version(Version::HTTP_2)
            .header(CONTENT_TYPE, "application/grpc");
        let response = stack.oneshot(request.body(Body::empty()).unwrap()).await;
        let response = response.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let status = Status::from_header_map(response.headers()).unwrap();
        (status.code(), status.message().to_owned())
    }

    #[tokio::test]
    async fn a_grpc_client_gets_a_status_whatever_the_failure_of_a_handler_is_written_in() {
        const INVALID: StatusCode = StatusCode::UNPROCESSABLE_ENTITY;
        let (code, message) = status_of(|| (INVALID, "no name").into_response()).await;
        assert_eq!((code, message.as_str()), (Code::InvalidArgument, "no name"));
        let (code, message) = status_of(|| (INVALID, axum::Json("no name")).into_response()).await;
        assert_eq!(code, Code::InvalidArgument);
        assert!(!message.contains('"'), "{message}");
        let (code, _) = status_of(|| StatusCode::GONE.into_response()).await;
        assert_eq!(code, Code::NotFound);
    }

    #[tokio::test]
    async fn a_text_that_the_router_has_compressed_stays_readable() {
        let encoded = |status| {
            let headers = [(CONTENT_ENCODING, "gzip")];
            move || (status, headers.clone(), "as if compressed").into_response()
        };
        let (headers, text) = response_of(encoded(StatusCode::BAD_REQUEST)).await;
        assert_eq!(headers[CONTENT_ENCODING], "gzip");
        assert_eq!(text, "as if compressed");
        // The text of a 5xx is not shown.
        let failed = response_of(encoded(StatusCode::INTERNAL_SERVER_ERROR)).await;
        assert!(!detail(&failed).contains("compressed"));
    }
}
