//! [`Attempts`]: the loop that makes the attempts of a call, and a second attempt beside one that is late
//! ("hedging", gRFC A6): the first good response wins.
//!
//! Only calls of idempotent unary methods are hedged. A call is late when it takes longer than usual,
//! or when its replica is silent: then the replica may stand still, with all the calls on it, or be
//! gone. The first attempt goes on.

#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    pin::{Pin, pin},
    sync::Arc,
    task::{self, Poll},
};

use futures_util::future::{Either, select};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use tokio::{
    select,
    task::{JoinSet, yield_now},
    time::{Instant, sleep},
};
use tonic::Status;
use tower::Service;

use super::{
    budget::Budget,
    call::{CallPolicy, OutboundCall, Outcome, ending_to_mend},
    decide::pause_before_next,
    late_calls::LateCalls,
};
use crate::{
    client::{
        choice::balancer::Balancer,
        ending::{class::Ending, failure::Failure, reading::ENCODING},
        method::{CalledMethod, UsualLatency},
        replicas::{body::ReplicaBody, call_metrics::CallMetrics, replica::Replica},
        retry_policy::RetryPolicy,
        wire::{
            request_body::{Replay, RequestBody},
            watch::patience_by,
        },
    },
    request::methods::Method,
    telemetry::metrics,
};

/// The compressions that the caller accepts.
const ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");

/// Makes each call on a replica, and again where that is safe and may help.
#[derive(Debug, Clone)]
pub struct Attempts(Arc<CallPolicy>);

impl Attempts {
    /// Creates the layer. Its `tasks` end when the last clone is dropped.
    pub(crate) fn new(
        balancer: Balancer<Replica>,
        methods: &HashMap<String, (Method, Arc<UsualLatency>)>,
        policy: Arc<RetryPolicy>,
        budget: Arc<Budget>,
        mut tasks: JoinSet<()>,
    ) -> Self {
        let late_calls = LateCalls::default();
        if policy.hedging {
            tasks.spawn(late_calls.clone().wake());
        }
        let methods = methods.iter().map(|(path, (method, usual))| {
            let method = CalledMethod::new(path, *method, usual.clone());
            (path.clone(), Arc::new(method))
        });
        Self(Arc::new(CallPolicy {
            balancer,
            methods: methods.collect(),
            undeclared: Arc::new(CalledMethod::undeclared()),
            policy,
            calls: budget.join(),
            budget,
            late_calls,
            _tasks: tasks,
        }))
    }
}

impl Service<Request<tonic::body::Body>> for Attempts {
    type Response = Response<Box<ReplicaBody>>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Box<ReplicaBody>>, Status>> + Send>>;

    fn poll_ready(&mut self, _: &mut task::Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(())) // each call waits for a replica on its own
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        let shared = self.0.clone();
        let (mut head, messages) = request.into_parts();
        head.extensions.clear(); // so that a copy for each attempt is cheap
        // Boxed, as each future on its way to the connection holds it.
        let request = Box::new(Request::from_parts(head, RequestBody::EMPTY));
        Box::pin(async move {
            let outcome = shared.send(request, messages).await;
            if let Ok(response) = &outcome {
                // Last: the codec takes it in this poll.
                response.body().offer_to_codec();
            }
            outcome.map_err(Failure::into_status)
        })
    }
}

impl CallPolicy {
    /// Sends the `messages` with the head of a request whose body is empty.
    async fn send(
        &self,
        mut request: Box<Request<RequestBody>>,
        messages: tonic::body::Body,
    ) -> Outcome {
        let method = self.methods.get(request.uri().path());
        let method = method.unwrap_or(&self.undeclared);
        *request.body_mut() = if method.declared.has_one_request {
            let message = RequestBody::message(messages).await;
            message.map_err(Failure::of_request)?
        } else {
            RequestBody::Stream(Replay::new(messages, self.policy.kept_request))
        };
        self.calls.add();
        let measured = CallMetrics::begin(method.clone());
        let mut call = OutboundCall {
            shared: self,
            method,
            request,
            attempts: 0,
            tried: Vec::new(),
        };
        loop {
            let replica = match self.pick(&call).await {
                Ok(replica) => replica,
                Err(failure) => return end_with(measured, Err(failure)),
            };
            let outcome = attempt_or_hedge(&mut call, &replica).await;
            let outcome = outcome.and_then(|response| readable(response, call.request.headers()));
            let next = ending_to_mend(&outcome).and_then(|ending| {
                call.tried.push(replica);
                pause_before_next(&mut call, ending, &outcome)
            });
            let Some(pause) = next else {
                call.request.body().commit();
                return end_with(measured, outcome);
            };
            drop(outcome);
            if !pause.is_zero() {
                Box::pin(sleep(pause)).await; // rare
            }
        }
    }

