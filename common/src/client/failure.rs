//! [`Failure`]: why an attempt has no response, and what that says about sending it again.

use h2::Reason;
use http::Request;
use tonic::{Code, Status};

use super::request::RequestBody;

/// An attempt that came to nothing before its response began.
#[derive(Debug)]
pub(super) enum Failure {
    /// No replica takes the call, and none did for too long.
    NoReplica(&'static str),
    /// It never left. Here it is, to be sent elsewhere.
    NotSent(Box<Request<RequestBody>>),
    /// The replica is going away and says that it has not processed it, or the request never
    /// left and is lost.
    Unprocessed(Status),
    /// The replica refused it without processing it.
    Refused(Status),
    /// It may have been processed.
    Broken(Status),
}

impl Failure {
    pub(super) fn into_status(self) -> Status {
        match self {
            Self::NoReplica(why) => Status::unavailable(why),
            Self::NotSent(_) => Status::unavailable("the connection was closed before the call"),
            Self::Unprocessed(status) | Self::Refused(status) | Self::Broken(status) => status,
        }
    }
}

impl From<h2::Error> for Failure {
    fn from(error: h2::Error) -> Self {
        let is_remote = error.is_remote();
        if is_remote && error.is_go_away() {
            // A GOAWAY fails the streams above its last; the others run to their end.
            return Self::Unprocessed(status_of(error));
        }
        if is_remote && error.reason() == Some(Reason::REFUSED_STREAM) {
            return Self::Refused(status_of(error));
        }
        Self::Broken(status_of(error))
    }
}

/// The status of a call whose connection or stream broke: `UNAVAILABLE`, where nothing says more.
///
/// By itself tonic has `UNKNOWN`, `CANCELLED` or `INTERNAL` for it, which would read as the fault
/// of the service or as the wish of the client.
pub(super) fn status_of(error: h2::Error) -> Status {
    let is_go_away = error.is_go_away();
    let status = Status::from_error(Box::new(error));
    match status.code() {
        Code::Unknown | Code::Cancelled => Status::unavailable(status.message()),
        _ if is_go_away => Status::unavailable(status.message()),
        _ => status,
    }
}
