//! A second attempt beside one that is late ("hedging", gRFC A6): the first good response wins.
//!
//! Only calls of idempotent unary methods are hedged. A call is late when it takes longer than usual,
//! or when its replica is silent: then the replica may stand still, with all the calls on it, or be
//! gone. The first attempt goes on.

use std::{
    pin::{Pin, pin},
    sync::Arc,
};

use futures_util::future::{Either, select};
use tokio::{select, task::yield_now};

use super::call::{OutboundCall, Outcome, ending_to_mend};
use crate::{
    client::{patience::patience, replicas::replica::Replica},
    telemetry::metrics,
};

/// Makes one attempt on `replica`, and a second one on another if the first is late.
pub(super) async fn attempt(call: &mut OutboundCall<'_>, replica: &Arc<Replica>) -> Outcome {
    let shared = call.shared;
    let mut first = pin!(call.next_attempt(replica.clone(), false));
    if !shared.policy.hedging || !call.method.may_be_hedged() {
        return first.await;
    }
    let has_other = shared.balancer.has_other(replica);
    let late_after = has_other.then(|| call.method.late_after());
    let is_late = async {
        match late_after {
            Some(late_after) => select! {
                () = replica.silent() => {}
                () = patience(late_after) => {}
            },
            None => replica.silent().await,
        }
    };
    select! {
        biased;
        outcome = first.as_mut() => outcome,
        () = is_late => hedge(call, replica, first).await,
    }
}

/// Starts a second attempt beside the `first` and returns the first good response.
async fn hedge<F: Future<Output = Outcome>>(
    call: &mut OutboundCall<'_>,
    replica: &Arc<Replica>,
    mut first: Pin<&mut F>,
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
        other = shared.balancer.other(&call.tried) => other,
    };
    if !shared.budget.withdraw() {
        metrics::count(|counters| &counters.retries_refused);
        return first.await;
    }
    metrics::count(|counters| &counters.hedges);
    call.tried.push(other.clone());
    // Boxed, as a hedge is rare and its future is large.
    let second = Box::pin(call.next_attempt(other, true));
    match select(first, second).await {
        Either::Left((outcome, second)) if ending_to_mend(&outcome).is_some() => second.await,
        Either::Right((outcome, first)) if ending_to_mend(&outcome).is_some() => first.await,
        Either::Left((outcome, _)) | Either::Right((outcome, _)) => outcome,
    }
}
