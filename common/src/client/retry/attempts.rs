//! [`Attempts`]: the loop that makes the attempts of a call.

#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    pin::Pin,
    sync::Arc,
    task::{self, Poll},
};

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use tokio::{task::JoinSet, time::sleep};
use tonic::Status;
use tower::Service;

use super::{
    budget::Budget,
    call::{CallPolicy, OutboundCall, Outcome, ending_to_mend},
    decide::pause_before_next,
    hedge,
};
use crate::{
    client::{
        choice::balancer::Balancer,
        ending::{class::Ending, failure::Failure, reading::ENCODING},
        method::{called::CalledMethod, latencies::UsualLatency},
        replicas::{
            attempt::{CallMetrics, ReplicaBody},
            replica::Replica,
        },
        retry_policy::RetryPolicy,
        wire::request_body::{Replay, RequestBody},
    },
    request::methods::Method,
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
        tasks: JoinSet<()>,
    ) -> Self {
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
        Box::pin(async move {
            let outcome = shared.send(request).await;
            if let Ok(response) = &outcome {
                // Last: the codec takes it in this poll.
                response.body().offer_to_codec();
            }
            outcome.map_err(Failure::into_status)
        })
    }
}

impl CallPolicy {
    async fn send(&self, request: Request<tonic::body::Body>) -> Outcome {
        let method = self.methods.get(request.uri().path());
        let method = method.unwrap_or(&self.undeclared);
        let (mut head, body) = request.into_parts();
        head.extensions.clear(); // so that a copy for each attempt is cheap
        let body = if method.declared.has_one_request {
            let message = RequestBody::message(body).await;
            message.map_err(Failure::of_request)?
        } else {
            RequestBody::Stream(Replay::new(body, self.policy.kept_request))
        };
        self.calls.add();
        let measured = CallMetrics::begin(method.clone());
        let mut call = OutboundCall {
            shared: self,
            method,
            head,
            body,
            attempts: 0,
            tried: Vec::new(),
        };
        loop {
            let replica = match self.pick(&call).await {
                Ok(replica) => replica,
                Err(failure) => return measured.see(Err(failure)),
            };
            let outcome = hedge::attempt(&mut call, &replica).await;
            let outcome = outcome.and_then(|response| readable(response, &call.head.headers));
            let next = ending_to_mend(&outcome).and_then(|ending| {
                call.tried.push(replica);
                pause_before_next(&mut call, ending, &outcome)
            });
            let Some(pause) = next else {
                call.body.commit();
                return measured.see(outcome);
            };
            drop(outcome);
            if !pause.is_zero() {
                sleep(pause).await;
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
        self.balancer.pick(&call.tried).await
    }
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
