//! [`GRPC`]: the dialect of gRPC, which is HTTP/2 with a content type, timeouts and statuses of its
//! own ([gRPC over HTTP/2](https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md)).
//!
//! Three things are corrected here where tonic differs from other implementations of gRPC:
//!
//! - tonic refuses a message over the limit of a service (4 MiB, or its
//!   `max_decoding_message_size`) with `OUT_OF_RANGE`. Other implementations use
//!   `RESOURCE_EXHAUSTED`, and so does this one.
//! - If the client resets a request, tonic reports a regular end of the request stream, and a
//!   handler would continue with half a request. Here the stream ends with an error, and the status
//!   of the response is `CANCELLED`: whatever the code of the reset, and if the connection is lost.
//!   tonic blames the service for these: `INTERNAL` or `UNKNOWN`.
//! - A request that can't be decoded is `INTERNAL` to tonic. Here it is `INVALID_ARGUMENT`, where the
//!   code is generated with [`Codec`](crate::client::ending::codec::Codec), and for health.

#[cfg(feature = "traces")]
use std::borrow::Cow;
use std::error::Error;

use axum::{BoxError, body::Body};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Version, header::CONTENT_TYPE};
use http_body::Frame;
use http_body_util::{BodyExt, combinators::MapErr};
#[cfg(feature = "traces")]
use opentelemetry::KeyValue;
use tonic::{Code, Status};
use tracing::Level;

use super::{grpc_timeout::with_timeout, http::id_under};
use crate::{
    headers::first,
    problem::{MALFORMED, NOT_PROCESSED, Problem},
    request::{
        dialect::{Asked, Dialect, Ended, Fault, Mismatch, is_fault_of_service},
        id::RequestId,
        timings::WANT_SERVER_TIMING,
    },
    telemetry::metrics::{self, Measure},
};
#[cfg(feature = "traces")]
use crate::{request::dialect::code_name, telemetry::traces::spans::of_rpc};

/// gRPC: failures and responses that break off are statuses, in the headers or in the trailers.
pub(crate) const GRPC: &dyn Dialect = &GrpcDialect;

#[derive(Debug)]
struct GrpcDialect;

static NOT_POST: Mismatch = Mismatch {
    status: StatusCode::METHOD_NOT_ALLOWED,
    detail: "gRPC calls are POST requests; this one is not.",
    allow: Some("POST"),
};

static NOT_GRPC: Mismatch = Mismatch {
    status: StatusCode::UNSUPPORTED_MEDIA_TYPE,
    detail: "This port speaks gRPC, in protobuf; call it with a gRPC client.",
    allow: None,
};

/// Over HTTP/1 a call would lose its status, which is in the trailers.
static OVER_HTTP_1: Mismatch = Mismatch {
    status: StatusCode::HTTP_VERSION_NOT_SUPPORTED,
    detail: "gRPC needs HTTP/2, and this call came over HTTP/1; let the client, or the proxy before \
             this port, speak HTTP/2 (nginx: grpc_pass).",
    allow: None,
};

