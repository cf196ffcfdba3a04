//! [`Dialect`]: the differences between HTTP and gRPC, which layers ask for and do not know; and the names
//! that logs, metrics and spans have for the codes and methods of gRPC.

#[cfg(feature = "traces")]
use std::borrow::Cow;
use std::{fmt::Debug, time::Duration};

use axum::{BoxError, body::Body};
use bytes::Bytes;
use http::{HeaderMap, Method, Response, StatusCode, Version};
use http_body::Frame;
#[cfg(feature = "traces")]
use opentelemetry::KeyValue;
use tonic::Code;
use tracing::Level;

use super::id::{InvalidRequestId, RequestId};

/// A protocol that ports speak over HTTP/1.1 or HTTP/2. Ports and requests have one; that of a request
/// is HTTP if its client does not speak the dialect of the port.
///
/// A new dialect is a type with this trait, and a constructor of
/// [`Listener`](crate::server::Listener).
pub(crate) trait Dialect: Debug + Send + Sync {
    fn name(&self) -> &'static str;

    /// Whether the clients of its ports are services of the mesh: they have certificates of the mesh,
    /// share connections among many requests, and keep them.
    fn serves_mesh(&self) -> bool {
        false
    }

    /// Whether a request body is a stream of length-prefixed messages. The body limit of a port is
    /// then that of each message.
    fn has_messages(&self) -> bool {
        false
    }

    /// Checks that a request to a port of this dialect is in it.
    fn accept(
        &self,
        _method: &Method,
        _version: Version,
        _headers: &HeaderMap,
    ) -> Result<(), &'static Mismatch> {
        Ok(())
    }

    /// Reads the headers of a request.
    fn read(&self, headers: &HeaderMap) -> Asked;

    /// Writes the id of a request into the headers of its response.
    fn write_id(&self, id: &RequestId, headers: &mut HeaderMap);

    /// Adds what a response lacks so that nobody keeps it, or takes it for another type.
    fn protect(&self, _headers: &mut HeaderMap) {}

    /// Whether `Server-Timing` may be in the trailers of a response.
    fn has_free_trailers(&self) -> bool {
        false
    }

    /// Whether clients can read a failure as a handler wrote it. If not, they get [`Self::failure`].
    fn shows_texts(&self) -> bool {
        true
    }

    /// Writes a failure. `document` is the response over HTTP; its extensions have the
    /// [`Problem`](crate::Problem).
    fn failure(&self, document: Response<Body>) -> Response<Body> {
        document
    }

    /// The last frame of a response that breaks off, or the error that breaks it off. No client may
    /// take a part of a response for the whole.
    fn break_off(&self, _code: Code, error: BoxError) -> Result<Frame<Bytes>, BoxError> {
        Err(error)
    }

    /// Corrects the status that a handler has put into headers or trailers.
    fn correct(&self, _status: &mut HeaderMap) {}

    /// The code of a response, if these headers or trailers have it.
    fn code_in(&self, _headers: &HeaderMap) -> Option<Code> {
        None
    }

    /// The code of a response at its end, for dialects that have codes. `seen` is that of its headers
    /// or trailers.
    fn code_at_end(&self, _seen: Option<Code>, _is_dropped: bool) -> Option<Code> {
        None
    }

    /// The level of the access line of a request with a whole response, or with one that was dropped.
    fn level(&self, ended: &Ended<'_>) -> Level;

    /// Counts a request in the metrics.
    fn count(&self, ended: &Ended<'_>);

    /// Adds the attributes of a request's span. Returns its name, and its `error.type` if it failed.
    #[cfg(feature = "traces")]
    fn describe(
        &self,
        ended: &Ended<'_>,
        attributes: &mut Vec<KeyValue>,
    ) -> (String, Option<Cow<'static, str>>);
}

impl PartialEq for dyn Dialect {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Eq for dyn Dialect {}

/// The reason why a request is not in the dialect of its port.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Mismatch {
    pub(crate) status: StatusCode,
    pub(crate) detail: &'static str,
    /// The value of `Allow`.
    pub(crate) allow: Option<&'static str>,
}

/// What the headers of a request ask for.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    pub(crate) request_id: Option<RequestId>,
    /// The time that the client gives the request.
    pub(crate) timeout: Option<Duration>,
    /// Whether the response has `Server-Timing`.
    pub(crate) is_timed: bool,
    pub(crate) faults: Vec<Fault>,
}

impl Asked {
    /// Adds the id that the client has sent, if any, or its fault.
    pub(crate) fn with_id(mut self, id: Result<Option<RequestId>, InvalidRequestId>) -> Self {
        match id {
            Ok(id) => self.request_id = id,
            Err(reason) => self.faults.push(Fault {
                action: "request_id",
                status: "replaced",
                reason: Some(reason.to_string()),
                message: "the request's id is not usable; it has this fresh one instead",
            }),
        }
        self
    }
}

/// A fault of the headers of a request, which is served nevertheless. The fields are those of its log
/// line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) action: &'static str,
    pub(crate) status: &'static str,
    pub(crate) reason: Option<String>,
    pub(crate) message: &'static str,
}

/// A request that has ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ended<'a> {
    pub(crate) method: &'a Method,
    #[cfg_attr(not(feature = "traces"), allow(dead_code))] // for spans
    pub(crate) path: &'a str,
    #[cfg_attr(not(feature = "traces"), allow(dead_code))] // for spans
    pub(crate) version: Version,
    /// The scheme that the client has used, if it is known.
    #[cfg_attr(not(feature = "traces"), allow(dead_code))] // for spans
    pub(crate) scheme: Option<&'static str>,
    /// The route of the router, or the method of the descriptors, if there is one. It is never the
    /// path that the client sent: clients must not choose the labels of the metrics.
    pub(crate) route: Option<&'a str>,
    /// The HTTP status.
    pub(crate) status: u16,
    pub(crate) code: Option<Code>,
    /// Why the response is not whole, if it is not.
    pub(crate) cut_by: Option<&'static str>,
    /// The service stopped before the response was over.
    pub(crate) is_stopped: bool,
    pub(crate) took: Duration,
}

/// The name of a method with its service, such as `app.grpc.Service1/ProcessName`, from its path.
pub(crate) fn rpc_method(path: &str) -> &str {
    path.strip_prefix('/').unwrap_or(path)
}

/// Whether this code is the fault of the service rather than of its caller.
pub(crate) fn is_fault_of_service(code: Code) -> bool {
    matches!(
        code,
        Code::Unknown
            | Code::DeadlineExceeded
            | Code::ResourceExhausted
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
    )
}

/// The name of a gRPC code, as in the specification.
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
