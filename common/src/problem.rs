//! [`Problem`]: an error as the client sees it.
//!
//! Over HTTP it is an [RFC 9457](https://www.rfc-editor.org/rfc/rfc9457) `problem+json`, over
//! gRPC a status. Handlers return it like any response. The inbound stack also turns the errors of
//! its layers, of axum and of tonic into problems.

use std::{borrow::Cow, error::Error, sync::Arc, time::Duration};

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{
    HeaderValue, StatusCode,
    header::{CONTENT_TYPE, RETRY_AFTER},
};
use serde::{Serialize, Serializer};
use serde_json::Value;
use tonic::{Code, Status, metadata::MetadataValue};

use crate::{calls::TooManyCalls, request::context};

/// The pause that `Retry-After` asks for if a service is overloaded or can't be reached.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// The `Retry-After` of gRPC, in milliseconds (gRFC A6).
pub(crate) const PUSHBACK: &str = "grpc-retry-pushback-ms";

/// The mark of a call that was refused before any handler ran. Only the admission of this crate sets
/// it: so a client may send any call again, elsewhere.
pub(crate) const NOT_PROCESSED: &str = "mesh-not-processed";

/// The mark of `RESOURCE_EXHAUSTED` that is the fault of the caller: a rate limit, or a message that is too
/// long. gRPC has one code for that and for a service without room, and only the latter is a reason to call
/// another replica.
pub(crate) const CALLER_FAULT: &str = "mesh-caller-fault";

/// The mark of a status whose reason is a request that can't be decoded. It never leaves the process.
pub(crate) const MALFORMED: &str = "mesh-malformed";

/// The status of a request whose client went away. HTTP defines none, so this is nginx's.
pub(crate) const CLIENT_CLOSED_REQUEST: u16 = 499;

/// An error as the client sees it.
///
/// ```
/// use common::Problem;
/// use http::StatusCode;
///
/// async fn handler() -> Result<String, Problem> {
///     Err(Problem::new(StatusCode::BAD_REQUEST, "name is given twice; give it once"))
/// }
/// # use axum::response::IntoResponse;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
///
/// let response = handler().await.into_response();
/// assert_eq!(response.status(), StatusCode::BAD_REQUEST);
/// assert_eq!(response.headers()["content-type"], "application/problem+json");
/// # }
/// ```
///
/// A problem of a kind that clients tell apart has a `type`, and members of its own:
///
/// ```
/// # use common::Problem;
/// # use http::StatusCode;
/// use tonic::{Code, Status};
///
/// let problem = Problem::new(StatusCode::CONFLICT, "The account has 30 €, and this costs 50 €.")
///     .kind("https://example.com/problems/out-of-credit")
///     .title("Out of credit")
///     .member("balance", 30)
///     .code(Code::FailedPrecondition);
/// assert_eq!(Status::from(problem).code(), Code::FailedPrecondition);
/// ```
#[derive(Debug, Clone)]
pub struct Problem {
    status: StatusCode,
    detail: Cow<'static, str>,
    retry_after: Option<Duration>,
    grpc: Option<Code>,
    is_unprocessed: bool,
    /// What few problems have.
    more: Option<Box<More>>,
}

/// The members of a document beyond those that its status and its detail give.
#[derive(Debug, Clone, Default)]
struct More {
    kind: Option<Cow<'static, str>>,
    title: Option<Cow<'static, str>>,
    members: Vec<(&'static str, Value)>,
}

/// The members that every document has.
const MEMBERS: [&str; 6] = ["type", "title", "status", "detail", "error", "request_id"];

impl Problem {
    /// Creates a problem. Its `detail` says what is wrong and what to do.
    ///
    /// The detail of a 5xx must not contain internal text. Log such text instead.
    pub fn new(status: StatusCode, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            detail: detail.into(),
            retry_after: None,
            grpc: None,
            is_unprocessed: false,
            more: None,
        }
    }

    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// What is wrong, and what to do.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// Asks the client to retry after this time, in whole seconds.
    #[must_use]
    pub fn retry_after(self, wait: Duration) -> Self {
        Self {
            retry_after: Some(wait),
            ..self
        }
    }

