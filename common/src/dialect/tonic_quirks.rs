//! Corrections where tonic differs from other implementations of gRPC.
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

use std::error::Error;

use axum::BoxError;
use http::{HeaderMap, HeaderValue, Response};
use http_body::Body;
use http_body_util::{BodyExt, combinators::MapErr};
use tonic::{Code, Status};

use crate::problem::{MALFORMED, NOT_PROCESSED};

/// The error of a request body that did not come to its end.
#[derive(Debug, thiserror::Error)]
#[error("the client broke off the request")]
struct BrokenOff;

/// The body of a request, which fails with [`BrokenOff`] if its stream ends early.
pub(crate) fn with_visible_reset<B>(body: B) -> Visible<B>
where
    B: Body<Error: Into<BoxError>>,
{
    body.map_err(visible::<B::Error>)
}

/// A request body that fails if its stream ends early.
pub(crate) type Visible<B> = MapErr<B, fn(<B as Body>::Error) -> BoxError>;

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
    let code = status.get(Status::GRPC_STATUS);
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
    use http::Request;
    use http_body::Frame;
    use http_body_util::StreamBody;
    use tower::ServiceExt;

    use super::*;
    use crate::server::{
        service::{grpc::Grpc, listener::Listener},
        testing::in_memory,
    };

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