    /// Picks the replica of the next attempt. A first attempt may try an ejected replica.
    async fn pick(&self, call: &OutboundCall<'_>) -> Result<Arc<Replica>, Failure> {
        if call.tried.is_empty() {
            let is_idempotent = call.method.declared.is_idempotent;
            match self.balancer.take_trial(is_idempotent) {
                Some(trial) if is_idempotent => return Ok(trial),
                Some(trial) => trial.try_by_health_check(),
                None => {}
            }
        }
        let is_cheap = call.method.is_cheap();
        self.balancer.pick(&call.tried, is_cheap).await
    }
}

/// Ends a call with the outcome of its last attempt. A response may go on for long.
fn end_with(measured: CallMetrics, mut outcome: Outcome) -> Outcome {
    match &mut outcome {
        Ok(response) => response.body_mut().end_with(measured),
        Err(failure) => measured.end(failure.ending, Instant::now()),
    }
    outcome
}

/// The response, if its caller can read its messages. tonic refuses others where no replica is judged.
fn readable(
    response: Response<Box<ReplicaBody>>,
    request: &HeaderMap,
) -> Result<Response<Box<ReplicaBody>>, Failure> {
    if !response.body().is_encoded() {
        return Ok(response);
    }
    let encoding = response.headers().get(ENCODING);
    let is_accepted = |accepted: &HeaderValue| {
        let mut accepted = accepted.as_bytes().split(|byte| *byte == b',');
        accepted.any(|accepted| encoding.is_some_and(|it| *it == *accepted.trim_ascii()))
    };
    if request.get(ACCEPT_ENCODING).is_some_and(is_accepted) {
        Ok(response)
    } else {
        Err(response.into_body().refuse(Ending::UnknownEncoding))
    }
}

/// Makes one attempt on `replica`, and a second one on another if the first is late.
async fn attempt_or_hedge(call: &mut OutboundCall<'_>, replica: &Arc<Replica>) -> Outcome {
    let shared = call.shared;
    // Boxed, which is cheaper than one allocation for all of the call: the allocator is slower beyond 1 KiB.
    let mut first = Box::pin(call.next_attempt(replica.clone(), false));
    if !shared.policy.hedging || !call.method.may_be_hedged() {
        return first.await;
    }
    let has_other = shared.balancer.has_other(replica);
    let late_after = has_other.then(|| call.method.late_after());
    let is_late = async {
        match late_after {
            Some(late_after) => select! {
                () = replica.silent() => {}
                () = patience_by(late_after, |end| shared.late_calls.at(end)) => {}
            },
            None => replica.silent().await,
        }
    };
    select! {
        biased;
        outcome = first.as_mut() => outcome,
        // Boxed, as a hedge is rare and its future is large.
        () = is_late => Box::pin(hedge(call, replica, first)).await,
    }
}

/// Starts a second attempt beside the `first` and returns the first good response.
async fn hedge<F: Future<Output = Outcome>>(
    call: &mut OutboundCall<'_>,
    replica: &Arc<Replica>,
    mut first: Pin<Box<F>>,
) -> Outcome {
    let shared = call.shared;
    select! {
        biased;
        outcome = first.as_mut() => return outcome,
        // If this worker was stuck, the response may be there and is read now.
        () = yield_now() => {}
    }
    if call.attempts >= shared.policy.attempts {
        return first.await;
    }
    call.tried.push(replica.clone());
    let other = select! {
        biased;
        outcome = first.as_mut() => return outcome,
        // At once, or when a connection takes the place of one that is silent.
        other = shared.balancer.other(replica, &call.tried) => other,
    };
    if !shared.budget.withdraw() {
        metrics::count(|counters| &counters.retries_refused);
        return first.await;
    }
    metrics::count(|counters| &counters.hedges);
    call.tried.push(other.clone());
    let second = pin!(call.next_attempt(other, true));
    match select(first, second).await {
        Either::Left((outcome, second)) if ending_to_mend(&outcome).is_some() => second.await,
        Either::Right((outcome, first)) if ending_to_mend(&outcome).is_some() => first.await,
        Either::Left((outcome, _)) | Either::Right((outcome, _)) => outcome,
    }
}
