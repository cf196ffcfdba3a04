//! For layer 5: the limit of a request's headers. hyper takes more, so that the answer that says so has
//! an id, an access line and, over gRPC, a status.

use http::HeaderMap;

/// The headers of a request, in bytes as HTTP/2 counts them (RFC 9113, 6.5.2); nginx and most
/// others have this limit.
pub(super) const HEAD_LIMIT: usize = 16 * 1_024;

/// What a field takes beside its name and its value.
const FIELD_OVERHEAD: usize = 32;

#[derive(Debug, thiserror::Error)]
#[error(
    "The headers of the request, or its metadata, have {0} bytes; the limit is {HEAD_LIMIT}. Send less."
)]
pub(super) struct HeadTooLarge(usize);

/// Whether headers are within the limit.
pub(super) fn check(headers: &HeaderMap) -> Result<(), HeadTooLarge> {
    let fields = headers.iter();
    let sizes = fields.map(|(name, value)| name.as_str().len() + value.len() + FIELD_OVERHEAD);
    let size = sizes.sum();
    if size > HEAD_LIMIT {
        return Err(HeadTooLarge(size));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use axum::{Router, body::Body, routing::get};
    use http::{Request, StatusCode};
    use tower::ServiceExt;

    use super::*;
    use crate::server;

    fn request(size: usize) -> http::request::Builder {
        let rest = size - "x-large".len() - FIELD_OVERHEAD;
        Request::get("/").header("x-large", "a".repeat(rest))
    }

    #[test]
    fn a_head_within_the_limit_passes() {
        let check = |size| check(request(size).headers_ref().unwrap());
        assert!(check(HEAD_LIMIT).is_ok());
        let error = check(HEAD_LIMIT + 1).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("have 16385 bytes; the limit is 16384"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn one_over_the_limit_is_told_as_its_client_understands_it() {
        let router = Router::new().route("/", get(|| async { "well" }));
        let stack = server::stack(router, std::time::Duration::from_secs(10));
        let http = request(HEAD_LIMIT + 1).body(Body::empty()).unwrap();
        let http = stack.clone().oneshot(http).await.unwrap();
        assert_eq!(http.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
        assert!(http.headers().contains_key("x-request-id"));
        assert_eq!(http.headers()["content-type"], "application/problem+json");

        let grpc = request(HEAD_LIMIT + 1).header("content-type", "application/grpc");
        let grpc = grpc.header("request_id", "the-request");
        let grpc = stack
            .oneshot(grpc.body(Body::empty()).unwrap())
            .await
            .unwrap();
        assert_eq!(grpc.headers()["grpc-status"], "8");
        assert_eq!(grpc.headers()["request_id"], "the-request");
        assert!(http_body::Body::is_end_stream(grpc.body()), "trailers-only");
    }
}
