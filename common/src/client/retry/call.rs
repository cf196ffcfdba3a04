//! [`OutboundCall`]: a call and its attempts so far.

use std::{mem, sync::Arc};

use ahash::AHashMap;
use http::{HeaderName, HeaderValue, Request, Response};
use tokio::task::JoinSet;

use super::{
    budget::{Budget, CallCounter},
    late_calls::LateCalls,
};
use crate::client::{
    choice::balancer::Balancer,
    ending::{
        class::{Ending, Next},
        failure::Failure,
    },
    method::CalledMethod,
    replicas::{body::ReplicaBody, replica::Replica},
    retry_policy::RetryPolicy,
    wire::request_body::RequestBody,
};

/// The number of attempts before this one (gRFC A6).
const PREVIOUS_ATTEMPTS: HeaderName = HeaderName::from_static("grpc-previous-rpc-attempts");

/// What the calls of a worker to a service share.
#[derive(Debug)]
pub(super) struct CallPolicy {
    pub(super) balancer: Balancer<Replica>,
    pub(super) methods: AHashMap<String, Arc<CalledMethod>>,
    /// Any other method.
    pub(super) undeclared: Arc<CalledMethod>,
    pub(super) policy: Arc<RetryPolicy>,
    pub(super) budget: Arc<Budget>,
    pub(super) calls: CallCounter,
    pub(super) late_calls: LateCalls,
    /// The tasks that connect the replicas, and one that wakes late calls.
    pub(super) _tasks: JoinSet<()>,
}

/// A response whose head has come, or why there is none.
pub(super) type Outcome = Result<Response<Box<ReplicaBody>>, Failure>;

/// A call and its attempts so far.
pub(super) struct OutboundCall<'a> {
    pub(super) shared: &'a CallPolicy,
    pub(super) method: &'a Arc<CalledMethod>,
    /// What each attempt sends.
    pub(super) request: Box<Request<RequestBody>>,
    pub(super) attempts: u32,
    /// The replicas of the attempts that failed or are late.
    pub(super) tried: Vec<Arc<Replica>>,
}

impl OutboundCall<'_> {
    /// Starts the next attempt on `replica`.
    pub(super) fn next_attempt(
        &mut self,
        replica: Arc<Replica>,
        is_hedge: bool,
    ) -> impl Future<Output = Outcome> + use<> {
        // The original goes out: unlike a copy, its headers have room for those of an attempt.
        let kept = self.request.clone();
        let mut request = mem::replace(&mut self.request, kept);
        if self.attempts > 0 {
            let previous = HeaderValue::from(self.attempts);
            request.headers_mut().insert(PREVIOUS_ATTEMPTS, previous);
        }
        self.attempts += 1;
        let read_ahead = self.shared.policy.read_ahead;
        replica.attempt(request, self.method.clone(), is_hedge, read_ahead)
    }
}

/// How an attempt has ended, if another attempt may help. A response may go on.
pub(super) fn ending_to_mend(outcome: &Outcome) -> Option<Ending> {
    let ending = match outcome {
        Ok(response) => response.body().ending(),
        Err(failure) => Some(failure.ending),
    };
    ending.filter(|ending| ending.class().next != Next::None)
}
