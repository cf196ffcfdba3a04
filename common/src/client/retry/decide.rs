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

use super::call::{OutboundCall, Outcome};
use crate::{
    client::{
        ending::{
            class::{Class, Ending, Next},
            pushback::Pushback,
        },
        retry_policy::RetryPolicy,
    },
    request::{context, dialect::code_name},
    telemetry::metrics,
};

/// What was done for a call so far.
#[derive(Debug, Clone, Copy)]
struct History {
    /// The attempts so far.
    attempts: u32,
    is_idempotent: bool,
    /// Whether all that was sent can be sent again.
    is_whole: bool,
    /// Whether a replica is up that was not tried.
    has_other: bool,
}

/// Whether another attempt follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decision {
    /// None follows.
    Final(Why),
    /// The call is sent again, as if for the first time.
    Resend,
    /// Another attempt follows after this pause, if the budget has one.
    Again(Duration),
}

/// Why no attempt follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    Hopeless,
    NotIdempotent,
    Policy,
    Sent,
    NoOther,
    Attempts,
    Pushback,
    Deadline,
    Budget,
}

impl Why {
    /// For people.
    fn text(self) -> &'static str {
        match self {
            Self::Hopeless => "no other attempt would help",
            Self::NotIdempotent => "the method is not declared idempotent",
            Self::Policy => "the retry policy leaves out this code",
            Self::Sent => "the request was too long to be kept",
            Self::NoOther => "no other replica is up",
            Self::Attempts => "it has had all its attempts",
            Self::Pushback => "the replica asks for no other attempt",
            Self::Deadline => "the deadline comes before the next attempt",
            Self::Budget => "the retry budget is used up",
        }
    }
}

/// Decides what follows an attempt. `left` is what is left of the deadline.
fn decide(policy: &RetryPolicy, class: &Class, history: History, left: Duration) -> Decision {
    let History {
        attempts,
        is_idempotent,
        has_other,
        ..
    } = history;
    let may_retry = || match is_idempotent {
        false => Some(Why::NotIdempotent),
        true if !policy.codes.contains(&class.code) => Some(Why::Policy),
        true => None,
    };
    let may_go_elsewhere = || (!has_other).then_some(Why::NoOther);
    let objection = match class.next {
        Next::None => Some(Why::Hopeless),
        _ if !history.is_whole => Some(Why::Sent),
        Next::Resend => return Decision::Resend,
        // Without another replica, a pushback is to be obeyed.
        Next::Unprocessed if class.pushback == Pushback::Unspecified => None,
        Next::Unprocessed => may_go_elsewhere(),
        Next::Retry => may_retry(),
        Next::Elsewhere => may_retry().or_else(may_go_elsewhere),
    };
    if let Some(why) = objection {
        return Decision::Final(why);
    }
    if attempts >= policy.attempts {
        return Decision::Final(Why::Attempts);
    }
    let usual = policy.pause_after(attempts);
    let pause = match class.pushback {
        Pushback::Never => return Decision::Final(Why::Pushback),
        // The pushback is for this replica.
        Pushback::After(pause) if !has_other => pause,
        _ if class.next == Next::Unprocessed && (attempts == 1 || has_other) => Duration::ZERO,
        _ => usual,
    };
    if pause < left {
        Decision::Again(pause)
    } else {
        Decision::Final(Why::Deadline)
    }
}

