//! [`Connected`]: a connected replica, as the task that connects it follows it until its end.

use std::{
    future::pending,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use tokio::select;

use super::replica::Replica;
use crate::{
    client::{
        choice::replica_set::Candidate,
        ejection::state::Event,
        wire::{
            activity::{Closed, Suspicion},
            connection::Connection,
        },
    },
    telemetry::metrics::Live,
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