    /// Sets the `type`, a URI that identifies the kind of problem (RFC 9457, 3.1.1). Without it, the
    /// kind is that of the status: `about:blank`.
    #[must_use]
    pub fn kind(self, uri: impl Into<Cow<'static, str>>) -> Self {
        self.with(|more| more.kind = Some(uri.into()))
    }

    /// Sets the `title`, the same text for all problems of a kind. Without it, the title is the name
    /// of the status.
    #[must_use]
    pub fn title(self, title: impl Into<Cow<'static, str>>) -> Self {
        self.with(|more| more.title = Some(title.into()))
    }

    /// Adds a member to the document, or replaces that of the same name. gRPC clients do not get it.
    ///
    /// A member that every document has (`type`, `title`, `status`, `detail`, `error`, `request_id`)
    /// keeps its value.
    #[must_use]
    pub fn member(self, name: &'static str, value: impl Into<Value>) -> Self {
        if MEMBERS.contains(&name) {
            return self;
        }
        self.with(|more| {
            more.members.retain(|(taken, _)| *taken != name);
            more.members.push((name, value.into()));
        })
    }

    /// Sets the code for gRPC clients, in place of the code of the status. `OK` is none: it would
    /// hide the problem.
    ///
    /// A caller takes `UNAVAILABLE`, `INTERNAL`, `UNKNOWN` and `DATA_LOSS` for a failure of the replica,
    /// and ejects a replica that returns them again and again.
    #[must_use]
    pub fn code(self, code: Code) -> Self {
        Self {
            grpc: (code != Code::Ok).then_some(code),
            ..self
        }
    }

    fn with(mut self, change: impl FnOnce(&mut More)) -> Self {
        change(self.more.get_or_insert_default());
        self
    }

    /// A bug or a panic in this service.
    pub(crate) fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "The service failed on this request; report it with the request_id.",
        )
    }

    /// The deadline passed before there was a response.
    pub(crate) fn deadline_exceeded() -> Self {
        Self::new(
            StatusCode::GATEWAY_TIMEOUT,
            "There was no response before the deadline; try again later.",
        )
    }

    /// The service has no permit left for this request.
    pub(crate) fn overloaded() -> Self {
        let problem = Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "The service is overloaded; try again later.",
        );
        Self {
            grpc: Some(Code::ResourceExhausted),
            ..problem.retry_after(RETRY_DELAY)
        }
    }

    /// As many calls to other services are in flight as there may be.
    pub(crate) fn too_many_calls() -> Self {
        Self {
            detail: "This service has as many calls to others in flight as MAX_CALLS allows; try \
                     again later."
                .into(),
            ..Self::overloaded()
        }
    }

    /// Says that no handler has seen the request.
    pub(crate) fn unprocessed(self) -> Self {
        Self {
            is_unprocessed: true,
            ..self
        }
    }

    /// The problem of a status that came without a detail.
    pub(crate) fn of_status(status: StatusCode) -> Self {
        let detail = match status {
            StatusCode::NOT_FOUND => {
                let detail = "Nothing is served at this path; check it for a typo.";
                return Self {
                    grpc: Some(Code::Unimplemented), // a path is a method there
                    ..Self::new(status, detail)
                };
            }
            StatusCode::METHOD_NOT_ALLOWED => {
                "This path does not serve the method; the Allow header lists the methods it serves."
            }
            StatusCode::PAYLOAD_TOO_LARGE => {
                "The body is longer than the service accepts; send less."
            }
            status if status.is_server_error() => {
                return Self {
                    status,
                    ..Self::internal()
                };
            }
            _ => "The service does not accept this request.",
        };
        Self::new(status, detail)
    }
}

