//! Layer 3: what has failed through no fault of its own is tried again, on whatever replica is
//! best then.
//!
//! Only methods that are declared idempotent, only `UNAVAILABLE`, only before the first message
//! of an answer, at most [`MAX_ATTEMPTS`] times, and only out of a budget: so that a service
//! that is down for good gets a fifth more calls, not three times as many.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{self, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, request};
use http_body_util::BodyExt;
use tokio::time::sleep;
use tonic::{Code, Status};
use tower::{
    Service,
    retry::budget::{Budget, TpsBudget},
};
use tracing::warn;

use super::{
    backoff::Backoff,
    balance::Balance,
    connection::{Answer, Connection, RequestBody},
    failure::Failure,
};
use crate::{metrics, problem::PUSHBACK};

/// Attempts of one call, with the first.
const MAX_ATTEMPTS: u32 = 3;

/// Between two attempts.
const RETRY: Backoff = Backoff {
    base: Duration::from_millis(25),
    factor: 2.0,
    limit: Duration::from_secs(1),
    jitter: 0.5,
};

/// Retries are a fifth of the calls of the last ten seconds, and ten a second more (the figures
/// of linkerd and finagle).
const BUDGET_RATIO: f32 = 0.2;
const BUDGET_MIN_PER_SECOND: u32 = 10;
const BUDGET_WINDOW: Duration = Duration::from_secs(10);

/// How often a call was tried before (gRFC A6).
const PREVIOUS_ATTEMPTS: HeaderName = HeaderName::from_static("grpc-previous-rpc-attempts");

/// Makes each call on a replica, and again where that is safe and may help.
#[derive(Debug, Clone)]
pub struct RetryService {
    balance: Balance<Connection>,
    /// The paths of the methods that can be called again.
    idempotent: &'static [&'static str],
    attempt_timeout: Duration,
    budget: Arc<TpsBudget>,
}

impl RetryService {
    pub(super) fn new(
        balance: Balance<Connection>,
        idempotent: &'static [&'static str],
        attempt_timeout: Duration,
    ) -> Self {
        let budget = TpsBudget::new(BUDGET_WINDOW, BUDGET_MIN_PER_SECOND, BUDGET_RATIO);
        Self {
            balance,
            idempotent,
            attempt_timeout,
            budget: Arc::new(budget),
        }
    }

    /// The only attempt of a call.
    async fn once(&self, request: Request<tonic::body::Body>) -> Result<Response<Answer>, Failure> {
        let connection = self.balance.pick().await?;
        connection
            .call(request.map(RequestBody::Stream), None)
            .await
    }

    /// One attempt of a call that may be made again.
    async fn attempt(
        &self,
        attempt: u32,
        head: &request::Parts,
        message: &Bytes,
    ) -> Result<Response<Answer>, Failure> {
        // The request is made late: whatever is there while something is awaited takes room.
        let connection = self.balance.pick().await?;
        let body = RequestBody::Message(message.clone());
        let mut request = Request::from_parts(head.clone(), body);
        if attempt > 1 {
            let before = HeaderValue::from(attempt - 1);
            request.headers_mut().insert(PREVIOUS_ATTEMPTS, before);
        }
        connection.call(request, Some(self.attempt_timeout)).await
    }

    /// The attempts of one call.
    async fn attempts(&self, head: &request::Parts, message: &Bytes) -> Outcome {
        self.budget.deposit();
        let mut attempt = 1;
        loop {
            let outcome = self.attempt(attempt, head, message).await;
            let pause = pause_before_next(&outcome, attempt);
            let Some(pause) = pause.filter(|_| attempt < MAX_ATTEMPTS) else {
                return outcome.map_err(|failure| failure.status);
            };
            let is_granted = self.budget.withdraw();
            metrics::mine(|mine| {
                if is_granted {
                    mine.retries.add(1)
                } else {
                    mine.retries_refused.add(1)
                }
            });
            warn!(
                action = "call",
                status = if is_granted { "retry" } else { "failure" },
                method = head.uri.path(),
                attempt,
                error = outcome.as_ref().err().map(tracing::field::display),
                "an attempt failed"
            );
            if !is_granted {
                return outcome.map_err(|failure| failure.status);
            }
            drop(outcome);
            sleep(pause).await;
            attempt += 1;
        }
    }
}

