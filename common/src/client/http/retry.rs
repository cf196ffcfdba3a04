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
use tonic::Code;
use tracing::warn;

use super::{Shared, error::Error};
#[cfg(feature = "traces")]
use crate::telemetry::traces;
use crate::{
    client::{
        ending::{
            class::{Class, Evidence, Next},
            pushback::{Pushback, number_in},
        },
        retry::decide::{Decision, History, decide},
    },
    request::context,
};

type Outcome = Result<Response<Incoming>, Error>;

impl<C: Connect + Clone + Send + Sync + 'static> Shared<C> {
    /// Sends a request in the current context, as often as that is safe and may help.
    pub(crate) async fn send(&self, request: Request<Body>) -> Outcome {
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
            let history = History {
                attempts,
                is_idempotent: is_repeatable,
                is_whole: true,
                has_other: false, // the connections are hyper's
            };
            let Some(pause) = self.pause_before_next(&outcome, history) else {
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
    fn pause_before_next(&self, outcome: &Outcome, history: History) -> Option<Duration> {
        let class = class_of(outcome);
        let left = context::deadline()?.remaining()?;
        let Decision::Again(pause) = decide(&self.policy, &class, history, left) else {
            return None;
        };
        let is_granted = self.budget.grant_retry();
        warn!(
            action = "call",
            status = if is_granted { "retry" } else { "failure" },
            service = &self.name.path()[1..],
            attempt = history.attempts,
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

/// What follows from the outcome of an attempt.
fn class_of(outcome: &Outcome) -> Class {
    let is_worth_a_retry = match outcome {
        Ok(response) => matches!(
            response.status(),
            StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT
        ),
        Err(_) => true,
    };
    let pushback = outcome.as_ref().ok().and_then(retry_after);
    Class {
        code: Code::Unavailable,
        evidence: Evidence::Nothing,
        next: if is_worth_a_retry {
            Next::Retry
        } else {
            Next::None
        },
        pushback: pushback.map_or(Pushback::Unspecified, Pushback::After),
    }
}

/// The pause that a response asks for, in seconds. A date is not read: few services send one.
fn retry_after(response: &Response<Incoming>) -> Option<Duration> {
    let value = response.headers().get(RETRY_AFTER)?;
    number_in(value).map(Duration::from_secs)
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
