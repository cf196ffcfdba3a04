//! What is refused for its head.

use axum::{Router, body::Body, routing::get};
use http::StatusCode;
use tower::ServiceExt;

use super::super::*;
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
