//! The attempts of a call, and whether another follows.

use std::{error::Error as StdError, iter, time::Duration};

use ::http::{Request, Response, StatusCode, header::RETRY_AFTER};
use axum::body::Body;
use http_body::Body as _;
use hyper::body::Incoming;
use hyper_util::client::legacy::{self, connect::Connect};
#[cfg(feature = "traces")]
use tokio::time::Instant;
use tokio::time::sleep;
use tracing::warn;

use super::{Error, Shared};
#[cfg(feature = "traces")]
use crate::traces;
use crate::{client::layers::RETRY, context};

type Outcome = Result<Response<Incoming>, Error>;

impl<C: Connect + Clone + Send + Sync + 'static> Shared<C> {
    /// Sends a request in the current context, as often as that is safe and may help.
    pub(super) async fn send(&self, request: Request<Body>) -> Outcome {
        let (head, body) = request.into_parts();
        if head.uri.scheme().is_none() || head.uri.host().is_none() {
            return Err(Error::InvalidUri);
        }
        let is_repeatable = head.method.is_safe() && body.size_hint().exact() == Some(0);
        self.calls.add();
        let mut body = Some(body);
        let mut attempts = 0;
        loop {
            let body = body.take().unwrap_or_default();
            let request = Request::from_parts(head.clone(), body);
            let outcome = self.attempt(request).await;
            attempts += 1;
            if !is_repeatable || !is_worth_a_retry(&outcome) {
                return outcome;
            }
            let Some(pause) = self.pause_before_next(attempts, &outcome) else {
                return outcome;
            };
            drop(outcome);
            sleep(pause).await;
        }
    }

    /// Makes one attempt, in the context and with the headers of its span, if that is recorded.
    async fn attempt(&self, mut request: Request<Body>) -> Outcome {
        #[cfg(feature = "traces")]
        if let Some((context, trace)) = traces::of_attempt() {
            let headers = context.clone().sync_scope(context::outbound_headers);
            request.headers_mut().extend(headers);
            let (method, uri) = (request.method().clone(), request.uri().clone());
            let begin = Instant::now();
            let response = context.scope(self.client.request(request)).await;
            traces::HttpAttempt {
                trace: &trace,
                method: &method,
                uri: &uri,
                status: response.as_ref().ok().map(|it| it.status().as_u16()),
                took: begin.elapsed(),
            }
            .record();
            return response.map_err(from_hyper);
        }
        request.headers_mut().extend(context::outbound_headers());
        self.client.request(request).await.map_err(from_hyper)
    }

    /// The pause after a failed attempt, or `None` if no other follows.
    fn pause_before_next(&self, attempts: u32, outcome: &Outcome) -> Option<Duration> {
        let asked = outcome.as_ref().ok().and_then(retry_after);
        let pause = RETRY.pause(attempts).max(asked.unwrap_or_default());
        let left = context::deadline()?.remaining()?;
        if pause >= left {
            return None; // the deadline would come first
        }
        let is_granted = self.budget.grant_retry(attempts);
        warn!(
            action = "call",
            status = if is_granted { "retry" } else { "failure" },
            service = &self.name.path()[1..],
            attempt = attempts,
            response_status = outcome
                .as_ref()
                .ok()
                .map(|response| response.status().as_u16()),
            error = outcome.as_ref().err().map(ToString::to_string),
            "an attempt failed"
        );
        is_granted.then_some(pause)
    }
}

fn is_worth_a_retry(outcome: &Outcome) -> bool {
    match outcome {
        Ok(response) => matches!(
            response.status(),
            StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT
        ),
        Err(_) => true,
    }
}

/// The pause that a response asks for, in seconds. A date is not read: few services send one.
fn retry_after(response: &Response<Incoming>) -> Option<Duration> {
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?;
    seconds.parse().ok().map(Duration::from_secs)
}

fn from_hyper(error: legacy::Error) -> Error {
    let is_connect = error.is_connect();
    // hyper's own text says only in which phase the call failed; the last source says why.
    let sources = iter::successors(error.source(), |source: &&dyn StdError| (*source).source());
    let reason = match sources.last() {
        Some(source) => source.to_string().into(),
        None => error.into(),
    };
    if is_connect {
        Error::Unreachable(reason)
    } else {
        Error::Broken(reason)
    }
}
