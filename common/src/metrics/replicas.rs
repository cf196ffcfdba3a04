//! The replicas that clients call: their states, and the attempts that went to each.

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, Weak},
    time::{Duration, SystemTime},
};

use prometheus_client::{
    encoding::{DescriptorEncoder, NoLabelSet},
    metrics::MetricType,
};

use super::{Counter, Counters, of_this_thread};
use crate::{limits, lock::lock};

/// The states of a replica.
const STATES: [&str; 6] = [
    "connecting",
    "unreachable",
    "up",
    "late",
    "resting",
    "ejected",
];

/// What a connected replica tells when it is asked.
pub(crate) trait Live: fmt::Debug + Send + Sync {
    /// Its latency, in which recent slow responses count for more.
    fn latency(&self) -> Duration;

    /// The calls in flight on its connection.
    fn in_flight(&self) -> u64;
}

/// A replica, as one client sees it.
#[derive(Debug)]
pub(crate) struct Replica {
    pub(crate) picks: Counter,
    state: Mutex<&'static str>,
    connected: Mutex<Option<Weak<dyn Live>>>,
    last_error: Mutex<Option<(SystemTime, String)>>,
}

impl Replica {
    /// Sets the state, one of [`STATES`].
    pub(crate) fn set_state(&self, state: &'static str) {
        *lock(&self.state) = state;
    }

    /// Notes who to ask about the connection.
    pub(crate) fn set_connected(&self, live: Weak<dyn Live>) {
        *lock(&self.connected) = Some(live);
    }

    /// Notes an error. A long one is cut: a peer may choose the text of some.
    pub(crate) fn set_last_error(&self, error: impl Into<String>) {
        let mut error = error.into();
        error.truncate(error.floor_char_boundary(limits::DETAIL));
        *lock(&self.last_error) = Some((SystemTime::now(), error));
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
            connected: Mutex::default(),
            last_error: Mutex::default(),
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

/// A replica as all workers together see it, for people.
pub(crate) struct ReplicaSummary {
    pub(crate) address: String,
    /// The states that it is in, each with the number of workers that see it so.
    pub(crate) states: BTreeMap<&'static str, usize>,
    /// The highest of the workers.
    pub(crate) latency: Duration,
    pub(crate) in_flight: u64,
    pub(crate) picks: u64,
    pub(crate) last_error: Option<(SystemTime, String)>,
}

pub(super) fn summaries(all: &[Arc<Counters>]) -> Vec<ReplicaSummary> {
    let mut summaries = BTreeMap::new();
    for (address, replica) in all.iter().flat_map(|one| lock(&one.replicas).clone()) {
        let summary = summaries.entry(address).or_insert_with(|| ReplicaSummary {
            address: address.to_string(),
            states: BTreeMap::new(),
            latency: Duration::ZERO,
            in_flight: 0,
            picks: 0,
            last_error: None,
        });
        *summary.states.entry(*lock(&replica.state)).or_default() += 1;
        summary.picks += replica.picks.get();
        if let Some(live) = lock(&replica.connected).as_ref().and_then(Weak::upgrade) {
            summary.latency = summary.latency.max(live.latency());
            summary.in_flight += live.in_flight();
        }
        summary.last_error = lock(&replica.last_error)
            .clone()
            .max(summary.last_error.take());
    }
    summaries.into_values().collect()
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
        let has = |line: &str| text("").1.lines().any(|one| one == line);
        assert!(has("replicas{replica=\"192.0.2.1:1\",state=\"up\"} 2"));
        assert!(has("replica_picks_total{replica=\"192.0.2.1:1\"} 4"));
        drop(one);
        assert!(has("replicas{replica=\"192.0.2.1:1\",state=\"up\"} 1"));
        assert!(has("replica_picks_total{replica=\"192.0.2.1:1\"} 2"));
    }
}
