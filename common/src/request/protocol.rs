//! [`Protocol`]: HTTP or gRPC, for ports and for requests.

use axum::BoxError;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Version, header::CONTENT_TYPE};
use http_body::Frame;
use tonic::{Code, Status};

use super::id::RequestId;

/// The protocol of a port or of a request. It decides how errors and ids are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// HTTP/1.1 or HTTP/2.
    Http,
    /// gRPC, which is HTTP/2 with a content type of its own.
    Grpc,
}

impl Protocol {
    /// The protocol of a request to a port for `port`. A gRPC port also gets HTTP requests, whose
    /// clients need an error that they can read; an HTTP port has no gRPC requests.
    pub(crate) fn of<B>(request: &Request<B>, port: Self) -> Self {
        // Over HTTP/1 a call would lose its status, which is in the trailers.
        let is_call =
            port == Self::Grpc && request.version() >= Version::HTTP_2 && says_grpc(request);
        if is_call { Self::Grpc } else { Self::Http }
    }

    /// The header that carries the request id in this protocol.
    pub(crate) fn request_id_header(self) -> HeaderName {
        match self {
            Self::Http => RequestId::HTTP_HEADER,
            Self::Grpc => RequestId::GRPC_METADATA,
        }
    }

    /// The end of a response that breaks off: a status over gRPC, an error over HTTP. So no client
    /// takes a part of a response for the whole.
    pub(crate) fn break_off(
        self,
        code: Code,
        error: impl std::error::Error + Send + Sync + 'static,
    ) -> Result<Frame<Bytes>, BoxError> {
        match self {
            Self::Http => Err(error.into()),
            Self::Grpc => {
                let message = HeaderValue::try_from(error.to_string());
                let mut trailers = HeaderMap::with_capacity(2);
                trailers.insert(Status::GRPC_STATUS, HeaderValue::from(code as u16));
                trailers.extend(message.ok().map(|text| (Status::GRPC_MESSAGE, text)));
                Ok(Frame::trailers(trailers))
            }
        }
    }
}

/// Whether the method and the media type of a request are those of a gRPC call.
pub(crate) fn says_grpc<B>(request: &Request<B>) -> bool {
    let media_type = request.headers().get(CONTENT_TYPE);
    request.method() == Method::POST
        && media_type.is_some_and(|media_type| is_grpc(media_type.as_bytes()))
}

/// Whether a media type is gRPC with protobuf: `application/grpc` or `application/grpc+proto`, with
/// or without parameters. `application/grpc-web` is another protocol.
fn is_grpc(media_type: &[u8]) -> bool {
    let subtype = media_type.strip_prefix(b"application/grpc");
    let parameters = subtype.map(|rest| rest.strip_prefix(b"+proto").unwrap_or(rest));
    matches!(parameters, Some([] | [b';' | b' ', ..]))
}
