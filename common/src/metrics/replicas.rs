//! The replicas that clients call: their states, and the attempts that went to each.

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use prometheus_client::{
    encoding::{DescriptorEncoder, NoLabelSet},
    metrics::MetricType,
};

use super::{Counter, Counters, of_this_thread};
use crate::lock::lock;

/// The states of a replica.
const STATES: [&str; 6] = [
    "connecting",
    "unreachable",
    "up",
    "late",
    "resting",
    "ejected",
];

/// A replica, as one client sees it.
#[derive(Debug)]
pub(crate) struct Replica {
    pub(crate) picks: Counter,
    state: Mutex<&'static str>,
}

impl Replica {
    /// Sets the state, one of [`STATES`].
    pub(crate) fn set_state(&self, state: &'static str) {
        *lock(&self.state) = state;
    }
}

/// A replica in `/metrics`. Dropping this removes the replica.
#[derive(Debug)]
pub(crate) struct CountedReplica {
    counters: Arc<Counters>,
    pub(crate) address: SocketAddr,
    pub(crate) replica: Arc<Replica>,
}

impl CountedReplica {
    pub(crate) fn new(address: SocketAddr) -> Self {
        let counters = of_this_thread();
        let replica = Arc::new(Replica {
            picks: Counter::default(),
            state: Mutex::new(STATES[0]),
        });
        lock(&counters.replicas).push((address, replica.clone()));
        Self {
            counters,
            address,
            replica,
        }
    }
}

impl Drop for CountedReplica {
    fn drop(&mut self) {
        lock(&self.counters.replicas).retain(|(_, replica)| !Arc::ptr_eq(replica, &self.replica));
    }
}

pub(super) fn encode(all: &[Arc<Counters>], encoder: &mut DescriptorEncoder) -> fmt::Result {
    let mut sums = BTreeMap::<String, (u64, [u64; STATES.len()])>::new();
    for (address, replica) in all.iter().flat_map(|one| lock(&one.replicas).clone()) {
        let (picks, states) = sums.entry(address.to_string()).or_default();
        *picks += replica.picks.get();
        let state = *lock(&replica.state);
        let index = STATES.iter().position(|known| *known == state);
        states[index.expect("it is one of them")] += 1;
    }
    let help = "Clients, one a worker, for which a replica is in a state";
    let mut family = encoder.encode_descriptor("replicas", help, None, MetricType::Gauge)?;
    for (replica, (_, states)) in &sums {
        for (state, clients) in STATES.iter().zip(states) {
            family
                .encode_family(&[("replica", replica.as_str()), ("state", *state)])?
                .encode_gauge(clients)?;
        }
    }
    let help = "Attempts of calls that went to a replica";
    let mut family = encoder.encode_descriptor("replica_picks", help, None, MetricType::Counter)?;
    for (replica, (picks, _)) in sums {
        family
            .encode_family(&[("replica", replica)])?
            .encode_counter::<NoLabelSet, _, u64>(&picks, None)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::text;

    #[test]
    fn two_clients_of_one_address_are_added_up() {
        let address = ([192, 0, 2, 1], 1).into();
        let one = CountedReplica::new(address);
        let other = CountedReplica::new(address);
        for client in [&one, &other] {
            client.replica.set_state("up");
            client.replica.picks.add(2);
        }
        let has = |line: &str| text().lines().any(|one| one == line);
        assert!(has("replicas{replica=\"192.0.2.1:1\",state=\"up\"} 2"));
        assert!(has("replica_picks_total{replica=\"192.0.2.1:1\"} 4"));
        drop(one);
        assert!(has("replicas{replica=\"192.0.2.1:1\",state=\"up\"} 1"));
        assert!(has("replica_picks_total{replica=\"192.0.2.1:1\"} 2"));
    }
}