/// The gRPC codes of failures and their HTTP statuses. A status means the first of its codes.
const CODES: [(Code, u16); 16] = [
    (Code::InvalidArgument, 400),
    (Code::FailedPrecondition, 400),
    (Code::OutOfRange, 400),
    (Code::Unauthenticated, 401),
    (Code::PermissionDenied, 403),
    (Code::NotFound, 404),
    (Code::Aborted, 409),
    (Code::AlreadyExists, 409),
    (Code::ResourceExhausted, 429),
    (Code::Cancelled, CLIENT_CLOSED_REQUEST),
    (Code::Unimplemented, 501),
    // At the edge, these three are the fault of a service behind it.
    (Code::Unknown, 502),
    (Code::Internal, 502),
    (Code::DataLoss, 502),
    (Code::Unavailable, 503),
    (Code::DeadlineExceeded, 504),
];

/// The HTTP status at the edge for the gRPC code of a call to a replica.
fn http_status(code: Code) -> StatusCode {
    let row = CODES.iter().find(|(known, _)| *known == code);
    row.map_or(StatusCode::OK, |(_, status)| {
        StatusCode::from_u16(*status).expect("within 100 to 999")
    })
}

/// The gRPC code of an HTTP status. That of a 4xx is never one that callers take for a failure of the
/// replica: invalid requests of one client would eject it.
fn grpc_code(status: StatusCode) -> Code {
    match status.as_u16() {
        402 | 412 | 423..=426 | 428 => Code::FailedPrecondition,
        405 => Code::Unimplemented,
        407 => Code::Unauthenticated,
        408 => Code::Cancelled, // the client has not sent its request in time
        410 => Code::NotFound,
        413 | 431 => Code::ResourceExhausted,
        416 => Code::OutOfRange,
        451 => Code::PermissionDenied,
        status => {
            let row = CODES.iter().find(|(_, known)| *known == status);
            match row {
                Some((code, _)) => *code,
                None if (400..500).contains(&status) => Code::InvalidArgument,
                None => Code::Internal,
            }
        }
    }
}

/// The same error for a gRPC client.
///
/// ```
/// use common::Problem;
/// use http::StatusCode;
/// use tonic::{Code, Status};
///
/// let problem = Problem::new(StatusCode::NOT_FOUND, "There is no order 17.");
/// let status = Status::from(problem);
/// assert_eq!((status.code(), status.message()), (Code::NotFound, "There is no order 17."));
/// assert_eq!(Problem::from(status).status(), StatusCode::NOT_FOUND);
/// ```
impl From<Problem> for Status {
    fn from(problem: Problem) -> Self {
        let code = problem.grpc.unwrap_or_else(|| grpc_code(problem.status));
        let mut status = Self::new(code, problem.detail);
        if let Some(wait) = problem.retry_after {
            let millis = wait.as_millis().to_string();
            let millis = millis.parse().expect("digits are ASCII");
            status.metadata_mut().insert(PUSHBACK, millis);
        }
        let mark = MetadataValue::from_static("1");
        if problem.is_unprocessed {
            status.metadata_mut().insert(NOT_PROCESSED, mark);
        } else if code == Code::ResourceExhausted && problem.status.is_client_error() {
            status.metadata_mut().insert(CALLER_FAULT, mark);
        }
        status
    }
}

/// The status becomes the same problem again, and no other status does: its source stays in the
/// process.
impl From<TooManyCalls> for Status {
    fn from(refused: TooManyCalls) -> Self {
        let mut status = Self::from(Problem::too_many_calls());
        status.set_source(Arc::new(refused));
        status
    }
}

/// The problem of a request whose gRPC call failed. The client gets the call's message only if it
/// can mend the error.
impl From<Status> for Problem {
    fn from(grpc: Status) -> Self {
        if grpc.source().is_some_and(<dyn Error>::is::<TooManyCalls>) {
            return Self::too_many_calls();
        }
        let status = http_status(grpc.code());
        match grpc.code() {
            Code::DeadlineExceeded => Self::deadline_exceeded(),
            // A pushback means that the replica is overloaded. Without one, the client asked for
            // too much.
            Code::ResourceExhausted if is_overload(&grpc) => Self {
                detail: "A service that this one needs is overloaded; try again later.".into(),
                ..Self::overloaded()
            },
            _ if is_refused_here(&grpc) => Status::internal("").into(),
            Code::Unavailable => Self::new(
                status,
                "A service that this one needs can't be reached; try again.",
            )
            .retry_after(RETRY_DELAY),
            _ if status.is_client_error() && !grpc.message().is_empty() => Self {
                retry_after: pushback(&grpc),
                ..Self::new(status, grpc.message().to_owned())
            },
            _ if status.is_client_error() => Self::new(
                status,
                "A service that this one needs refused the request; check it for a mistake.",
            ),
            _ => Self::new(
                status,
                "A service that this one needs failed; report it with the request_id.",
            ),
        }
    }
}

