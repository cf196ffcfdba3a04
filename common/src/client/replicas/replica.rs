//! [`Replica`]: a connected replica; [`Connected`], as the task that connects it follows it until its end; and
//! what it learns from each of its attempts, and from a health check in place of a trial.

use std::{
    future::pending,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{select, time::Instant};

use super::connections::ReplicaConnections;
use crate::{
    client::{
        choice::{
            balancer::{Balancer, Membership},
            cost::Cost,
            replica_set::Candidate,
        },
        ejection::{
            memory::{ReplicaRecord, Tally},
            state::Event,
        },
        ending::{
            class::{Class, Ending},
            judgement::Judgement,
            pushback::Pushback,
        },
        method::CalledMethod,
        wire::{
            activity::{Closed, Suspicion},
            connection::Connection,
        },
    },
    request::dialect::code_name,
    telemetry::metrics::{self, Live},
};

/// A replica with its connections.
#[derive(Debug)]
pub(crate) struct Replica {
    pub(crate) address: SocketAddr,
    pub(crate) connections: ReplicaConnections,
    pub(crate) cost: Cost,
    pub(crate) metrics: Arc<metrics::ReplicaMetrics>,
    pub(super) balancer: Balancer<Self>,
    /// What all workers know of it.
    pub(super) record: Arc<ReplicaRecord>,
    opened: Instant,
    /// The successes that are still to be added to the record.
    pub(super) successes: Tally,
    /// Whether to report the next success to the balancer.
    pub(super) was_late: AtomicBool,
}

impl Replica {
    pub(crate) fn new(membership: &Membership<Self>, connection: Arc<Connection>) -> Self {
        Self {
            address: membership.address,
            connections: ReplicaConnections::new(
                connection,
                membership.balancer.count_connection(),
            ),
            cost: Cost::new(),
            metrics: membership.metrics.clone(),
            balancer: membership.balancer.clone(),
            record: membership.record.clone(),
            opened: Instant::now(),
            successes: Tally::default(),
            was_late: AtomicBool::new(false),
        }
    }

    /// Waits until a connection to the replica is silent: a health check has no reply, although a
    /// reply usually comes at once.
    pub(crate) async fn silent(&self) {
        self.connections.silent().await;
    }

    /// Applies an event to the replica's state.
    pub(super) fn apply(&self, event: Event) {
        self.balancer.apply(self.address, event);
    }
}

impl Candidate for Replica {
    fn cost(&self) -> f64 {
        self.cost.of_a_call()
    }

    fn cost_of_joining(&self) -> Option<f64> {
        let unsent = self.connections.first.activity.unsent();
        (unsent > 0).then(|| self.cost.of_joining(unsent))
    }
}

impl Live for Replica {
    fn latency(&self) -> Duration {
        self.cost.latency()
    }

    fn in_flight(&self) -> u64 {
        self.connections.in_flight()
    }
}

/// A connected replica, until its connection ends.
pub(crate) trait Connected: Candidate {
    /// Shows the replica to operators.
    fn show(self: &Arc<Self>) {}

    /// Waits until the replica takes no new calls.
    fn ended(&self) -> impl Future<Output = Closed> + Send;

    /// Opens further connections to the replica while its streams are taken, and closes them again.
    fn grow(&self) -> impl Future<Output = ()> + Send {
        pending()
    }

    /// Waits until the replica has been silent for so long that another connection may help.
    fn suspected(&self) -> impl Future<Output = ()> + Send {
        pending()
    }

    /// Waits until a suspected replica responds after all.
    fn responded(&self) -> impl Future<Output = ()> + Send {
        pending()
    }

    /// Notes that another connection has taken the place of this one.
    fn replace(&self) {}
}

impl Connected for Replica {
    fn show(self: &Arc<Self>) {
        let live: Arc<dyn Live> = self.clone();
        self.metrics.set_connected(Arc::downgrade(&live));
    }

    async fn ended(&self) -> Closed {
        let activity = &self.connections.first.activity;
        let mut suspicions = activity.suspicions();
        loop {
            select! {
                biased;
                // First, as the end of a connection ends the suspicion.
                why = activity.closed() => return why,
                Ok(()) = suspicions.changed() => {
                    let is_suspected = *suspicions.borrow_and_update() != Suspicion::None;
                    let event = if is_suspected { Event::HealthCheckSent } else { Event::Responded };
                    if is_suspected {
                        self.was_late.store(true, Relaxed);
                    }
                    self.apply(event);
                }
            }
        }
    }

    async fn suspected(&self) {
        let mut suspicions = self.connections.first.activity.suspicions();
        let _ = suspicions
            .wait_for(|suspicion| *suspicion == Suspicion::Suspect)
            .await;
    }

    async fn responded(&self) {
        let mut suspicions = self.connections.first.activity.suspicions();
        let _ = suspicions
            .wait_for(|suspicion| *suspicion == Suspicion::None)
            .await;
    }

    fn replace(&self) {
        self.connections.first.replace();
    }

    async fn grow(&self) {
        let head = &self.connections.first.origin;
        let open = |room| Connection::open_and_check(self.address, head.clone(), room);
        let count = || self.balancer.count_further_connection();
        self.connections.grow(open, count).await;
    }
}

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
        let judgement = match class.judgement {
            Judgement::Lost if !self.record.is_lost_anew(self.opened, now) => Judgement::Nothing,
            judgement => judgement,
        };
        if judgement == Judgement::Success {
            self.successes.add(&self.record, now);
        } else {
            self.successes.flush(&self.record, now);
        }
        memory.learn(self.address, &self.record, judgement, start, now);
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
    async fn calls_that_end_with_one_connection_count_once() {
        let known = Known::new().await;
        let failures = || known.replica.record.failure_rate(Instant::now()).failures;
        for _ in 0..10 {
            known.end(UNARY, Ending::ConnectionLost, false);
            assert_eq!(failures(), 1);
        }
        advance(SECOND).await;
        let (membership, first) = (&known.membership, &known.replica.connections.first);
        let next = Replica::new(membership, first.clone());
        let known = Known {
            replica: Arc::new(next),
            ..known
        };
        known.end(UNARY, Ending::ConnectionLost, true);
        assert_eq!(
            known.replica.record.failure_rate(Instant::now()).failures,
            2
        );
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
