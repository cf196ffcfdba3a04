//! [`check`]: checks the head of a request before any handler sees it.
//!
//! hyper accepts larger heads, and leaves the rules for `Host` and transfer codings to the server.
//! So every refusal has an id, an access line and, over gRPC, a status.

use axum::response::{IntoResponse, Response};
use http::{
    HeaderMap, HeaderValue, Method, Request, StatusCode, Version,
    header::{ALLOW, HOST, TRANSFER_ENCODING},
    uri::Authority,
};

use crate::{
    limits,
    problem::Problem,
    request::{context, dialect::Mismatch, identity::Identity},
    server::connection::state::ConnectionState,
};

/// The bytes that a field counts beside its name and value (RFC 9113, 6.5.2).
const FIELD_OVERHEAD: usize = 32;

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
    let hosts = headers.get_all(HOST);
    let is_number_valid = match hosts.iter().count() {
        0 => version != Version::HTTP_11,
        1 => true,
        _ => version > Version::HTTP_11,
    };
    if is_number_valid && hosts.iter().all(is_host) {
        Ok(())
    } else {
        Err(Refusal::Host)
    }
}

/// Refuses transfer codings other than `chunked` (RFC 9112, 6.1).
fn check_transfer_codings(headers: &HeaderMap) -> Result<(), Refusal> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    if codings.all(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked")) {
        Ok(())
    } else {
        Err(Refusal::TransferCoding)
    }
}

#[cfg(test)]
mod tests {
    use axum::{Router, body::Body, routing::get};
    use tower::ServiceExt;

    use super::*;
    use crate::server::{
        service::{grpc::Grpc, listener::Listener},
        testing::in_memory,
    };

    const DEADLINE: std::time::Duration = std::time::Duration::from_secs(10);

    fn request(size: usize) -> http::request::Builder {
        let rest = size - "/".len() - "x-large".len() - FIELD_OVERHEAD;
        Request::get("/")
            .version(Version::HTTP_2)
            .header("x-large", "a".repeat(rest))
    }

    #[test]
    fn a_head_within_the_limit_passes() {
        let check = |size| check(&request(size).body(()).unwrap());
        assert_eq!(check(limits::HEAD), Ok(()));
        let error = check(limits::HEAD + 1).unwrap_err().to_string();
        assert!(
            error.contains("has 16385 bytes; the limit is 16384"),
            "{error}"
        );
    }

    #[test]
    fn http_1_requests_need_one_host_and_may_be_chunked() {
        let check = |headers: &[(&str, &str)]| {
            let request = Request::get("/");
            let request = headers.iter().fold(request, |request, (name, value)| {
                request.header(*name, *value)
            });
            check(&request.body(()).unwrap())
        };
        let host = ("host", "localhost:1");
        for valid in [&[host][..], &[("host", "")], &[("host", "[::1]:80")]] {
            assert_eq!(check(valid), Ok(()), "{valid:?}");
        }
        for invalid in ["a b", "a/b", "u@h", "a\"b", "[::1", "a:1:2", "::1"] {
            assert_eq!(check(&[("host", invalid)]), Err(Refusal::Host), "{invalid}");
        }
        assert_eq!(check(&[]), Err(Refusal::Host));
        assert_eq!(check(&[host, host]), Err(Refusal::Host));
        assert_eq!(check(&[host, ("transfer-encoding", "Chunked")]), Ok(()));
        let refused = check(&[host, ("transfer-encoding", "gzip, chunked")]);
        assert_eq!(refused, Err(Refusal::TransferCoding));
    }

    #[tokio::test]
    async fn a_head_over_the_limit_is_refused_in_the_protocol_of_its_client() {
        let router = Router::new().route("/", get(|| async { "well" }));
        let http = request(limits::HEAD + 1).body(Body::empty()).unwrap();
        let port = Listener::http(0, router.clone());
        let http = in_memory(port, DEADLINE).stack(0).oneshot(http);
        let http = http.await.unwrap();
        assert_eq!(http.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
        assert!(http.headers().contains_key("x-request-id"));
        assert_eq!(http.headers()["content-type"], "application/problem+json");

        let grpc = request(limits::HEAD + 1)
            .method(Method::POST)
            .header("content-type", "application/grpc")
            .header("request_id", "the-request");
        let grpc = grpc.body(Body::empty()).unwrap();
        let port = Listener::grpc(0, Grpc::from_router(router));
        let grpc = in_memory(port, DEADLINE).stack(0).oneshot(grpc);
        let grpc = grpc.await.unwrap();
        assert_eq!(grpc.headers()["grpc-status"], "8");
        assert_eq!(grpc.headers()["request_id"], "the-request");
        assert!(http_body::Body::is_end_stream(grpc.body()), "trailers-only");
    }
}
