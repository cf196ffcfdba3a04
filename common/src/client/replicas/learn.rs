//! What a replica learns from each of its attempts, and from a health check in place of a trial.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::time::Instant;

use super::replica::Replica;
use crate::{
    client::{
        ejection::state::Event,
        ending::{
            class::{Class, Ending},
            judgement::Judgement,
            pushback::Pushback,
        },
        method::called::CalledMethod,
    },
    request::dialect::code_name,
};

impl Replica {
    /// Asks an ejected replica whether it serves, for lack of an idempotent call that could try it.
    pub(crate) fn try_by_health_check(self: Arc<Self>) {
        tokio::spawn(async move {
            if self.connections.first.serves().await.is_ok() {
                let memory = self.balancer.memory();
                memory.readmit(self.address, &self.record, Instant::now());
            }
        });
    }

    /// Whether a call has failed lately, on any worker.
    pub(crate) fn has_failed_lately(&self, now: Instant) -> bool {
        self.record.failure_rate(now).failures > 0
    }

    /// Learns how long a good response took to begin.
    pub(crate) fn learn_latency(&self, method: &CalledMethod, took: Duration, now: Instant) {
        self.cost.responded(took, method.usual(), now);
        method.record(took);
    }

    /// Learns from the end of an attempt. `responded` is when its response began.
    pub(crate) fn learn(
        &self,
        method: &CalledMethod,
        ending: Ending,
        start: Instant,
        responded: Option<Instant>,
        now: Instant,
    ) {
        let class = ending.class();
        let is_unary = method.declared.has_one_response;
        match (class.judgement, responded) {
            (Judgement::Success, Some(responded)) if is_unary => {
                self.learn_latency(method, responded - start, now);
            }
            (_, None) if ending.is_without_response() && !method.is_endless() => {
                self.cost.took_at_least(now - start, method.usual(), now);
            }
            _ => {}
        }
        self.remember(class, start, responded, now);
        match class.judgement {
            Judgement::Failure => {
                let code = code_name(class.code);
                self.metrics
                    .set_last_error(format!("{code} to {}", method.name));
            }
            Judgement::Success if self.was_late.swap(false, Relaxed) => {
                self.apply(Event::Succeeded);
            }
            _ => {}
        }
        if let Pushback::After(rest) = class.pushback {
            self.apply(Event::PushedBack(rest));
        }
        if ending.is_of_closed_connection() && self.connections.first.activity.is_closed() {
            // At once, or the next attempt would pick the replica again.
            self.balancer.close(self.address, self);
        }
    }

