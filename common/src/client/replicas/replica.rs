//! [`Replica`]: a connected replica.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use super::connections::ReplicaConnections;
use crate::{
    client::{
        choice::{
            balancer::{Balancer, Membership},
            cost::Cost,
            replica_set::Candidate,
        },
        ejection::{record::ReplicaRecord, state::Event, tally::Tally},
        wire::connection::Connection,
    },
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
}

impl Live for Replica {
    fn latency(&self) -> Duration {
        self.cost.latency()
    }

    fn in_flight(&self) -> u64 {
        self.connections.in_flight()
    }
}
