//! [`Replica::attempt`]: one attempt of a call on a replica, up to its response.

use std::sync::Arc;

use http::{HeaderValue, Request, Response};
use tokio::time::Instant;

use super::{body::ReplicaBody, judged_attempt::JudgedAttempt, replica::Replica};
#[cfg(feature = "traces")]
use crate::telemetry::traces;
use crate::{
    client::{
        ending::{
            failure::Failure,
            reading::{self, Reading},
        },
        method::CalledMethod,
        wire::{attempt::ReadUntil, request_body::RequestBody},
    },
    request::{context, timings::WANT_SERVER_TIMING},
};

impl Replica {
    /// Makes one attempt of a call. The request is boxed, as each future on its way down holds it.
    pub(crate) async fn attempt(
        self: Arc<Self>,
        mut request: Box<Request<RequestBody>>,
        method: Arc<CalledMethod>,
        is_hedge: bool,
        read_ahead: usize,
    ) -> Result<Response<Box<ReplicaBody>>, Failure> {
        self.metrics.picks.add(1);
        self.cost.begin();
        #[cfg(feature = "traces")]
        let span = traces::of_attempt();
        let recorded = context::begin_attempt(is_hedge, self.address);
        if recorded.is_some() {
            let yes = HeaderValue::from_static("1");
            request.headers_mut().insert(WANT_SERVER_TIMING, yes);
        }
        let is_unary = method.declared.has_one_response;
        let mut attempt = JudgedAttempt::start(self, method, recorded);
        #[cfg(feature = "traces")]
        {
            attempt.trace = span.as_ref().map(|(_, trace)| trace.clone());
        }
        let until = if is_unary {
            ReadUntil::FirstFrame
        } else {
            ReadUntil::Head
        };
        let sent = attempt.replica.connections.attempt(request, until);
        #[cfg(feature = "traces")]
        let outcome = match span {
            // The id of the span goes with the attempt, and on its log lines.
            Some((context, _)) => context.scope(sent).await,
            None => sent.await,
        };
        #[cfg(not(feature = "traces"))]
        let outcome = sent.await;
        let response = outcome.inspect_err(|failure| attempt.ending = Some(failure.ending))?;
        let now = Instant::now();
        attempt.responded = Some(now);
        if let Some(recorded) = &attempt.recorded {
            recorded.see_response(response.headers());
        }
        let reading = match Reading::begin(&response, is_unary) {
            Ok(reading) => Some(reading),
            Err(ending) => {
                attempt.ending = Some(ending);
                if !ending.is_status() {
                    return Err(Failure::of_response(ending));
                }
                None
            }
        };
        if reading.is_some() && !is_unary {
            let took = now - attempt.start;
            attempt.replica.learn_latency(&attempt.method, took, now);
        }
        let (mut head, body) = response.into_parts();
        if reading.is_none() {
            reading::remove_invalid(&mut head.headers);
        }
        let mut body = Box::new(ReplicaBody::new(body, reading, attempt));
        if is_unary {
            body.read_ahead(read_ahead).await?;
            body.check()?;
        }
        Ok(Response::from_parts(head, body))
    }
}