    fn remember(&self, class: Class, start: Instant, responded: Option<Instant>, now: Instant) {
        let memory = self.balancer.memory();
        if class.judgement == Judgement::Success {
            self.successes.add(&self.record, now);
        } else {
            self.successes.flush(&self.record, now);
        }
        memory.learn(self.address, &self.record, class.judgement, start, now);
        let proves_nothing = class.judgement == Judgement::Nothing && responded.is_some();
        if proves_nothing && self.record.was_trial(start) {
            // Its caller or its deadline ended a response that went on.
            self.record.try_again_soon(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncWriteExt, DuplexStream, duplex},
        time::advance,
    };
    use tonic::Code;

    use super::*;
    use crate::{
        client::{
            choice::{
                balancer::{Balancer, ChannelCounts, Membership},
                replica_set::Candidate,
            },
            config::RequestIdNames,
            ejection::state::State,
            wire::{connection::Connection, origin::Origin},
        },
        request::methods::Method,
        telemetry::metrics::Live,
    };

    const SECOND: Duration = Duration::from_secs(1);
    const SUCCESS: Ending = Ending::Status(Code::Ok, Pushback::Unspecified);
    const ABANDONED: Ending = Ending::Abandoned { is_late: false };

    /// A connected replica, as its worker has it.
    struct Known {
        replica: Arc<Replica>,
        membership: Membership<Replica>,
        _io: DuplexStream,
    }

    impl Known {
        async fn new() -> Self {
            let balancer =
                Balancer::<Replica>::new(SECOND, ChannelCounts::default(), Arc::default());
            let membership = balancer.join(([127, 0, 0, 1], 1).into());
            let (ours, mut theirs) = duplex(64 * 1_024);
            theirs.write_all(b"\0\0\0\x04\0\0\0\0\0").await.unwrap();
            let head = Origin::in_memory(RequestIdNames::Both);
            let connection = Connection::with_io(ours, head, Arc::default()).await;
            let replica = Arc::new(Replica::new(&membership, connection.unwrap()));
            balancer.connect(membership.address, replica.clone());
            Self {
                replica,
                membership,
                _io: theirs,
            }
        }

        fn state(&self) -> State {
            self.membership.balancer.states()[&self.membership.address]
        }

        /// An attempt ends now that began a second ago, and whose response began at once, if it did.
        fn end(&self, method: Method, ending: Ending, has_responded: bool) {
            let now = Instant::now();
            let start = now.checked_sub(SECOND).expect("it is long ago");
            let responded = has_responded.then_some(start + SECOND / 2);
            let method = CalledMethod::new("/a.Service/Method", method, Arc::default());
            self.replica.learn(&method, ending, start, responded, now);
        }
    }

    const STREAM: Method = Method {
        is_idempotent: true,
        has_one_request: true,
        has_one_response: false,
        deadline: None,
        is_never_hedged: false,
    };
    const UNARY: Method = Method {
        has_one_response: true,
        ..STREAM
    };

    #[tokio::test(start_paused = true)]
    async fn a_replica_rests_when_it_asks_for_that() {
        let known = Known::new().await;
        let pushback = Pushback::After(SECOND);
        known.end(UNARY, Ending::Status(Code::Unavailable, pushback), true);
        let until = Instant::now() + SECOND;
        assert_eq!(known.state(), State::PushedBack { until });
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_success_after_lateness_is_a_sign_of_life() {
        let known = Known::new().await;
        known.replica.apply(Event::HealthCheckSent);
        known.end(UNARY, SUCCESS, true);
        assert_eq!(
            known.state(),
            State::Late,
            "nobody has waited for a success"
        );
        known.replica.was_late.store(true, Relaxed);
        known.end(UNARY, Ending::Refused, false);
        assert_eq!(known.state(), State::Late);
        known.end(UNARY, SUCCESS, true);
        assert_eq!(known.state(), State::Up);
    }

    #[tokio::test(start_paused = true)]
    async fn a_replica_has_failed_lately_for_as_long_as_the_window() {
        let known = Known::new().await;
        known.end(UNARY, SUCCESS, true);
        assert!(!known.replica.has_failed_lately(Instant::now()));
        known.end(UNARY, Ending::NoStatus, true);
        assert!(known.replica.has_failed_lately(Instant::now()));
        advance(11 * SECOND).await;
        assert!(!known.replica.has_failed_lately(Instant::now()));
    }

    #[tokio::test(start_paused = true)]
    async fn the_latency_is_of_unary_responses_and_of_calls_without_any() {
        let endless = Method {
            deadline: Some(Duration::MAX),
            ..UNARY
        };
        for (method, ending, has_responded, latency) in [
            (UNARY, SUCCESS, true, SECOND / 2),
            (STREAM, SUCCESS, true, Duration::ZERO),
            (UNARY, ABANDONED, false, SECOND),
            (UNARY, ABANDONED, true, Duration::ZERO),
            (endless, ABANDONED, false, Duration::ZERO),
            (UNARY, Ending::Refused, false, Duration::ZERO),
        ] {
            let known = Known::new().await;
            known.end(method, ending, has_responded);
            let what = format!("{ending:?} {has_responded} {method:?}");
            assert_eq!(known.replica.latency(), latency, "{what}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_in_flight_makes_the_next_one_dearer() {
        let Known { replica, .. } = Known::new().await;
        let alone = replica.cost();
        assert!(alone > 1.0, "it is new");
        replica.cost.begin();
        assert!((replica.cost() - 2.0 * alone).abs() < 1e-3);
        assert_eq!(replica.in_flight(), 0, "none has a stream");
    }

    #[tokio::test(start_paused = true)]
    async fn a_trial_whose_response_was_given_up_is_soon_followed_by_another() {
        for (ending, has_responded, is_soon) in [
            (ABANDONED, true, true),
            (ABANDONED, false, false),
            (Ending::NoStatus, true, false),
        ] {
            let known = Known::new().await;
            let record = &known.replica.record;
            let is_due = || record.take_trial(Instant::now(), Instant::now());
            (0..6).for_each(|_| record.eject(Instant::now()));
            advance(60 * SECOND).await;
            assert!(is_due());
            known.end(UNARY, ending, has_responded);
            advance(2 * SECOND).await;
            assert_eq!(is_due(), is_soon, "{ending:?} {has_responded}");
        }
    }
}