/// Whether a `RESOURCE_EXHAUSTED` says that the service behind has no room.
fn is_overload(status: &Status) -> bool {
    let metadata = status.metadata();
    metadata.contains_key(PUSHBACK) && !metadata.contains_key(CALLER_FAULT)
}

/// When the call may be made again.
fn pushback(status: &Status) -> Option<Duration> {
    let millis = status.metadata().get(PUSHBACK)?.to_str().ok()?;
    millis.parse().ok().map(Duration::from_millis)
}

/// Whether tonic has refused a response as too large, on this side. It uses codes that blame the
/// caller.
fn is_refused_here(status: &Status) -> bool {
    let texts = [
        (Code::OutOfRange, "Error, decoded message length too large"),
        (Code::ResourceExhausted, "Error decompressing: size limit"),
    ];
    let mut texts = texts.into_iter();
    texts.any(|(code, text)| status.code() == code && status.message().starts_with(text))
}

/// The JSON document.
#[derive(Serialize)]
struct Document<'a> {
    r#type: &'a str,
    title: &'a str,
    status: u16,
    detail: &'a str,
    /// The same as `title`, under its name in the first version of this API.
    error: &'a str,
    request_id: &'a str,
    #[serde(flatten, serialize_with = "in_order")]
    members: &'a [(&'static str, Value)],
}

