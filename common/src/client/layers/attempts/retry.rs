//! Whether another attempt follows one that failed, and after which pause.
//!
//! - A call that never left, as its connection had closed before, is sent again, for nothing.
//! - A call that the replica says it did not process is sent again, whatever its method (gRFC A6).
//! - A call of an idempotent method whose response has not begun is retried after `UNAVAILABLE`, on
//!   another replica if there is one, and after a failure of the replica only on another one.
//!
//! A request stream is sent again only while everything sent so far is kept (`RetryPolicy::kept_request`).

use std::time::Duration;

use tracing::warn;

use super::{Call, Outcome, Shared};
use crate::{
    client::{
        RetryPolicy,
        ending::{Class, Ending, Next},
        pushback::Pushback,
    },
    context, metrics,
    protocol::code_name,
};

/// What was done for a call so far.
#[derive(Debug, Clone, Copy)]
pub(in crate::client) struct History {
    /// The attempts so far.
    pub(in crate::client) attempts: u32,
    pub(in crate::client) is_idempotent: bool,
    /// Whether all that was sent can be sent again.
    pub(in crate::client) is_whole: bool,
    /// Whether a replica is up that was not tried.
    pub(in crate::client) has_other: bool,
}

/// Whether another attempt follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::client) enum Decision {
    /// None follows.
    Final,
    /// The call is sent again, as if for the first time.
    Resend,
    /// Another attempt follows after this pause, if the budget has one.
    Again(Duration),
}

