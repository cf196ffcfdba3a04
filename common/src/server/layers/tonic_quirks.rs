//! Corrections where tonic differs from other implementations of gRPC.
//!
//! - tonic refuses a message over the limit of a service (4 MiB, or its
//!   `max_decoding_message_size`) with `OUT_OF_RANGE`. Other implementations use
//!   `RESOURCE_EXHAUSTED`, and so does this one.
//! - If the client resets a request, tonic reports a regular end of the request stream, and a
//!   handler would continue with half a request. Here the stream ends with an error, and the status
//!   of the response is `CANCELLED`.

use std::error::Error;

use axum::BoxError;
use h2::Reason;
use http::{HeaderMap, HeaderValue, Request};
use http_body::Body;
use http_body_util::{BodyExt, combinators::MapErr};
use tonic::{Code, Status};

/// The error of a request body whose stream the client reset.
#[derive(Debug, thiserror::Error)]
#[error("the client broke off the request")]
struct BrokenOff;

/// Returns the request with a body that fails with [`BrokenOff`] if the client resets the stream.
pub(crate) fn with_visible_reset<B>(request: Request<B>) -> Request<Visible<B>>
where
    B: Body<Error: Into<BoxError>>,
{
    request.map(|body| body.map_err(visible::<B::Error> as fn(B::Error) -> BoxError))
}

/// A request body that fails if the client resets the stream.
pub(crate) type Visible<B> = MapErr<B, fn(<B as Body>::Error) -> BoxError>;

fn visible<E: Into<BoxError>>(error: E) -> BoxError {
    let error = error.into();
    let mut cause: Option<&(dyn Error + 'static)> = Some(&*error);
    while let Some(error) = cause {
        let reset = error.downcast_ref::<h2::Error>();
        if reset.and_then(h2::Error::reason) == Some(Reason::CANCEL) {
            return BrokenOff.into();
        }
        cause = error.source();
    }
    error
}

/// The wrong code, the start of its message (percent-encoded), and the right code.
const CORRECTIONS: [(&[u8], &[u8], Code); 2] = [
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
];

/// Corrects the code of a status in headers or trailers.
pub(crate) fn correct(status: &mut HeaderMap) {
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::stream;
    use http::Response;
    use http_body::Frame;
    use http_body_util::StreamBody;
    use tower::ServiceExt;

    use super::*;
    use crate::server::{self, Grpc, Listener};

    /// The code that tonic gives to a request body with this error.
    async fn code(error: BoxError) -> Code {
        let frames = stream::iter([Err::<Frame<bytes::Bytes>, _>(error)]);
        let request = with_visible_reset(Request::new(StreamBody::new(frames)));
        Status::from_error(request.into_body().collect().await.unwrap_err()).code()
    }

    #[tokio::test]
    async fn a_reset_request_ends_with_an_error() {
        let reset = || h2::Error::from(Reason::CANCEL);
        assert_eq!(Status::from_error(reset().into()).code(), Code::Cancelled);
        assert_eq!(code(reset().into()).await, Code::Unknown);
        assert_eq!(code(axum::Error::new(reset()).into()).await, Code::Unknown);
    }

    #[tokio::test]
    async fn other_errors_are_unchanged() {
        assert_eq!(
            code(h2::Error::from(Reason::PROTOCOL_ERROR).into()).await,
            Code::Internal
        );
    }

    /// The response to a message with only a prefix, which has this length.
    async fn response(length: u32) -> Response<()> {
        let health = Grpc::new(tonic_health::pb::FILE_DESCRIPTOR_SET);
        let listener = Listener::grpc(0, health).body_limit(usize::MAX);
        let stack = server::stack(listener, Duration::from_secs(10));
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
        assert_eq!(code(LIMIT).await, "13", "the message is incomplete");
    }

    /// The corrected code of a status that a handler returns.
    fn corrected_code(status: &Status) -> HeaderValue {
        let mut headers = HeaderMap::new();
        status.add_header(&mut headers).unwrap();
        correct(&mut headers);
        headers[Status::GRPC_STATUS].clone()
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
