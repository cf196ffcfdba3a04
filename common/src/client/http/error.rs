//! [`Error`]: why a call has no response.

use std::{error::Error as StdError, iter};

use axum::BoxError;
use tonic::Status;

use crate::{problem::Problem, request::deadline::DeadlineExceeded};

/// The reason why a call has no response, or not all of it.
///
/// As a [`Problem`], it is a 504, a 503 or a 502. The client of this service never sees the text of
/// an error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The URI is not absolute, or not valid.
    #[error("the URI is not an absolute one, such as http://host/path")]
    InvalidUri,
    /// The deadline passed first.
    #[error("there was no response before the deadline")]
    DeadlineExceeded,
    /// As many calls are in flight as `MAX_CALLS` allows.
    #[error("as many calls are in flight as MAX_CALLS allows")]
    TooManyCalls,
    /// No connection could be opened.
    #[error("the service can't be reached: {0}")]
    Unreachable(#[source] BoxError),
    /// The connection broke, or what came was not HTTP.
    #[error("the call broke off: {0}")]
    Broken(#[source] BoxError),
}

impl Error {
    /// The error of a body that could not be read to its end: its deadline has passed, or it broke
    /// off.
    pub fn broken(error: impl Into<BoxError>) -> Self {
        let error = error.into();
        let mut sources = iter::successors(Some(&*error as &dyn StdError), |one| (*one).source());
        if sources.any(<dyn StdError>::is::<DeadlineExceeded>) {
            Self::DeadlineExceeded
        } else {
            Self::Broken(error)
        }
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        match error {
            Error::DeadlineExceeded => Self::deadline_exceeded(),
            Error::TooManyCalls => Self::too_many_calls(),
            Error::Unreachable(_) => Status::unavailable("").into(),
            Error::Broken(_) => Status::unknown("").into(),
            Error::InvalidUri => Self::internal(),
        }
    }
}
