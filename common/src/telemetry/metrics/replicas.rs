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
    counters::{Counter, of_this_thread},
    replica_state::ReplicaState,
    targets,
};
use crate::{limits, sync::lock};

/// What a connected replica tells when it is asked.
pub(crate) trait Live: fmt::Debug + Send + Sync {
    /// Its latency, in which recent slow responses count for more. Without a response, zero.
    fn latency(&self) -> Duration;

    /// The calls in flight on its connection.
    fn in_flight(&self) -> u64;
}

/// A replica, as one client sees it.
#[derive(Debug)]
pub(crate) struct ReplicaMetrics {
    pub(crate) picks: Counter,
    /// The state, and since when.
    state: Mutex<(ReplicaState, SystemTime)>,
    connected: Mutex<Option<Weak<dyn Live>>>,
    last_error: Mutex<Option<(SystemTime, String)>>,
}

impl ReplicaMetrics {
    pub(crate) fn set_state(&self, state: ReplicaState) {
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

/// A replica, its address, and the number of the thread that calls it.
type Entry = (usize, SocketAddr, Arc<ReplicaMetrics>);

/// The replicas of all threads.
static ALL: Mutex<Vec<Entry>> = Mutex::new(Vec::new());

/// A replica in `/metrics`. Dropping this removes the replica.
#[derive(Debug)]
pub(crate) struct CountedReplica {
    pub(crate) address: SocketAddr,
    pub(crate) replica: Arc<ReplicaMetrics>,
}

impl CountedReplica {
    pub(crate) fn new(address: SocketAddr) -> Self {
        let replica = Arc::new(ReplicaMetrics {
            picks: Counter::default(),
            state: Mutex::new((ReplicaState::Connecting, SystemTime::now())),
            connected: Mutex::default(),
            last_error: Mutex::default(),
        });
        lock(&ALL).push((of_this_thread().thread, address, replica.clone()));
        Self { address, replica }
    }
}

impl Drop for CountedReplica {
    fn drop(&mut self) {
        lock(&ALL).retain(|(_, _, replica)| !Arc::ptr_eq(replica, &self.replica));
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
    pub(crate) state: ReplicaState,
    pub(crate) since: SystemTime,
}

/// The replicas that this process calls.
pub(crate) fn summaries() -> Vec<ReplicaSummary> {
    let mut summaries = BTreeMap::new();
    for (worker, address, replica) in entries() {
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

/// The replicas of all threads, in the order of the threads.
fn entries() -> Vec<Entry> {
    let mut all = lock(&ALL).clone();
    all.sort_by_key(|(thread, ..)| *thread);
    all
}

/// Writes the replicas. A name without a replica has its series, too, with 0 for each state: alerts
/// compare what there is.
pub(crate) fn encode(encoder: &mut DescriptorEncoder) -> fmt::Result {
    let mut sums = BTreeMap::<String, (Option<u64>, Vec<ReplicaState>)>::new();
    for (_, address, replica) in entries() {
        let (picks, states) = sums.entry(address.to_string()).or_default();
        *picks = Some(picks.unwrap_or_default() + replica.picks.get());
        states.push(lock(&replica.state).0);
    }
    for name in targets::without_address() {
        sums.entry(name).or_default();
    }
    let help = "Clients, one a worker, for which a replica is in a state; of a name without a \
                replica, 0";
    let mut family = encoder.encode_descriptor("replicas", help, None, MetricType::Gauge)?;
    for (replica, (_, states)) in &sums {
        for state in ReplicaState::ALL {
            let clients = states.iter().filter(|one| **one == state).count();
            family
                .encode_family(&[("replica", replica.as_str()), ("state", state.name())])?
                .encode_gauge(&(clients as u64))?;
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
            client.replica.set_state(ReplicaState::Up);
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
