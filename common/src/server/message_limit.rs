//! Layer 4, for gRPC: a message over the limit of its service is `RESOURCE_EXHAUSTED`.
//!
//! tonic reads the messages, and so the limit is its own: 4 MiB, or what the service says with
//! `max_decoding_message_size`. Its code for one over the limit is `OUT_OF_RANGE`, which to
//! other implementations means something else.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use http_body::Frame;
use tonic::{Code, Status};

/// How the message of tonic's status begins, percent-encoded.
const TOO_LARGE: &[u8] = b"Error,%20decoded%20message%20length%20too%20large";

/// Corrects the code in the block of headers that has the status.
pub(super) fn correct(status: &mut HeaderMap) {
    const OUT_OF_RANGE: &[u8] = b"11";
    if let Some(code) = status.get_mut(Status::GRPC_STATUS)
        && code.as_bytes() == OUT_OF_RANGE
    {
        let message = status.get(Status::GRPC_MESSAGE);
        if message.is_some_and(|message| message.as_bytes().starts_with(TOO_LARGE)) {
            let code = HeaderValue::from(Code::ResourceExhausted as u16);
            status.insert(Status::GRPC_STATUS, code);
        }
    }
}

/// The same for a frame of a response.
pub(super) fn corrected(mut frame: Frame<Bytes>) -> Frame<Bytes> {
    if let Some(status) = frame.trailers_mut() {
        correct(status);
    }
    frame
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use http::{Request, Response};
    use tonic::service::Routes;
    use tower::ServiceExt;

    use super::*;
    use crate::server;

    /// The response to a message that says it has this length, and has not.
    async fn response(length: u32) -> Response<()> {
        let (_, health) = tonic_health::server::health_reporter();
        let router = Routes::new(health).prepare().into_axum_router();
        let stack = server::stack(router, std::time::Duration::from_secs(10));
        let message = [&[0][..], &length.to_be_bytes()].concat();
        let request = Request::post("/grpc.health.v1.Health/Check")
            .header("content-type", "application/grpc")
            .body(Body::from(message))
            .unwrap();
        let response = stack.oneshot(request).await.unwrap();
        assert!(
            http_body::Body::is_end_stream(response.body()),
            "trailers-only"
        );
        response.map(drop)
    }

    #[tokio::test]
    async fn a_message_over_the_limit_is_resource_exhausted() {
        const LIMIT: u32 = 4 * 1_024 * 1_024;
        let code = async |length| response(length).await.headers()["grpc-status"].clone();
        assert_eq!(code(LIMIT + 1).await, "8");
        assert_eq!(code(LIMIT).await, "13", "it is not all there");
    }

    #[test]
    fn what_a_service_means_by_out_of_range_stays() {
        let value = HeaderValue::from_static;
        let status = [
            (Status::GRPC_STATUS, value("11")),
            (Status::GRPC_MESSAGE, value("page%207")),
        ];
        let mut status = HeaderMap::from_iter(status);
        correct(&mut status);
        assert_eq!(status[Status::GRPC_STATUS], "11");
    }
}
