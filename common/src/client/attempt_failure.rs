//! [`Failure`]: why an attempt has no response, and what that says about sending it again.

use h2::Reason;
use tonic::Status;

/// An attempt that came to nothing before its response began.
#[derive(Debug)]
pub(super) enum Failure {
    /// No replica takes the call, and none did for too long.
    NoReplica(&'static str),
    /// It never left, or the replica is going away and says that it has not processed it.
    Unprocessed(Status),
    /// The replica refused it without processing it.
    Refused(Status),
    /// As many calls as may be wait for a stream of the connection already.
    Full,
    /// It may have been processed.
    Broken(Status),
    /// The caller's side of it failed, which no replica can change.
    Request(Status),
}

impl Failure {
    /// The failure of a call that was about to leave.
    pub(super) fn of_sending(error: h2::Error) -> Self {
        if error.is_io() || error.is_go_away() {
            Self::Unprocessed(status_of(error))
        } else {
            Self::Request(Status::internal(format!("the call can't be sent: {error}")))
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
            // A GOAWAY fails the streams above its last; the others run to their end.
            return Self::Unprocessed(status_of(error));
        }
        if is_remote && error.reason() == Some(Reason::REFUSED_STREAM) {
            return Self::Refused(status_of(error));
        }
        Self::Broken(status_of(error))
    }
}

/// The status of a call whose stream was reset, after gRPC's table of HTTP/2 error codes, or whose
/// connection broke: `UNAVAILABLE`.
///
/// For the latter tonic has `UNKNOWN` or `INTERNAL`, which would read as the fault of the service.
pub(super) fn status_of(error: h2::Error) -> Status {
    if error.is_reset() {
        return Status::from_error(Box::new(error));
    }
    Status::unavailable(error.to_string())
}
