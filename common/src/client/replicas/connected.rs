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
            activity::{Closed, Doubt},
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