impl Dialect for GrpcDialect {
    fn name(&self) -> &'static str {
        "grpc"
    }

    fn serves_mesh(&self) -> bool {
        true
    }

    fn has_messages(&self) -> bool {
        true
    }

    fn accept(
        &self,
        method: &Method,
        version: Version,
        headers: &HeaderMap,
    ) -> Result<(), &'static Mismatch> {
        let media_type = first(headers, &CONTENT_TYPE);
        if method != Method::POST {
            Err(&NOT_POST)
        } else if !media_type.is_some_and(|media_type| is_grpc(media_type.as_bytes())) {
            Err(&NOT_GRPC)
        } else if version < Version::HTTP_2 {
            Err(&OVER_HTTP_1)
        } else {
            Ok(())
        }
    }

    fn read(&self, headers: &HeaderMap) -> Asked {
        let asked = Asked {
            is_timed: first(headers, &WANT_SERVER_TIMING).is_some(),
            ..Asked::default()
        };
        let mut asked = with_timeout(asked, headers);
        let id = id_under(&RequestId::GRPC_METADATA, headers);
        if id == Ok(None) {
            // Proxies drop names with an underscore.
            return asked.with_id(id_under(&RequestId::HTTP_HEADER, headers));
        }
        if let (Ok(Some(id)), Some(other)) = (&id, first(headers, &RequestId::HTTP_HEADER))
            && other != id.as_str()
        {
            asked.faults.push(Fault {
                action: "request_id",
                status: "ambiguous",
                reason: None,
                message: "the request has another id in x-request-id; it goes by its request_id",
            });
        }
        asked.with_id(id)
    }

    fn write_id(&self, id: &RequestId, headers: &mut HeaderMap) {
        headers.insert(RequestId::GRPC_METADATA, id.header_value());
    }

    fn shows_texts(&self) -> bool {
        false
    }

    /// A status in one block of headers ("trailers-only"): clients do not retry a call whose response
    /// has separate headers (gRFC A6).
    fn failure(&self, document: Response<Body>) -> Response<Body> {
        match document.extensions().get::<Problem>() {
            Some(problem) => Status::from(problem.clone()).into_http(),
            None => document,
        }
    }

    fn break_off(&self, code: Code, error: BoxError) -> Result<Frame<Bytes>, BoxError> {
        let message = HeaderValue::try_from(error.to_string());
        let mut trailers = HeaderMap::with_capacity(2);
        trailers.insert(Status::GRPC_STATUS, HeaderValue::from(code as u16));
        trailers.extend(message.ok().map(|text| (Status::GRPC_MESSAGE, text)));
        Ok(Frame::trailers(trailers))
    }

    fn correct(&self, status: &mut HeaderMap) {
        correct(status);
    }

    fn code_in(&self, headers: &HeaderMap) -> Option<Code> {
        let code = first(headers, &Status::GRPC_STATUS)?;
        Some(Code::from_bytes(code.as_bytes()))
    }

    fn code_at_end(&self, seen: Option<Code>, is_dropped: bool) -> Option<Code> {
        let seen = seen.unwrap_or(Code::Unknown);
        Some(if is_dropped { Code::Cancelled } else { seen })
    }

    fn level(&self, ended: &Ended<'_>) -> Level {
        match code_of(ended) {
            Code::Ok => Level::DEBUG,
            code if ended.is_stopped || is_fault_of_service(code) => Level::WARN,
            _ => Level::INFO,
        }
    }

    fn count(&self, ended: &Ended<'_>) {
        metrics::count_duration(
            Measure::RpcServer,
            ended.route.unwrap_or(metrics::OTHER),
            code_of(ended) as u16,
            ended.cut_by,
            ended.took,
        );
    }

    #[cfg(feature = "traces")]
    fn describe(
        &self,
        ended: &Ended<'_>,
        attributes: &mut Vec<KeyValue>,
    ) -> (String, Option<Cow<'static, str>>) {
        let (method, code) = (ended.route.unwrap_or(metrics::OTHER), code_of(ended));
        attributes.extend(of_rpc(method, code));
        let error = is_error_of_server(code).then(|| code_name(code).into());
        (method.to_owned(), error)
    }
}

fn code_of(ended: &Ended<'_>) -> Code {
    ended.code.unwrap_or(Code::Unknown)
}

/// Whether a media type is gRPC with protobuf: `application/grpc` or `application/grpc+proto`, with
/// or without parameters. `application/grpc-web` is another protocol.
fn is_grpc(media_type: &[u8]) -> bool {
    let subtype = media_type.strip_prefix(b"application/grpc");
    let parameters = subtype.map(|rest| rest.strip_prefix(b"+proto").unwrap_or(rest));
    matches!(parameters, Some([] | [b';' | b' ', ..]))
}

/// Whether the conventions of OpenTelemetry call this code an error of the server.
#[cfg(feature = "traces")]
fn is_error_of_server(code: Code) -> bool {
    matches!(
        code,
        Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
    )
}

/// The error of a request body that did not come to its end.
#[derive(Debug, thiserror::Error)]
#[error("the client broke off the request")]
struct BrokenOff;

/// The body of a request, which fails with [`BrokenOff`] if its stream ends early.
pub(crate) fn with_visible_reset<B>(body: B) -> Visible<B>
where
    B: http_body::Body<Error: Into<BoxError>>,
{
    body.map_err(visible::<B::Error>)
}