/// The pause before the next attempt after this `ending`, or `None` if there is none.
pub(super) fn pause_before_next(
    call: &mut OutboundCall<'_>,
    ending: Ending,
    outcome: &Outcome,
) -> Option<Duration> {
    let shared = call.shared;
    let class = ending.class();
    let history = History {
        attempts: call.attempts,
        is_idempotent: call.method.declared.is_idempotent,
        is_whole: call.request.body().is_whole(),
        has_other: shared.balancer.pick_other(&call.tried).is_some(),
    };
    let left = context::deadline().map_or(Duration::MAX, |it| it.remaining().unwrap_or_default());
    let decision = decide(&shared.policy, &class, history, left);
    let why = match decision {
        Decision::Final(why) => Some(why),
        Decision::Resend => {
            metrics::count(|counters| &counters.resends);
            call.attempts -= 1; // it was none
            return Some(Duration::ZERO);
        }
        Decision::Again(_) => (!shared.budget.grant_retry()).then_some(Why::Budget),
    };
    if why.is_none() && class.next == Next::Unprocessed {
        metrics::count(|counters| &counters.resends);
    } else {
        warn!(
            action = "call",
            status = if why.is_none() { "retry" } else { "failure" },
            method = call.request.uri().path(),
            attempt = call.attempts,
            grpc_code = code_name(class.code),
            error = match outcome {
                Ok(_) => ending.text(),
                Err(failure) => failure.message().to_owned(),
            },
            reason = why.map(Why::text),
            "an attempt failed"
        );
    }
    match decision {
        Decision::Again(pause) if why.is_none() => Some(pause),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tonic::Code;

    use super::*;
    use crate::client::ending::judgement::Judgement;

    const LEFT: Duration = Duration::from_secs(10);
    const MILLI: Duration = Duration::from_millis(1);

    fn class(next: Next, pushback: Pushback) -> Class {
        Class {
            code: Code::Unavailable,
            judgement: Judgement::Failure,
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
        Final(Why),
        Resend,
        AtOnce,
        /// After the usual pause of 25 ms, give or take a half.
        Soon,
        After(Duration),
    }

    fn then(policy: &RetryPolicy, class: &Class, history: History, left: Duration) -> Then {
        match decide(policy, class, history, left) {
            Decision::Final(why) => Then::Final(why),
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
            (Never, plain, FIRST, Then::Final(Why::Hopeless)),
            (Retry, plain, FIRST, Then::Soon),
            (Retry, plain, ALONE, Then::Soon),
            (Retry, plain, ONCE, Then::Final(Why::NotIdempotent)),
            (Retry, plain, last, Then::Final(Why::Attempts)),
            (Retry, plain, partial, Then::Final(Why::Sent)),
            (Elsewhere, plain, FIRST, Then::Soon),
            (Elsewhere, plain, ALONE, Then::Final(Why::NoOther)),
            (Elsewhere, plain, ONCE, Then::Final(Why::NotIdempotent)),
            // A call that never left counts for nothing, one that was refused does.
            (Resend, plain, ONCE, Then::Resend),
            (Resend, plain, last, Then::Resend),
            (Unprocessed, plain, ONCE, Then::AtOnce),
            (Unprocessed, plain, ALONE, Then::AtOnce),
            (Unprocessed, plain, last, Then::Final(Why::Attempts)),
            // Shed by the admission of a replica.
            (Unprocessed, after(700), ONCE, Then::AtOnce),
            (Unprocessed, after(700), ALONE, Then::Final(Why::NoOther)),
            (Unprocessed, plain, partial, Then::Final(Why::Sent)),
            // A pushback is for its replica, and proves nothing about the call.
            (Retry, after(700), ALONE, Then::After(700 * MILLI)),
            (Retry, after(700), FIRST, Then::Soon),
            (Retry, after(700), ONCE, Then::Final(Why::NotIdempotent)),
            (Elsewhere, after(700), FIRST, Then::Soon),
            (Retry, Pushback::Never, FIRST, Then::Final(Why::Pushback)),
            // A pause beyond the deadline is no pause.
            (Retry, after(10_000), ALONE, Then::Final(Why::Deadline)),
        ] {
            let class = class(next, pushback);
            let then = then(&policy, &class, history, LEFT);
            assert_eq!(then, expected, "{class:?} {history:?}");
        }
        let class = class(Retry, plain);
        assert_eq!(
            then(&policy, &class, FIRST, MILLI),
            Then::Final(Why::Deadline)
        );
    }

    #[test]
    fn a_policy_may_allow_less() {
        let class = class(Next::Retry, Pushback::Unspecified);
        let once = RetryPolicy {
            attempts: 1,
            ..RetryPolicy::default()
        };
        assert_eq!(then(&once, &class, FIRST, LEFT), Then::Final(Why::Attempts));
        let other_codes = RetryPolicy {
            codes: vec![Code::Internal],
            ..RetryPolicy::default()
        };
        assert_eq!(
            then(&other_codes, &class, FIRST, LEFT),
            Then::Final(Why::Policy)
        );
    }
}
