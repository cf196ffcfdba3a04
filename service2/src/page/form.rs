//! The form of the page: for each field its text, its value and the response of the backend.

use std::future::Future;

use axum::http::StatusCode;
use common::{Problem, server::Query};

/// The defaults of the original page.
const NAME: &str = "Gonzalo";
const LENGTH: i32 = 10;
const STREAM_LENGTH: i32 = 5;

/// The most streamed items on the page. More would slow the browser down.
const MAX_STREAM_LENGTH: i32 = 100_000;

/// The fields of the form.
pub(super) struct Form {
    pub(super) name: Field<String>,
    pub(super) length: Field<i32>,
    pub(super) stream_length: Field<i32>,
}

impl Form {
    pub(super) fn read(query: &Query) -> Self {
        let mut stream_length = Field::number(query, "stream_length", STREAM_LENGTH);
        if matches!(stream_length.outcome, Ok(length) if length > MAX_STREAM_LENGTH) {
            stream_length.outcome = Err(Problem::new(
                StatusCode::BAD_REQUEST,
                format!(
                    "This page shows at most {MAX_STREAM_LENGTH} streamed items; \
                     /api/v1/items/stream has no such limit."
                ),
            ));
        }
        Self {
            name: Field::text(query, "name", NAME),
            length: Field::number(query, "length", LENGTH),
            stream_length,
        }
    }
}

/// A field. Its outcome is first the value of its text, and then the response of the backend.
pub(super) struct Field<T> {
    /// The text, as typed.
    pub(super) typed: String,
    pub(super) outcome: Result<T, Problem>,
}

impl Field<String> {
    fn text(query: &Query, name: &str, default: &str) -> Self {
        let outcome = query.get(name);
        let outcome = outcome.map(|text| text.unwrap_or_else(|| default.to_owned()));
        Self {
            typed: outcome.clone().unwrap_or_default(),
            outcome,
        }
    }
}

impl Field<i32> {
    fn number(query: &Query, name: &str, default: i32) -> Self {
        let outcome = query.integer(name);
        Self {
            typed: Field::text(query, name, &default.to_string()).typed,
            outcome: outcome.map(|number| number.unwrap_or(default)),
        }
    }
}

impl<T> Field<T> {
    /// Makes a call with the value, if there is one.
    pub(super) async fn ask<F, U, E>(self, call: impl FnOnce(T) -> F) -> Field<U>
    where
        F: Future<Output = Result<U, E>>,
        E: Into<Problem>,
    {
        Field {
            typed: self.typed,
            outcome: async { call(self.outcome?).await.map_err(Into::into) }.await,
        }
    }

    /// What is wrong with the text, if the text is to blame.
    pub(super) fn mistake(&self) -> Option<&str> {
        let problem = self.outcome.as_ref().err()?;
        (problem.status() == StatusCode::BAD_REQUEST).then(|| problem.detail())
    }

    /// Separates the outcome from the field.
    pub(super) fn split(self) -> (Field<()>, Result<T, Problem>) {
        let outcome = self.outcome.as_ref().map(|_| ()).map_err(Problem::clone);
        let typed = self.typed;
        (Field { typed, outcome }, self.outcome)
    }

    /// The HTTP status of the outcome.
    pub(super) fn status(&self) -> StatusCode {
        let problem = self.outcome.as_ref().err();
        problem.map_or(StatusCode::OK, Problem::status)
    }
}
