//! Which of the two protocols a request speaks, as the same stack serves both; and the names of
//! gRPC's codes.

use axum::BoxError;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header::CONTENT_TYPE};
use http_body::Frame;
use tonic::{Code, Status};

use crate::RequestId;

/// What the client of a request speaks, and so how errors and ids must be written for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// HTTP/1.1 or HTTP/2.
    Http,
    /// gRPC, which is HTTP/2 with a content type of its own.
    Grpc,
}

impl Protocol {
    /// Reads it off the headers of a request or of a response.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let subtype = headers
            .get(CONTENT_TYPE)
            .and_then(|value| value.as_bytes().strip_prefix(b"application/grpc"));
        // Not application/grpc-web, which is another protocol.
        match subtype {
            Some([] | [b'+' | b';', ..]) => Self::Grpc,
            _ => Self::Http,
        }
    }

    /// The header that carries the request id in this protocol.
    pub(crate) fn request_id_header(self) -> HeaderName {
        match self {
            Self::Http => RequestId::HTTP_HEADER,
            Self::Grpc => RequestId::GRPC_METADATA,
        }
    }

    /// How an answer ends that breaks off in the middle: with a status where gRPC is spoken,
    /// else with an error, so that nobody takes a cut answer for a whole one.
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

/// The name of a gRPC code, as other implementations write it too.
pub(crate) fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