/// A request body that fails if its stream ends early.
pub(crate) type Visible<B> = MapErr<B, fn(<B as http_body::Body>::Error) -> BoxError>;

fn visible<E: Into<BoxError>>(error: E) -> BoxError {
    let error = error.into();
    let mut cause: Option<&(dyn Error + 'static)> = Some(&*error);
    while let Some(error) = cause {
        // The client resets the stream, breaks a rule of HTTP/2, or the connection is lost.
        if error.is::<h2::Error>() {
            return BrokenOff.into();
        }
        cause = error.source();
    }
    error
}

/// The wrong code, the start of its message (percent-encoded), and the right code.
const CORRECTIONS: [(&[u8], &[u8], Code); 3] = [
    (
        b"11", // OUT_OF_RANGE
        b"Error,%20decoded%20message%20length%20too%20large",
        Code::ResourceExhausted,
    ),
    (
        b"2",                                          // UNKNOWN
        b"the%20client%20broke%20off%20the%20request", // BrokenOff
        Code::Cancelled,
    ),
    (
        b"13", // INTERNAL
        b"protocol%20error:%20received%20message%20with%20compressed-flag%20but%20no%20grpc-encoding",
        Code::InvalidArgument,
    ),
];

/// Marks a request that can't be decoded, as [`Codec`](crate::client::ending::codec::Codec) does, for a service that is
/// generated without it and calls no other.
pub(crate) fn mark_malformed<B>(mut response: Response<B>) -> Response<B> {
    let headers = response.headers_mut();
    let message = headers.get(Status::GRPC_MESSAGE);
    if message.is_some_and(|message| message.as_bytes().starts_with(UNDECODED)) {
        headers.insert(MALFORMED, HeaderValue::from_static(""));
    }
    response
}

/// How tonic-prost's error for an undecodable message begins.
const UNDECODED: &[u8] = b"failed%20to%20decode%20Protobuf%20message";

/// Corrects the code of a status in headers or trailers, and removes the marks of our own services,
/// which a handler may pass on.
pub(crate) fn correct(status: &mut HeaderMap) {
    let code = first(status, &Status::GRPC_STATUS);
    let Some(code) = code.filter(|code| *code != "0").cloned() else {
        return;
    };
    status.remove(NOT_PROCESSED);
    if status.remove(MALFORMED).is_some() && code == "13" {
        let right = HeaderValue::from(Code::InvalidArgument as u16);
        status.insert(Status::GRPC_STATUS, right);
        return;
    }
    let mut corrections = CORRECTIONS
        .iter()
        .filter(|(wrong, ..)| code.as_bytes() == *wrong);
    if let Some((_, text, right)) = corrections.next()
        && let Some(message) = status.get(Status::GRPC_MESSAGE)
        && message.as_bytes().starts_with(text)
    {
        status.insert(Status::GRPC_STATUS, HeaderValue::from(*right as u16));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::stream;
    use h2::Reason;
    use http::{HeaderName, Request};
    use http_body::Body as _;
    use http_body_util::StreamBody;
    use tower::ServiceExt;

    use super::*;
    use crate::{
        dialect::http::HTTP,
        server::{
            service::{grpc::Grpc, listener::Listener},
            testing::in_memory,
        },
    };

    #[test]
    fn only_calls_over_http_2_are_in_the_dialect() {
        let accept = |version, method, media_type| {
            let media_type = HeaderValue::from_static(media_type);
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, media_type)]);
            GRPC.accept(&method, version, &headers)
        };
        for version in [Version::HTTP_10, Version::HTTP_11] {
            let accept = |media_type| accept(version, Method::POST, media_type);
            assert_eq!(accept("application/grpc"), Err(&OVER_HTTP_1));
            assert_eq!(accept("application/grpc-web"), Err(&NOT_GRPC));
        }
        let accept = |method, media_type| accept(Version::HTTP_2, method, media_type);
        for media_type in [
            "application/grpc",
            "application/grpc+proto",
            "application/grpc;a=b",
        ] {
            assert_eq!(accept(Method::POST, media_type), Ok(()));
            assert_eq!(accept(Method::GET, media_type), Err(&NOT_POST));
        }
        for media_type in [
            "application/grpc+json",
            "application/grpc-web",
            "text/plain",
            "",
        ] {
            let refused = accept(Method::POST, media_type);
            assert_eq!(refused, Err(&NOT_GRPC), "{media_type}");
        }
    }

    fn read(dialect: &dyn Dialect, pairs: &[(&'static str, &'static str)]) -> Asked {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            let name = HeaderName::from_static(name);
            headers.append(name, HeaderValue::from_static(value));
        }
        dialect.read(&headers)
    }

    fn id(dialect: &dyn Dialect, pairs: &[(&'static str, &'static str)]) -> Option<String> {
        let asked = read(dialect, pairs);
        assert_eq!(asked.faults, []);
        asked.request_id.map(|id| id.to_string())
    }

    #[test]
    fn grpc_metadata_wins_over_the_http_header() {
        let both = [("x-request-id", "one"), ("request_id", "one")];
        assert_eq!(id(GRPC, &both), Some("one".into()));
        assert_eq!(id(GRPC, &both[..1]), Some("one".into()));
        assert_eq!(id(HTTP, &both[1..]), None);

        let differ = [("x-request-id", "http"), ("request_id", "grpc")];
        assert_eq!(id(HTTP, &differ), Some("http".into()));
        let asked = read(GRPC, &differ);
        assert_eq!(asked.request_id, "grpc".parse().ok());
        assert_eq!(asked.faults[0].status, "ambiguous");
    }

    #[test]
    fn an_id_that_is_sent_twice_is_refused() {
        let twice = [("x-request-id", "one"), ("x-request-id", "one")];
        let asked = read(HTTP, &twice);
        assert_eq!(asked.request_id, None);
        assert_eq!(asked.faults[0].status, "replaced");
    }

    #[test]
    fn a_caller_limits_the_time_of_its_request_over_both_protocols() {
        let timeout = |dialect, text| {
            let asked = read(dialect, &[("grpc-timeout", text)]);
            (asked.timeout.map(|it| it.as_secs()), asked.faults.len())
        };
        for dialect in [GRPC, HTTP] {
            assert_eq!(timeout(dialect, "7S"), (Some(7), 0));
            assert_eq!(timeout(dialect, "7000m"), (Some(7), 0));
            assert_eq!(timeout(dialect, "7"), (None, 1));
        }
    }

    /// The code that tonic gives to a request body with this error.
    async fn code(error: BoxError) -> Code {
        let frames = stream::iter([Err::<Frame<bytes::Bytes>, _>(error)]);
        let body = with_visible_reset(StreamBody::new(frames));
        Status::from_error(body.collect().await.unwrap_err()).code()
    }

    #[tokio::test]
    async fn a_reset_request_ends_with_an_error() {
        let reset = || h2::Error::from(Reason::CANCEL);
        assert_eq!(Status::from_error(reset().into()).code(), Code::Cancelled);
        assert_eq!(code(reset().into()).await, Code::Unknown);
        assert_eq!(code(axum::Error::new(reset()).into()).await, Code::Unknown);
        // Whatever code the client chooses.
        for reason in [Reason::PROTOCOL_ERROR, Reason::ENHANCE_YOUR_CALM] {
            assert_eq!(code(h2::Error::from(reason).into()).await, Code::Unknown);
        }
    }

    #[tokio::test]
    async fn a_request_whose_connection_is_lost_ends_with_the_same_error() {
        let (client, server) = tokio::io::duplex(64 * 1_024);
        let serve = async {
            let mut connection = h2::server::handshake(server).await.unwrap();
            let (request, _respond) = connection.accept().await.unwrap().unwrap();
            let mut body = request.into_body();
            while connection.accept().await.is_some() {}
            body.data().await.unwrap().unwrap_err()
        };
        let call = async {
            let (mut calls, connection) = h2::client::handshake(client).await.unwrap();
            let (_response, _body) = calls.send_request(Request::new(()), false).unwrap();
            // Until the request has left, which is long before the timeout.
            let _ = tokio::time::timeout(Duration::from_millis(100), connection).await;
        };
        let (error, ()) = tokio::join!(serve, call);
        assert_eq!(error.reason(), None, "it is no reset");
        let status = Status::from_error(visible(error));
        assert_eq!(corrected_code(&status), "1");
    }

    #[tokio::test]
    async fn other_errors_are_unchanged() {
        let error = Status::data_loss("a page is torn");
        assert_eq!(code(error.into()).await, Code::DataLoss);
    }

    /// The response to a message with only a prefix, which has this length.
    async fn response(length: u32) -> Response<()> {
        let health = Grpc::new(tonic_health::pb::FILE_DESCRIPTOR_SET);
        let listener = Listener::grpc(0, health).body_limit(usize::MAX);
        let stack = in_memory(listener, Duration::from_secs(10)).stack(0);
        let message = [&[0][..], &length.to_be_bytes()].concat();
        let request = Request::post("/grpc.health.v1.Health/Check")
            .header("content-type", "application/grpc")
            .body(axum::body::Body::from(message))
            .unwrap();
        let response = stack.oneshot(request).await.unwrap();
        assert!(response.body().is_end_stream(), "trailers-only");
        response.map(drop)
    }

    #[tokio::test]
    async fn a_message_over_the_limit_is_resource_exhausted() {
        const LIMIT: u32 = 4 * 1_024 * 1_024;
        let code = async |length| response(length).await.headers()["grpc-status"].clone();
        assert_eq!(code(LIMIT + 1).await, "8");
        assert_eq!(code(LIMIT).await, "3", "the message is incomplete");
    }

    /// The corrected code of a status that a handler returns.
    fn corrected_code(status: &Status) -> HeaderValue {
        let mut headers = HeaderMap::new();
        status.add_header(&mut headers).unwrap();
        correct(&mut headers);
        headers[Status::GRPC_STATUS].clone()
    }

    #[test]
    fn a_request_that_cannot_be_decoded_is_the_fault_of_its_caller() {
        let mut headers = HeaderMap::new();
        let mut status = Status::internal("failed to decode Protobuf message");
        status.add_header(&mut headers).unwrap();
        correct(&mut headers);
        assert_eq!(headers[Status::GRPC_STATUS], "13", "of another service");
        status.metadata_mut().insert(MALFORMED, "".parse().unwrap());
        status.add_header(&mut headers).unwrap();
        correct(&mut headers);
        assert_eq!(headers[Status::GRPC_STATUS], "3");
        assert!(!headers.contains_key(MALFORMED));
    }

    #[tokio::test]
    async fn a_health_check_that_cannot_be_decoded_is_the_fault_of_its_caller() {
        let grpc = Grpc::new(tonic_health::pb::FILE_DESCRIPTOR_SET);
        let stack = in_memory(Listener::grpc(0, grpc), Duration::from_secs(10)).stack(0);
        let code = async |method, message: &'static [u8]| {
            let call = Request::post(format!("/grpc.health.v1.Health/{method}"))
                .header("content-type", "application/grpc")
                .body(axum::body::Body::from(message));
            let response = stack.clone().oneshot(call.unwrap()).await.unwrap();
            assert!(!response.headers().contains_key(MALFORMED));
            response.headers().get(Status::GRPC_STATUS).cloned()
        };
        let invalid = Some(HeaderValue::from_static("3"));
        // A field of wire type 7, which there is not.
        assert_eq!(code("Check", b"\0\0\0\0\x01\x0f").await, invalid);
        assert_eq!(code("Watch", b"\0\0\0\0\x01\x0f").await, invalid);
        assert_eq!(code("Check", b"\0\0\0\0\0").await, None, "in the trailers");
    }

    #[test]
    fn the_status_of_a_reset_request_is_cancelled() {
        let status = Status::from_error(BrokenOff.into());
        assert_eq!(corrected_code(&status), "1");
    }

    #[test]
    fn other_statuses_of_a_service_are_unchanged() {
        assert_eq!(corrected_code(&Status::out_of_range("page 7")), "11");
        assert_eq!(corrected_code(&Status::unknown("who knows")), "2");
    }
}