fn in_order<S: Serializer>(
    members: &[(&'static str, Value)],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(members.iter().map(|(name, value)| (name, value)))
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let more = self.more.as_deref();
        let title = more.and_then(|more| more.title.as_deref());
        let title = title.unwrap_or_else(|| match self.status.as_u16() {
            CLIENT_CLOSED_REQUEST => "Client Closed Request",
            _ => self.status.canonical_reason().unwrap_or("Error"),
        });
        let document = context::with_request_id(|request_id| {
            serde_json::to_vec(&Document {
                // RFC 9457, 4.2.1: the problem has no meaning beyond its status code.
                r#type: more
                    .and_then(|more| more.kind.as_deref())
                    .unwrap_or("about:blank"),
                title,
                status: self.status.as_u16(),
                detail: &self.detail,
                error: title,
                request_id,
                members: more.map_or(&[], |more| &more.members),
            })
            .expect("strings, numbers and values always become JSON")
        });
        let mut response = Response::new(Body::from(document));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if let Some(wait) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(wait.as_secs().max(1)));
        }
        // If the client speaks gRPC, the inbound stack turns the problem into a gRPC status.
        response.extensions_mut().insert(self);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_grpc_code_has_its_http_status() {
        let table = [
            (Code::InvalidArgument, 400),
            (Code::FailedPrecondition, 400),
            (Code::OutOfRange, 400),
            (Code::Unauthenticated, 401),
            (Code::PermissionDenied, 403),
            (Code::NotFound, 404),
            (Code::AlreadyExists, 409),
            (Code::Aborted, 409),
            (Code::ResourceExhausted, 429),
            (Code::Cancelled, 499),
            (Code::Unimplemented, 501),
            (Code::Unavailable, 503),
            (Code::DeadlineExceeded, 504),
            (Code::Unknown, 502),
            (Code::Internal, 502),
            (Code::DataLoss, 502),
        ];
        for (code, http) in table {
            let problem = Problem::from(Status::new(code, "secret"));
            assert_eq!(problem.status, http, "{code:?}");
            assert_eq!(http_status(Status::from(problem.clone()).code()), http);
            assert_eq!(problem.detail.contains("secret"), http < 500, "{code:?}");
            assert_eq!(problem.retry_after.is_some(), http == 503, "{code:?}");
        }
    }

    #[test]
    fn a_status_without_a_message_keeps_its_meaning() {
        for (code, http) in CODES {
            let problem = Problem::from(Status::new(code, ""));
            assert_eq!(problem.status, http, "{code:?}");
            assert_eq!(grpc_code(problem.status), Status::from(problem).code());
        }
    }

    #[test]
    fn an_overloaded_replica_is_not_the_fault_of_the_client() {
        let problem = Problem::from(Status::from(Problem::overloaded()));
        assert_eq!(problem.status, 503);
        assert_eq!(problem.retry_after, Some(RETRY_DELAY));
        assert_eq!(Status::from(problem).code(), Code::ResourceExhausted);
    }

    #[test]
    fn a_rate_limit_stays_one_over_grpc() {
        let (limit, wait) = (StatusCode::TOO_MANY_REQUESTS, Duration::from_secs(30));
        let problem = Problem::new(limit, "ten a minute").retry_after(wait);
        let back = Problem::from(Status::from(problem));
        assert_eq!((back.status, back.retry_after), (limit, Some(wait)));
        assert_eq!(back.detail, "ten a minute");
    }

    #[test]
    fn the_fault_of_a_client_stays_one_over_grpc() {
        for status in 400..500 {
            let status = StatusCode::from_u16(status).unwrap();
            let code = Status::from(Problem::new(status, "")).code();
            // At the edge of another service, it is the fault of a client again.
            let back = http_status(code);
            assert!(
                back.is_client_error() || back == StatusCode::NOT_IMPLEMENTED,
                "{status}: {back}"
            );
        }
        let code = |status| grpc_code(StatusCode::from_u16(status).unwrap());
        assert_eq!(code(409), Code::Aborted);
        assert_eq!(code(410), Code::NotFound);
        assert_eq!(code(412), Code::FailedPrecondition);
        assert_eq!(code(422), Code::InvalidArgument);
        assert_eq!(code(429), Code::ResourceExhausted);
        assert_eq!(code(500), Code::Internal);
    }

    #[test]
    fn a_problem_chooses_its_code() {
        let conflict = || Problem::new(StatusCode::CONFLICT, "there is one");
        let status = Status::from(conflict().code(Code::AlreadyExists));
        assert_eq!(status.code(), Code::AlreadyExists);
        assert_eq!(
            Problem::from(status).status,
            409,
            "it is the same problem again"
        );
        let hidden = Status::from(conflict().code(Code::Ok));
        assert_eq!(hidden.code(), Code::Aborted);
    }

    async fn document_of(problem: Problem) -> serde_json::Value {
        let response = problem.into_response();
        assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
        let body = axum::body::to_bytes(response.into_body(), 1024);
        serde_json::from_slice(&body.await.unwrap()).unwrap()
    }

    #[tokio::test]
    async fn a_problem_has_a_type_a_title_and_members_of_its_own() {
        let mut problem = Problem::new(StatusCode::CONFLICT, "too dear")
            .kind("/problems/out-of-credit")
            .title("Out of credit")
            .member("balance", 1)
            .member("balance", 30)
            .member("accounts", vec!["/a", "/b"]);
        for name in MEMBERS {
            problem = problem.member(name, "another");
        }
        assert_eq!(
            document_of(problem).await,
            serde_json::json!({
                "type": "/problems/out-of-credit",
                "title": "Out of credit",
                "status": 409,
                "detail": "too dear",
                "error": "Out of credit",
                "request_id": "",
                "balance": 30,
                "accounts": ["/a", "/b"],
            })
        );
    }

    #[tokio::test]
    async fn the_document_has_all_members() {
        let problem = Problem::new(StatusCode::BAD_REQUEST, "too \"long\"");
        assert_eq!(
            document_of(problem).await,
            serde_json::json!({
                "type": "about:blank",
                "title": "Bad Request",
                "status": 400,
                "detail": "too \"long\"",
                "error": "Bad Request",
                "request_id": "",
            })
        );
    }
}
