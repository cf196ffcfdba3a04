//! [`Replica`]: a connected replica, and what each response says about it.

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

use super::connections::Connections;
use crate::{
    client::{
        choice::{
            balancer::{Balancer, Membership},
            cost::Cost,
            replica_set::Candidate,
        },
        ejection::{record::Record, state::Event, tally::Tally},
        ending::{
            class::{Class, Ending, Evidence},
            pushback::Pushback,
        },
        method::called::CalledMethod,
        wire::{
            activity::{Closed, Doubt},
            connection::Connection,
        },
    },
    request::codes::code_name,
    telemetry::metrics::{self, Live},
};

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

/// A replica with its connections.
#[derive(Debug)]
pub(crate) struct Replica {
    pub(crate) address: SocketAddr,
    pub(crate) connections: Connections,
    pub(crate) cost: Cost,
    pub(crate) metrics: Arc<metrics::Replica>,
    balancer: Balancer<Self>,
    /// What all workers know of it.
    record: Arc<Record>,
    /// The successes that are still to be added to the record.
    successes: Tally,
    /// Whether to report the next success to the balance.
    was_late: AtomicBool,
}

impl Replica {
    pub(crate) fn new(membership: &Membership<Self>, connection: Arc<Connection>) -> Self {
        Self {
            address: membership.address,
            connections: Connections::new(connection, membership.balancer.count_connection()),
            cost: Cost::new(),
            metrics: membership.metrics.clone(),
            balancer: membership.balancer.clone(),
            record: membership.record.clone(),
            successes: Tally::default(),
            was_late: AtomicBool::new(false),
        }
    }

    /// Asks an ejected replica whether it serves, for lack of an idempotent call that could try it.
    pub(crate) fn try_by_question(self: Arc<Self>) {
        tokio::spawn(async move {
            if self.connections.first.serves().await.is_ok() {
                let memory = self.balancer.memory();
                memory.readmit(self.address, &self.record, Instant::now());
            }
        });
    }

    /// Waits until a connection to the replica is silent: it has not answered a question, although a
    /// reply usually comes at once.
    pub(crate) async fn silent(&self) {
        self.connections.silent().await;
    }

    /// Whether a call has failed lately, on any worker.
    pub(crate) fn is_doubted(&self, now: Instant) -> bool {
        self.record.share(now).failures > 0
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
        match (class.evidence, responded) {
            (Evidence::Success, Some(responded)) if is_unary => {
                self.learn_latency(method, responded - start, now);
            }
            (_, None) if ending.is_without_response() && !method.is_endless() => {
                self.cost.took_at_least(now - start, method.usual(), now);
            }
            _ => {}
        }
        self.remember(class, start, responded, now);
        match class.evidence {
            Evidence::Failure => {
                let code = code_name(class.code);
                self.metrics
                    .set_last_error(format!("{code} to {}", method.name));
            }
            Evidence::Success if self.was_late.swap(false, Relaxed) => {
                self.apply(Event::Succeeded);
            }
            _ => {}
        }
        if let Pushback::After(rest) = class.pushback {
            self.apply(Event::PushedBack(rest));
        }
        if ending.is_of_closed_connection() && self.connections.first.signs.is_closed() {
            // At once, or the next attempt would pick the replica again.
            self.balancer.close(self.address, self);
        }
    }

    fn remember(&self, class: Class, start: Instant, responded: Option<Instant>, now: Instant) {
        let memory = self.balancer.memory();
        if class.evidence == Evidence::Success {
            self.successes.add(&self.record, now);
        } else {
            self.successes.flush(&self.record, now);
        }
        memory.learn(self.address, &self.record, class.evidence, start, now);
        let proves_nothing = class.evidence == Evidence::Nothing && responded.is_some();
        if proves_nothing && self.record.was_trial(start) {
            // Its caller or its deadline ended a response that went on.
            self.record.try_again_soon(now);
        }
    }

    /// Applies an event to the replica's state.
    fn apply(&self, event: Event) {
        self.balancer.apply(self.address, event);
    }
}

impl Candidate for Replica {
    fn cost(&self) -> f64 {
        self.cost.of_a_call()
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

impl Connected for Replica {
    fn show(self: &Arc<Self>) {
        let live: Arc<dyn Live> = self.clone();
        self.metrics.set_connected(Arc::downgrade(&live));
    }

    async fn ended(&self) -> Closed {
        let signs = &self.connections.first.signs;
        let mut doubts = signs.doubts();
        loop {
            select! {
                biased;
                // First, as the end of a connection ends the doubts about it.
                why = signs.closed() => return why,
                Ok(()) = doubts.changed() => {
                    let is_doubted = *doubts.borrow_and_update() != Doubt::None;
                    let event = if is_doubted { Event::HealthCheckSent } else { Event::Responded };
                    if is_doubted {
                        self.was_late.store(true, Relaxed);
                    }
                    self.apply(event);
                }
            }
        }
    }

    async fn suspected(&self) {
        let mut doubts = self.connections.first.signs.doubts();
        let _ = doubts.wait_for(|doubt| *doubt == Doubt::Suspect).await;
    }

    async fn responded(&self) {
        let mut doubts = self.connections.first.signs.doubts();
        let _ = doubts.wait_for(|doubt| *doubt == Doubt::None).await;
    }

    fn replace(&self) {
        self.connections.first.replace();
    }

    async fn grow(&self) {
        let head = &self.connections.first.head;
        let open = |room| Connection::open_and_ask(self.address, head.clone(), room);
        let count = || self.balancer.count_further_connection();
        self.connections.grow(open, count).await;
    }
}
