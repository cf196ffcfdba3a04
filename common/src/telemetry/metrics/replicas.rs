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

use super::{
    counters::{Counter, Counters, of_all_threads, of_this_thread},
    targets,
};
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

/// Those of a replica without a connection.
const NOT_CONNECTED: [&str; 2] = ["connecting", "unreachable"];

/// What a connected replica tells when it is asked.
pub(crate) trait Live: fmt::Debug + Send + Sync {
    /// Its latency, in which recent slow responses count for more. Without a response, zero.
    fn latency(&self) -> Duration;

    /// The calls in flight on its connection.
    fn in_flight(&self) -> u64;
}

/// A replica, as one client sees it.
#[derive(Debug)]
pub(crate) struct Replica {
    pub(crate) picks: Counter,
    /// The state, and since when.
    state: Mutex<(&'static str, SystemTime)>,
    connected: Mutex<Option<Weak<dyn Live>>>,
    last_error: Mutex<Option<(SystemTime, String)>>,
}

impl Replica {
    /// Sets the state, one of [`STATES`].
    pub(crate) fn set_state(&self, state: &'static str) {
        let mut last = lock(&self.state);
        if last.0 != state {
            *last = (state, SystemTime::now());
        }
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
            state: Mutex::new((STATES[0], SystemTime::now())),
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

/// A replica as the workers see it, for people.
#[derive(Debug, Clone)]
pub(crate) struct ReplicaSummary {
    pub(crate) address: SocketAddr,
    pub(crate) views: Vec<View>,
    /// The highest of the workers, if a response has come.
    pub(crate) latency: Option<Duration>,
    pub(crate) in_flight: u64,
    pub(crate) picks: u64,
    pub(crate) last_error: Option<(SystemTime, String)>,
}

/// A replica as one worker sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct View {
    /// The number of the worker's thread.
    pub(crate) worker: usize,
    /// One of [`STATES`].
    pub(crate) state: &'static str,
    pub(crate) since: SystemTime,
}

impl View {
    /// Whether the worker has a connection to the replica.
    pub(crate) fn is_connected(&self) -> bool {
        !NOT_CONNECTED.contains(&self.state)
    }
}

/// The replicas that this process calls.
pub(crate) fn summaries() -> Vec<ReplicaSummary> {
    let mut summaries = BTreeMap::new();
    for (worker, address, replica) in entries(&of_all_threads()) {
        let summary = summaries.entry(address).or_insert_with(|| ReplicaSummary {
            address,
            views: Vec::new(),
            latency: None,
            in_flight: 0,
            picks: 0,
            last_error: None,
        });
        let (state, since) = *lock(&replica.state);
        summary.views.push(View {
            worker,
            state,
            since,
        });
        summary.picks += replica.picks.get();
        if let Some(live) = lock(&replica.connected).as_ref().and_then(Weak::upgrade) {
            let latency = Some(live.latency()).filter(|latency| !latency.is_zero());
            summary.latency = summary.latency.max(latency);
            summary.in_flight += live.in_flight();
        }
        summary.last_error = lock(&replica.last_error)
            .clone()
            .max(summary.last_error.take());
    }
    summaries.into_values().collect()
}

/// The replicas of all threads, each with the number of its thread.
fn entries(all: &[Arc<Counters>]) -> impl Iterator<Item = (usize, SocketAddr, Arc<Replica>)> {
    all.iter().enumerate().flat_map(|(worker, counters)| {
        let replicas = lock(&counters.replicas).clone();
        let with_worker = move |(address, replica)| (worker, address, replica);
        replicas.into_iter().map(with_worker)
    })
}

/// Writes the replicas. A name without a replica has its series, too, with 0 for each state: alerts
/// compare what there is.
pub(crate) fn encode(all: &[Arc<Counters>], encoder: &mut DescriptorEncoder) -> fmt::Result {
    let mut sums = BTreeMap::<String, (Option<u64>, [u64; STATES.len()])>::new();
    for (_, address, replica) in entries(all) {
        let (picks, states) = sums.entry(address.to_string()).or_default();
        *picks = Some(picks.unwrap_or_default() + replica.picks.get());
        let (state, _) = *lock(&replica.state);
        let index = STATES.iter().position(|known| *known == state);
        states[index.expect("it is one of them")] += 1;
    }
    for name in targets::without_address() {
        sums.entry(name).or_default();
    }
    let help = "Clients, one a worker, for which a replica is in a state; of a name without a \
                replica, 0";
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
        let Some(picks) = picks else { continue };
        family
            .encode_family(&[("replica", replica)])?
            .encode_counter::<NoLabelSet, _, u64>(&picks, None)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::text;

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
