//! [`drain_outdated`]: ends the connections that former authorities have vouched for.

use std::sync::Arc;

use tokio::time::{Instant, sleep_until};

use crate::{
    server::capacity::{connections::Connections, handle::Close},
    tls::{Tls, time_to_drain},
};

/// Whenever the authorities change, drains the connections that only the former ones have vouched
/// for, each at a random time. Never ends.
pub(crate) async fn drain_outdated(tls: Tls, connections: Arc<Connections>) {
    let mut trust = tls.current().trust;
    loop {
        tls.outdates(trust).await;
        trust = tls.current().trust;
        let begin = Instant::now();
        let mut outdated = Vec::new();
        connections.for_each(|handle| {
            if handle.trust.get().is_some_and(|its| *its < trust) {
                outdated.push((begin + time_to_drain(), handle.clone()));
            }
        });
        outdated.sort_unstable_by_key(|(at, _)| *at);
        for (at, handle) in outdated {
            sleep_until(at).await;
            handle.close(Close::Drain);
        }
    }
}
