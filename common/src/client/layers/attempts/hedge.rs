//! A second attempt beside one that is late ("hedging", gRFC A6): the first good response wins.
//!
//! Only calls of idempotent unary methods are hedged, and only while two replicas are up.

use std::{
    pin::{Pin, pin},
    sync::Arc,
};

use futures_util::future::{Either, select};
use tokio::{
    select,
    task::yield_now,
    time::{Instant, timeout},
};

use super::{Call, Outcome, Shared, retry::Verdict, retry::bare_status};
use crate::{client::pool::Replica, limits, metrics};

impl Shared {
    /// Makes one attempt on `replica`, and a second one on another if the first is late.
    pub(super) async fn attempt(&self, call: &mut Call<'_>, replica: &Arc<Replica>) -> Outcome {
        let first = call.next_attempt(replica.clone());
        let (declared, latencies) = (&call.method.declared, &call.method.latencies);
        let may_hedge =
            declared.is_idempotent && declared.has_one_request && declared.has_one_response;
        if !may_hedge || !self.balance.has_other(replica) {
            return first.await;
        }
        let mut first = pin!(first);
        let begin = Instant::now();
        let outcome = match latencies.late_after() {
            None => first.await,
            Some(late_after) => match timeout(late_after, first.as_mut()).await {
                Ok(outcome) => outcome,
                Err(_late) => self.hedge(call, replica, first).await,
            },
        };
        // A bare status may have been fast because the call failed.
        if outcome.is_ok() && bare_status(&outcome).is_none() {
            latencies.record(begin.elapsed());
        }
        outcome
    }

    /// Starts a second attempt beside the `first` and returns the first good response.
    async fn hedge<F: Future<Output = Outcome>>(
        &self,
        call: &mut Call<'_>,
        replica: &Arc<Replica>,
        mut first: Pin<&mut F>,
    ) -> Outcome {
        select! {
            biased;
            outcome = first.as_mut() => return outcome,
            // If this worker was stuck, the response may be there and is read now.
            () = yield_now() => {}
        }
        if call.attempts >= limits::MAX_ATTEMPTS {
            return first.await;
        }
        call.tried.push(replica.clone());
        let Some(other) = self.balance.pick_other(&call.tried) else {
            return first.await;
        };
        if !self.budget.withdraw() {
            metrics::count(|counters| &counters.retries_refused);
            return first.await;
        }
        metrics::count(|counters| &counters.hedges);
        call.tried.push(other.clone());
        // Boxed, as a hedge is rare and its future is large.
        let second = Box::pin(call.next_attempt(other));
        match select(first, second).await {
            Either::Left((outcome, second)) if !Verdict::of(&outcome).is_final() => second.await,
            Either::Right((outcome, first)) if !Verdict::of(&outcome).is_final() => first.await,
            Either::Left((outcome, _)) | Either::Right((outcome, _)) => outcome,
        }
    }
}
