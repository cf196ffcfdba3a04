//! The calls of the page, and what came of them.

use std::future::Future;

use axum::http::StatusCode;
use common::{Deadline, Problem, context};
use futures_util::Stream;
use tokio::join;
use tonic::Status;

use super::form::Form;
use crate::{
    backend::{Backend, Fault},
    greeting,
    items::{self, Item},
};

/// What came of a call; `None` if it was not made, as its field has a mistake.
pub(super) type Answer<T> = Option<Result<T, Problem>>;

/// The answers to a form. `S` is what there is of the stream.
pub(super) struct Answers<S> {
    pub(super) hello: Answer<String>,
    pub(super) list: Answer<Vec<Item>>,
    pub(super) stream: Answer<S>,
}

/// Makes the calls at once, those whose field has no mistake, the greeting with the `fault`. Returns
/// when each has succeeded or failed; the items of the stream follow.
pub(super) async fn ask(
    backend: &Backend,
    form: &Form,
    fault: Option<Fault>,
) -> Answers<impl Stream<Item = Result<Item, Status>> + use<>> {
    let greeter = backend.clone().with(fault);
    let (hello, list, stream) = with_time_to_report(async {
        join!(
            answer(&form.name.value, |name| greeting::welcome(greeter, name)),
            answer(&form.length.value, |length| items::get_all(
                backend.clone(),
                length
            )),
            answer(&form.stream_length.value, |length| items::get_stream(
                backend.clone(),
                length
            )),
        )
    })
    .await;
    Answers {
        hello,
        list,
        stream,
    }
}

async fn answer<T: Clone, U, E: Into<Problem>, F>(
    value: &Result<T, String>,
    call: impl FnOnce(T) -> F,
) -> Answer<U>
where
    F: Future<Output = Result<U, E>>,
{
    let value = value.clone().ok()?;
    Some(call(value).await.map_err(Into::into))
}

/// Runs the calls within 95 % of the time that is left. The rest is for the page, which reports the
/// calls that ran out of time.
async fn with_time_to_report<F: Future>(calls: F) -> F::Output {
    let context = context::current().expect("a handler runs within a request");
    let left = context.deadline.remaining().unwrap_or_default();
    let earlier = Deadline::after(left * 19 / 20);
    context.with_deadline(earlier).scope(calls).await
}

impl<S> Answers<S> {
    /// Separates the stream from what is known of it.
    pub(super) fn split(self) -> (Answers<()>, Option<S>) {
        let (known, stream) = match self.stream {
            None => (None, None),
            Some(Err(problem)) => (Some(Err(problem)), None),
            Some(Ok(stream)) => (Some(Ok(())), Some(stream)),
        };
        let answers = Answers {
            hello: self.hello,
            list: self.list,
            stream: known,
        };
        (answers, stream)
    }
}

impl Answers<()> {
    fn problems(&self) -> impl Iterator<Item = (&'static str, &Problem)> {
        fn problem<T>(answer: Option<&Result<T, Problem>>) -> Option<&Problem> {
            answer?.as_ref().err()
        }
        let problems = [
            ("greeting", problem(self.hello.as_ref())),
            ("list", problem(self.list.as_ref())),
            ("stream", problem(self.stream.as_ref())),
        ];
        let problems = problems.into_iter();
        problems.filter_map(|(what, problem)| Some((what, problem?)))
    }

    /// The HTTP status of the page.
    pub(super) fn status(&self, form: &Form) -> StatusCode {
        let of_form = if form.has_mistake() {
            StatusCode::BAD_REQUEST
        } else {
            StatusCode::OK
        };
        let of_calls = self.problems().map(|(_, problem)| problem.status());
        of_calls.fold(of_form, Ord::max)
    }

    /// The failures, each told once, with all that there is not because of it.
    pub(super) fn failures(&self) -> Vec<String> {
        let mut failures = Vec::<(String, Vec<&str>)>::new();
        for (what, problem) in self.problems() {
            let words = words(problem);
            match failures.iter_mut().find(|(told, _)| *told == words) {
                Some((_, missing)) => missing.push(what),
                None => failures.push((words, vec![what])),
            }
        }
        let failures = failures.into_iter();
        failures
            .map(|(words, missing)| format!("{words} There is no {}.", missing.join(", no ")))
            .collect()
    }
}

/// A failure of service1, for people.
pub(super) fn words(problem: &Problem) -> String {
    let detail = problem.detail();
    match detail.strip_prefix("A service that this one needs") {
        Some(rest) => format!("service1{rest}"),
        None if problem.status() == StatusCode::GATEWAY_TIMEOUT => {
            "service1 did not respond before the deadline; try again later.".to_owned()
        }
        None => format!("service1 refused the call: {detail}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(
        hello: Answer<String>,
        list: Answer<Vec<Item>>,
        stream: Answer<()>,
    ) -> (Answers<()>, Vec<String>) {
        let answers = Answers {
            hello,
            list,
            stream,
        };
        let failures = answers.failures();
        (answers, failures)
    }

    #[allow(clippy::unnecessary_wraps)] // it is an answer
    fn failure<T>(status: Status) -> Answer<T> {
        Some(Err(status.into()))
    }

    #[test]
    fn a_failure_of_all_calls_is_told_once() {
        let down = || Status::unavailable("no replica");
        let (_, failures) = answers(failure(down()), failure(down()), failure(down()));
        assert_eq!(
            failures,
            ["service1 can't be reached; try again. There is no greeting, no list, no stream."]
        );
    }

    #[test]
    fn different_failures_are_told_apart() {
        let late = Status::deadline_exceeded("late");
        let (_, failures) = answers(failure(late), None, failure(Status::internal("a bug")));
        assert_eq!(
            failures,
            [
                "service1 did not respond before the deadline; try again later. There is no greeting.",
                "service1 failed; report it with the request_id. There is no stream."
            ]
        );
        let (_, failures) = answers(Some(Ok("Hello".into())), Some(Ok(vec![])), None);
        assert_eq!(failures, [""; 0], "a mistake in a field is told there");
    }
}
