//! [`Failure`]: an attempt that failed before its response began, or in the middle of it.

use axum::BoxError;
use h2::Reason;
use tonic::{Code, Status};

use super::class::Ending;
use crate::problem::Problem;

/// How an attempt failed, and the status that its caller gets.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) ending: Ending,
    status: Status,
}

impl Failure {
    pub(crate) fn new(ending: Ending, message: impl Into<String>) -> Self {
        let status = match ending {
            // With a pushback, or the edge would blame its client.
            _ if ending.code() == Code::ResourceExhausted => Problem::overloaded().into(),
            _ => Status::new(ending.code(), message),
        };
        Self { ending, status }
    }

    /// The failure of a response that has this end.
    pub(crate) fn of_response(ending: Ending) -> Self {
        Self::new(ending, ending.text())
    }

    pub(crate) fn message(&self) -> &str {
        self.status.message()
    }

    /// The failure of the caller's side. No replica would help.
    pub(crate) fn of_request(status: Status) -> Self {
        let ending = Ending::Request(status.code());
        Self { ending, status }
    }

    /// The failure of a request whose head could not be sent.
    pub(crate) fn of_sending(error: &h2::Error) -> Self {
        if error.is_io() || error.is_go_away() {
            Self::new(Ending::NotSent, error.to_string())
        } else {
            Self::of_request(Status::internal(format!("the call can't be sent: {error}")))
        }
    }

    /// The same failure, if the head of the response has come.
    pub(crate) fn after_head(self) -> Self {
        match self.ending.after_head() {
            ending if ending == self.ending => self,
            ending => Self::new(ending, self.status.message()),
        }
    }

    pub(crate) fn into_status(self) -> Status {
        self.status
    }
}

/// The failure of a stream. h2 fails only the streams above the last one of a GOAWAY with it.
impl From<h2::Error> for Failure {
    fn from(error: h2::Error) -> Self {
        let reason = error.reason().unwrap_or(Reason::INTERNAL_ERROR);
        let ending = match (error.is_reset(), error.is_remote()) {
            (true, true) if reason == Reason::REFUSED_STREAM => Ending::Refused,
            (true, true) => Ending::ResetBeforeHead(reason),
            (true, false) => Ending::Invalid(reason),
            (false, true) if error.is_go_away() => Ending::NotProcessed,
            (false, _) => Ending::ConnectionLost,
        };
        Self::new(ending, error.to_string())
    }
}

impl From<Failure> for BoxError {
    fn from(failure: Failure) -> Self {
        failure.status.into()
    }
}