/// Decides what follows an attempt. `left` is what is left of the deadline.
pub(in crate::client) fn decide(
    policy: &RetryPolicy,
    class: &Class,
    history: History,
    left: Duration,
) -> Decision {
    let History {
        attempts,
        is_idempotent,
        has_other,
        ..
    } = history;
    let may_retry = is_idempotent && policy.codes.contains(&class.code);
    let may_follow = history.is_whole
        && match class.next {
            Next::None => false,
            Next::Resend => return Decision::Resend,
            // Without another replica, a pushback is to be obeyed.
            Next::Unprocessed => has_other || class.pushback == Pushback::Unspecified,
            Next::Retry => may_retry,
            Next::Elsewhere => may_retry && has_other,
        };
    if !may_follow || attempts >= policy.attempts {
        return Decision::Final;
    }
    let usual = policy.pause_after(attempts);
    let pause = match class.pushback {
        Pushback::Never => return Decision::Final,
        // The pushback is for this replica.
        Pushback::After(pause) if !has_other => pause,
        _ if class.next == Next::Unprocessed && (attempts == 1 || has_other) => Duration::ZERO,
        _ => usual,
    };
    if pause < left {
        Decision::Again(pause)
    } else {
        Decision::Final // the deadline would come first
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

impl Shared {
    /// The pause before the next attempt after this `ending`, or `None` if there is none.
    pub(super) fn pause_before_next(
        &self,
        ending: Ending,
        outcome: &Outcome,
        call: &mut Call<'_>,
    ) -> Option<Duration> {
        let class = ending.class();
        let history = History {
            attempts: call.attempts,
            is_idempotent: call.method.declared.is_idempotent,
            is_whole: call.body.is_whole(),
            has_other: self.balance.pick_other(&call.tried).is_some(),
        };
        let left =
            context::deadline().map_or(Duration::MAX, |it| it.remaining().unwrap_or_default());
        let decision = decide(&self.policy, &class, history, left);
        let is_granted = match decision {
            Decision::Final => false,
            Decision::Resend => {
                metrics::count(|counters| &counters.resends);
                call.attempts -= 1; // it was none
                return Some(Duration::ZERO);
            }
            Decision::Again(_) => self.budget.grant_retry(),
        };
        if is_granted && class.next == Next::Unprocessed {
            metrics::count(|counters| &counters.resends);
        } else {
            warn!(
                action = "call",
                status = if is_granted { "retry" } else { "failure" },
                method = call.head.uri.path(),
                attempt = call.attempts,
                grpc_code = code_name(class.code),
                error = match outcome {
                    Ok(_) => ending.text(),
                    Err(failure) => failure.message().to_owned(),
                },
                "an attempt failed"
            );
        }
        match decision {
            Decision::Again(pause) if is_granted => Some(pause),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tonic::Code;

    use super::*;
    use crate::client::ending::Evidence;

    const LEFT: Duration = Duration::from_secs(10);
    const MILLI: Duration = Duration::from_millis(1);

    fn class(next: Next, pushback: Pushback) -> Class {
        Class {
            code: Code::Unavailable,
            evidence: Evidence::Failure,
            next,
            pushback,
        }
    }

    /// The history of a first attempt of an idempotent call.
    const FIRST: History = History {
        attempts: 1,
        is_idempotent: true,
        is_whole: true,
        has_other: true,
    };
    const ALONE: History = History {
        has_other: false,
        ..FIRST
    };
    const ONCE: History = History {
        is_idempotent: false,
        ..FIRST
    };

    #[derive(Debug, PartialEq)]
    enum Then {
        Final,
        Resend,
        AtOnce,
        /// After the usual pause of 25 ms, give or take a half.
        Soon,
        After(Duration),
    }

    fn then(policy: &RetryPolicy, class: &Class, history: History, left: Duration) -> Then {
        match decide(policy, class, history, left) {
            Decision::Final => Then::Final,
            Decision::Resend => Then::Resend,
            Decision::Again(Duration::ZERO) => Then::AtOnce,
            Decision::Again(pause) if (12 * MILLI..38 * MILLI).contains(&pause) => Then::Soon,
            Decision::Again(pause) => Then::After(pause),
        }
    }

    #[test]
    fn what_follows_an_attempt_is_in_one_table() {
        use Next::{Elsewhere, None as Never, Resend, Retry, Unprocessed};
        let policy = RetryPolicy::default();
        let plain = Pushback::Unspecified;
        let after = |millis| Pushback::After(Duration::from_millis(millis));
        let last = History {
            attempts: 3,
            ..FIRST
        };
        let partial = History {
            is_whole: false,
            ..FIRST
        };
        for (next, pushback, history, expected) in [
            (Never, plain, FIRST, Then::Final),
            (Retry, plain, FIRST, Then::Soon),
            (Retry, plain, ALONE, Then::Soon),
            (Retry, plain, ONCE, Then::Final),
            (Retry, plain, last, Then::Final),
            (Retry, plain, partial, Then::Final),
            (Elsewhere, plain, FIRST, Then::Soon),
            (Elsewhere, plain, ALONE, Then::Final),
            (Elsewhere, plain, ONCE, Then::Final),
            // A call that never left counts for nothing, one that was refused does.
            (Resend, plain, ONCE, Then::Resend),
            (Resend, plain, last, Then::Resend),
            (Unprocessed, plain, ONCE, Then::AtOnce),
            (Unprocessed, plain, ALONE, Then::AtOnce),
            (Unprocessed, plain, last, Then::Final),
            // Shed by the admission of a replica.
            (Unprocessed, after(700), ONCE, Then::AtOnce),
            (Unprocessed, after(700), ALONE, Then::Final),
            (Unprocessed, plain, partial, Then::Final),
            // A pushback is for its replica, and proves nothing about the call.
            (Retry, after(700), ALONE, Then::After(700 * MILLI)),
            (Retry, after(700), FIRST, Then::Soon),
            (Retry, after(700), ONCE, Then::Final),
            (Elsewhere, after(700), FIRST, Then::Soon),
            (Retry, Pushback::Never, FIRST, Then::Final),
            // A pause beyond the deadline is no pause.
            (Retry, after(10_000), ALONE, Then::Final),
        ] {
            let class = class(next, pushback);
            let then = then(&policy, &class, history, LEFT);
            assert_eq!(then, expected, "{class:?} {history:?}");
        }
        let class = class(Retry, plain);
        assert_eq!(then(&policy, &class, FIRST, MILLI), Then::Final);
    }

    #[test]
    fn a_policy_may_allow_less() {
        let class = class(Next::Retry, Pushback::Unspecified);
        let once = RetryPolicy {
            attempts: 1,
            ..RetryPolicy::default()
        };
        assert_eq!(then(&once, &class, FIRST, LEFT), Then::Final);
        let other_codes = RetryPolicy {
            codes: vec![Code::Internal],
            ..RetryPolicy::default()
        };
        assert_eq!(then(&other_codes, &class, FIRST, LEFT), Then::Final);
    }
}
