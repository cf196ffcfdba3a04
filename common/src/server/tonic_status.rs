//! Layer 4, for gRPC: codes of tonic's that other implementations do not have.
//!
//! - A message over the limit of its service (tonic's 4 MiB, or its `max_decoding_message_size`)
//!   is `OUT_OF_RANGE`, which means something else; it is `RESOURCE_EXHAUSTED` here.
//! - A request that its client broke off can't be `CANCELLED` to the handler, as tonic takes that
//!   for its end; it is once the handler has said so.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use http_body::Frame;
use tonic::{Code, Status};

/// A code, how its message begins, percent-encoded, and the code that it should be.
const CORRECTIONS: [(&[u8], &[u8], Code); 2] = [
    (
        b"11", // OUT_OF_RANGE
        b"Error,%20decoded%20message%20length%20too%20large",
        Code::ResourceExhausted,
    ),
    (
        b"2",                                          // UNKNOWN
        b"the%20client%20broke%20off%20the%20request", // reset::BrokenOff
        Code::Cancelled,
    ),
];

/// Corrects the code in the block of headers that has the status.
pub(super) fn correct(status: &mut HeaderMap) {
    let Some(code) = status.get(Status::GRPC_STATUS) else {
        return;
    };
    let mut corrections = CORRECTIONS.iter().filter(|(wrong, ..)| code == wrong);
    if let Some((_, text, right)) = corrections.next()
        && let Some(message) = status.get(Status::GRPC_MESSAGE)
        && message.as_bytes().starts_with(text)
    {
        status.insert(Status::GRPC_STATUS, HeaderValue::from(*right as u16));
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
    use std::time::Duration;

    use axum::body::Body;
    use http::{Request, Response};
    use tonic::service::Routes;
    use tower::ServiceExt;

    use super::*;
    use crate::{
        methods::Methods,
        server::{self, Face},
    };

    /// The response to a message that says it has this length, and has not.
    async fn response(length: u32) -> Response<()> {
        let (_, health) = tonic_health::server::health_reporter();
        let router = Routes::new(health).prepare().into_axum_router();
        let face = Face::grpc(router, Duration::from_secs(10), &Methods::new());
        let stack = server::alone(face.with_body_limit(usize::MAX));
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

    /// The code of the status that a handler returns as this.
    fn corrected_code(status: &Status) -> HeaderValue {
        let mut headers = HeaderMap::new();
        status.add_header(&mut headers).unwrap();
        correct(&mut headers);
        headers[Status::GRPC_STATUS].clone()
    }

    #[test]
    fn a_request_that_was_broken_off_is_cancelled() {
        let status = Status::from_error(super::super::reset::BrokenOff.into());
        assert_eq!(corrected_code(&status), "1");
    }

    #[test]
    fn what_a_service_itself_says_stays() {
        assert_eq!(corrected_code(&Status::out_of_range("page 7")), "11");
        assert_eq!(corrected_code(&Status::unknown("who knows")), "2");
    }
}
