//! [`Attempts`]: the loop that makes the attempts of a call.
//!
//! | file | contents |
//! |---|---|
//! | `retry` | whether another attempt follows one that failed, and after which pause |
//! | `hedge` | a second attempt beside one that is late |
//! | `budget` | how many attempts the process may add to the first of each call |
//! | `latencies` | how long a method usually takes, to tell when a response is late |
//!
//! Retries and hedges draw on one budget: a service that stays down gets about a fifth more calls,
//! not three times as many.

mod budget;
mod hedge;
mod latencies;
mod retry;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    pin::Pin,
    sync::Arc,
    task::{self, Poll},
};

use http::{HeaderName, HeaderValue, Request, Response, request};
use tokio::{task::JoinSet, time::sleep};
use tonic::Status;
use tower::Service;

pub(in crate::client) use self::{
    budget::{Budget, Calls},
    latencies::UsualLatency,
    retry::RETRY,
};
use self::{latencies::Latencies, retry::Verdict};
use crate::{
    client::{
        Failure,
        pool::{Balance, Measured, Replica, ReplicaBody},
        request_body::{Replay, RequestBody},
        wire::Until,
    },
    methods::Method,
    metrics,
    protocol::rpc_method,
};

/// The number of attempts before this one (gRFC A6).
const PREVIOUS_ATTEMPTS: HeaderName = HeaderName::from_static("grpc-previous-rpc-attempts");

/// Makes each call on a replica, and again where that is safe and may help.
#[derive(Debug, Clone)]
pub struct Attempts(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    balance: Balance<Replica>,
    methods: HashMap<String, Known>,
    /// Any other method.
    undeclared: Known,
    budget: Arc<Budget>,
    calls: Calls,
    /// The tasks that connect the replicas.
    _tasks: JoinSet<()>,
}

/// What is known of a method.
#[derive(Debug)]
struct Known {
    /// The method with its service, for metrics.
    name: Arc<str>,
    declared: Method,
    latencies: Latencies,
}

type Outcome = Result<Response<ReplicaBody>, Failure>;

impl Attempts {
    /// Creates the layer. Its `tasks` end when the last clone is dropped.
    pub(in crate::client) fn new(
        balance: Balance<Replica>,
        methods: &HashMap<String, (Method, Arc<UsualLatency>)>,
        budget: Arc<Budget>,
        tasks: JoinSet<()>,
    ) -> Self {
        let known = |name: &str, declared, usual: &Arc<UsualLatency>| Known {
            name: name.into(),
            declared,
            latencies: Latencies::new(usual.clone()),
        };
        let methods = methods.iter();
        let methods = methods
            .map(|(path, (method, usual))| (path.clone(), known(rpc_method(path), *method, usual)));
        Self(Arc::new(Shared {
            balance,
            methods: methods.collect(),
            undeclared: known(metrics::OTHER, Method::default(), &Arc::default()),
            calls: budget.join(),
            budget,
            _tasks: tasks,
        }))
    }
}

impl Service<Request<tonic::body::Body>> for Attempts {
    type Response = Response<ReplicaBody>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Response<ReplicaBody>, Status>> + Send>>;

    fn poll_ready(&mut self, _: &mut task::Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(())) // each call waits for a replica on its own
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        let shared = self.0.clone();
        Box::pin(async move { shared.send(request).await.map_err(Failure::into_status) })
    }
}

impl Shared {
    async fn send(&self, request: Request<tonic::body::Body>) -> Outcome {
        let method = self.methods.get(request.uri().path());
        let method = method.unwrap_or(&self.undeclared);
        let (mut head, body) = request.into_parts();
        head.extensions.clear(); // so that a copy for each attempt is cheap
        let body = if method.declared.has_one_request {
            let message = RequestBody::message(body).await;
            message.map_err(Failure::Request)?
        } else {
            RequestBody::Stream(Replay::new(body))
        };
        self.calls.add();
        let measured = Measured::begin(method.name.clone());
        let mut call = Call {
            method,
            head,
            body,
            attempts: 0,
            was_refused: false,
            tried: Vec::new(),
        };
        loop {
            let replica = match self.balance.pick(&call.tried).await {
                Ok(replica) => replica,
                Err(failure) => return measured.see(Err(failure)),
            };
            let outcome = self.attempt(&mut call, &replica).await;
            let verdict = Verdict::of(&outcome);
            if verdict.is_final() {
                call.body.commit();
                return measured.see(outcome);
            }
            call.tried.push(replica);
            let Some(pause) = self.pause_before_next(&verdict, &mut call) else {
                return measured.see(outcome);
            };
            drop(outcome);
            if !pause.is_zero() {
                sleep(pause).await;
            }
        }
    }
}

/// A call and its attempts so far.
struct Call<'a> {
    method: &'a Known,
    head: request::Parts,
    body: RequestBody,
    attempts: u32,
    was_refused: bool,
    /// The replicas of the attempts that failed or are late.
    tried: Vec<Arc<Replica>>,
}

impl Call<'_> {
    /// Starts the next attempt on `replica`.
    fn next_attempt(&mut self, replica: Arc<Replica>) -> impl Future<Output = Outcome> + use<> {
        let mut request = Request::from_parts(self.head.clone(), self.body.clone());
        if self.attempts > 0 {
            let previous = HeaderValue::from(self.attempts);
            request.headers_mut().insert(PREVIOUS_ATTEMPTS, previous);
        }
        self.attempts += 1;
        let until = if self.method.declared.has_one_response {
            Until::FirstFrame
        } else {
            Until::Head
        };
        replica.attempt(request, until, self.method.name.clone())
    }
}