/// All of a body. The message of a call is its only frame, which is not copied.
async fn whole(mut body: tonic::body::Body) -> Result<Bytes, Status> {
    let mut whole = Bytes::new();
    while let Some(frame) = body.frame().await {
        match frame?.into_data() {
            Ok(data) if whole.is_empty() => whole = data,
            Ok(data) => whole = [whole, data].concat().into(),
            Err(_trailers) => {} // a client has none to send
        }
    }
    Ok(whole)
}

type Outcome = Result<Response<Answer>, Status>;

/// How long to wait for the attempt after this one; `None` where there is to be none.
fn pause_before_next(
    outcome: &Result<Response<Answer>, Failure>,
    attempt: u32,
) -> Option<Duration> {
    match outcome {
        Ok(response) => {
            let trailers = match response.body().first() {
                Some(frame) => frame.trailers_ref()?,
                None => response.headers(),
            };
            pause_of(trailers, attempt)
        }
        Err(failure) => failure.may_retry.then(|| RETRY.pause(attempt)),
    }
}

/// The same for an answer that is a gRPC status and nothing else.
fn pause_of(trailers: &HeaderMap, attempt: u32) -> Option<Duration> {
    let code = trailers.get(Status::GRPC_STATUS)?;
    if Code::from_bytes(code.as_bytes()) != Code::Unavailable {
        return None;
    }
    // Milliseconds, or something else for never.
    match trailers.get(PUSHBACK) {
        Some(millis) => Some(Duration::from_millis(millis.to_str().ok()?.parse().ok()?)),
        None => Some(RETRY.pause(attempt)),
    }
}

impl Service<Request<tonic::body::Body>> for RetryService {
    type Response = Response<Answer>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Outcome> + Send>>;

    fn poll_ready(&mut self, _: &mut task::Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(())) // a call waits for its replica itself
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            if !this.idempotent.contains(&request.uri().path()) {
                return this.once(request).await.map_err(|failure| failure.status);
            }
            // What is sent again must be there as a whole. The message of a call is.
            let (mut head, body) = request.into_parts();
            head.extensions.clear(); // so that a copy for each attempt is cheap
            let message = whole(body).await?;
            this.attempts(&head, &message).await
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pause(pairs: &[(&'static str, &'static str)]) -> Option<u128> {
        let headers = pairs.iter().map(|(name, value)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        });
        pause_of(&headers.collect(), 1).map(|pause| pause.as_millis())
    }

    #[test]
    fn only_unavailable_is_tried_again() {
        for (code, retries) in [("0", false), ("4", false), ("8", false), ("14", true)] {
            assert_eq!(pause(&[("grpc-status", code)]).is_some(), retries, "{code}");
        }
        assert_eq!(pause(&[]), None);
    }

    #[test]
    fn the_server_may_say_when_or_never() {
        let pushed = |millis| pause(&[("grpc-status", "14"), ("grpc-retry-pushback-ms", millis)]);
        assert_eq!(pushed("700"), Some(700));
        assert_eq!(pushed("0"), Some(0));
        assert_eq!(pushed("-1"), None);
        assert_eq!(pushed("soon"), None);
    }

    #[test]
    fn the_budget_is_a_share_of_the_calls() {
        let budget = TpsBudget::new(BUDGET_WINDOW, BUDGET_MIN_PER_SECOND, BUDGET_RATIO);
        for _ in 0..10_000 {
            budget.deposit();
        }
        let granted = std::iter::from_fn(|| budget.withdraw().then_some(())).take(10_000);
        let granted = granted.count();
        assert!((2_000..=2_110).contains(&granted), "{granted}");
    }
}
