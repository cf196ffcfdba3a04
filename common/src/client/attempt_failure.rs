//! [`Failure`]: why an attempt has no response, and whether its call was processed.

use h2::Reason;
use tonic::{Code, Status};

/// An attempt that failed before its response began.
#[derive(Debug)]
pub(super) enum Failure {
    /// No replica can take the call, for this reason.
    NoReplica(&'static str),
    /// The call was not sent, or the replica's GOAWAY says that it was not processed.
    Unprocessed(Status),
    /// The replica refused the call without processing it (`REFUSED_STREAM`).
    Refused(Status),
    /// Too many other calls wait for a stream of the connection.
    Full,
    /// The call may have been processed.
    Broken(Status),
    /// The caller's side failed. No other replica would help.
    Request(Status),
}

impl Failure {
    /// The failure of a request whose head could not be sent.
    pub(super) fn of_sending(error: h2::Error) -> Self {
        if error.is_io() || error.is_go_away() {
            Self::Unprocessed(status_of(error))
        } else {
            Self::Request(Status::internal(format!("the call can't be sent: {error}")))
        }
    }

    pub(super) fn code(&self) -> Code {
        match self {
            Self::NoReplica(_) | Self::Full => Code::Unavailable,
            Self::Unprocessed(status)
            | Self::Refused(status)
            | Self::Broken(status)
            | Self::Request(status) => status.code(),
        }
    }

    pub(super) fn into_status(self) -> Status {
        match self {
            Self::NoReplica(why) => Status::unavailable(why),
            Self::Full => Status::unavailable("too many calls wait for a stream of the connection"),
            Self::Unprocessed(status)
            | Self::Refused(status)
            | Self::Broken(status)
            | Self::Request(status) => status,
        }
    }
}

impl From<h2::Error> for Failure {
    fn from(error: h2::Error) -> Self {
        let is_remote = error.is_remote();
        if is_remote && error.is_go_away() {
            // A GOAWAY fails only the streams above its last one.
            return Self::Unprocessed(status_of(error));
        }
        if is_remote && error.reason() == Some(Reason::REFUSED_STREAM) {
            return Self::Refused(status_of(error));
        }
        Self::Broken(status_of(error))
    }
}

/// The status of a call whose stream or connection failed: gRPC's table of HTTP/2 error codes for a
/// reset of its stream, `UNAVAILABLE` for any other error.
///
/// tonic maps the other errors to `UNKNOWN` or `INTERNAL`, which blame the service.
pub(super) fn status_of(error: h2::Error) -> Status {
    if error.is_reset() {
        return Status::from_error(Box::new(error));
    }
    Status::unavailable(error.to_string())
}
