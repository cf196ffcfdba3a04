//! What is counted, for `/metrics`.
//!
//! Each thread has counters of its own, in memory that no other writes, so that counting costs
//! neither a lock nor a fight for a cache line. They are added up when they are asked for.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, NoLabelSet, text::encode},
    metrics::MetricType,
    registry::Registry,
};

use crate::{lock::lock, logging::stdout};

/// The upper bounds of the latency buckets, in seconds: by steps of about 2.2 from what a
/// neighbour takes to the default deadline.
const BUCKETS: [f64; 14] = [
    0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
];

/// The route of requests that no route is for.
pub(crate) const OTHER: &str = "other";

/// The media type of [`text`].
pub(crate) const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A number that goes up. One thread adds to it, so adding needs no atomic read-modify-write; any
/// thread may read it.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// Returns the sum.
    pub(crate) fn add(&self, more: u64) -> u64 {
        let sum = self.get().wrapping_add(more);
        self.0.store(sum, Ordering::Relaxed);
        sum
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What one thread counts.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) in_flight: AtomicI64,
    pub(crate) shed: Counter,
    pub(crate) gave_way: Counter,
    pub(crate) connections: AtomicI64,
    pub(crate) connections_at_limit: Counter,
    pub(crate) floods: Counter,
    pub(crate) retries: Counter,
    pub(crate) retries_refused: Counter,
    pub(crate) hedges: Counter,
    pub(crate) resends: Counter,
    pub(crate) stream_waits: Counter,
    requests: Mutex<Vec<Arc<Requests>>>,
    replicas: Mutex<Vec<(SocketAddr, Arc<Replica>)>>,
}

static ALL: Mutex<Vec<Arc<Counters>>> = Mutex::new(Vec::new());

thread_local! {
    static MINE: Arc<Counters> = {
        let mine = Arc::<Counters>::default();
        lock(&ALL).push(mine.clone());
        mine
    };
    /// The same as `requests` of the counters, where no other thread looks.
    static MY_REQUESTS: RefCell<Vec<Arc<Requests>>> = const { RefCell::new(Vec::new()) };
}

/// The counters of this thread.
pub(crate) fn mine<R>(count: impl FnOnce(&Counters) -> R) -> R {
    MINE.with(|mine| count(mine))
}

/// The same, for what stays on this thread.
pub(crate) fn of_this_thread() -> Arc<Counters> {
    MINE.with(Arc::clone)
}

/// The requests of one route that ended with one status.
#[derive(Debug)]
struct Requests {
    route: String,
    status: String,
    buckets: [Counter; BUCKETS.len() + 1],
    micros: Counter,
}

/// A request is over. `route` is one of the program's own, and never what a client made up;
/// `status` is the number of HTTP or the name of a gRPC code.
pub(crate) fn count_request(route: &str, status: &str, took: Duration) {
    MY_REQUESTS.with_borrow_mut(|all| {
        let is_it = |one: &Arc<Requests>| one.status == status && one.route == route;
        let known = all.iter().position(is_it).unwrap_or_else(|| {
            let requests = Arc::new(Requests {
                route: route.to_owned(),
                status: status.to_owned(),
                buckets: Default::default(),
                micros: Counter::default(),
            });
            mine(|mine| lock(&mine.requests).push(requests.clone()));
            all.push(requests);
            all.len() - 1
        });
        let seconds = took.as_secs_f64();
        let bucket = BUCKETS.partition_point(|bound| *bound < seconds);
        all[known].buckets[bucket].add(1);
        all[known]
            .micros
            .add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    });
}

/// The states of a replica that are told apart.
const REPLICA_STATES: [&str; 6] = [
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
    /// Its state is one of [`REPLICA_STATES`] from now on.
    pub(crate) fn set_state(&self, state: &'static str) {
        *lock(&self.state) = state;
    }
}

/// A replica that is counted as long as this is there.
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
            state: Mutex::new(REPLICA_STATES[0]),
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

/// All counters of the process in the text format of Prometheus.
pub(crate) fn text() -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Process));
    let mut text = String::new();
    encode(&mut text, &registry).expect("a string takes it");
    text
}

/// The counters of all threads, added up.
#[derive(Debug)]
struct Process;

#[derive(Clone, Debug, Hash, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
struct RequestLabels {
    route: String,
    status: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
struct ReplicaLabels {
    replica: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
struct StateLabels {
    replica: String,
    state: &'static str,
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let all = lock(&ALL).clone();
        let counter = |one: fn(&Counters) -> &Counter| all.iter().map(|all| one(all).get()).sum();
        for (name, help, sum) in [
            (
                "requests_shed",
                "Requests refused for there were too many in flight",
                counter(|one| &one.shed),
            ),
            (
                "requests_gave_way",
                "Requests ended for others, at the limit of those in flight",
                counter(|one| &one.gave_way),
            ),
            (
                "connections_at_limit",
                "Connections for which another was closed or that had to wait, at their limit",
                counter(|one| &one.connections_at_limit),
            ),
            (
                "connections_flooding",
                "Connections closed for more control frames than their requests explain",
                counter(|one| &one.floods),
            ),
            (
                "call_retries",
                "Attempts after one that failed",
                counter(|one| &one.retries),
            ),
            (
                "call_retries_refused",
                "Retries and hedges that the budget or the limit of attempts refused",
                counter(|one| &one.retries_refused),
            ),
            (
                "call_hedges",
                "Attempts beside one that was later than usual",
                counter(|one| &one.hedges),
            ),
            (
                "call_resends",
                "Attempts after one that was never processed",
                counter(|one| &one.resends),
            ),
            (
                "call_stream_waits",
                "Attempts that waited for a stream, as the peer takes no more at once",
                counter(|one| &one.stream_waits),
            ),
            (
                "log_written_bytes",
                "Bytes of log lines written",
                stdout::written_bytes(),
            ),
            (
                "log_lost_bytes",
                "Bytes of log lines that stdout did not take",
                stdout::lost_bytes(),
            ),
        ] {
            encoder
                .encode_descriptor(name, help, None, MetricType::Counter)?
                .encode_counter::<NoLabelSet, u64, u64>(&sum, None)?;
        }
        let gauge = |one: fn(&Counters) -> &AtomicI64| -> i64 {
            let all = all.iter().map(|all| one(all).load(Ordering::Relaxed));
            all.sum()
        };
        for (name, help, sum) in [
            (
                "requests_in_flight",
                "Requests being served",
                gauge(|one| &one.in_flight),
            ),
            (
                "connections_open",
                "Open connections from clients",
                gauge(|one| &one.connections),
            ),
        ] {
            encoder
                .encode_descriptor(name, help, None, MetricType::Gauge)?
                .encode_gauge(&sum)?;
        }
        encode_requests(&all, &mut encoder)?;
        encode_replicas(&all, &mut encoder)
    }
}

fn encode_requests(all: &[Arc<Counters>], encoder: &mut DescriptorEncoder) -> fmt::Result {
    let mut sums = BTreeMap::<RequestLabels, (u64, [u64; BUCKETS.len() + 1])>::new();
    for requests in all.iter().flat_map(|one| lock(&one.requests).clone()) {
        let labels = RequestLabels {
            route: requests.route.clone(),
            status: requests.status.clone(),
        };
        let (micros, buckets) = sums.entry(labels).or_default();
        *micros += requests.micros.get();
        for (sum, bucket) in buckets.iter_mut().zip(&requests.buckets) {
            *sum += bucket.get();
        }
    }
    let help = "How long requests took to the last byte of their answer";
    let mut family = encoder.encode_descriptor(
        "request_duration_seconds",
        help,
        None,
        MetricType::Histogram,
    )?;
    for (labels, (micros, buckets)) in sums {
        let bounds = BUCKETS.into_iter().chain([f64::INFINITY]);
        let buckets: Vec<_> = bounds.zip(buckets).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let seconds = Duration::from_micros(micros).as_secs_f64();
        family
            .encode_family(&labels)?
            .encode_histogram::<NoLabelSet>(seconds, count, &buckets, None)?;
    }
    Ok(())
}

fn encode_replicas(all: &[Arc<Counters>], encoder: &mut DescriptorEncoder) -> fmt::Result {
    let mut sums = BTreeMap::<String, (u64, [u64; REPLICA_STATES.len()])>::new();
    for (address, replica) in all.iter().flat_map(|one| lock(&one.replicas).clone()) {
        let (picks, states) = sums.entry(address.to_string()).or_default();
        *picks += replica.picks.get();
        let state = *lock(&replica.state);
        let index = REPLICA_STATES.iter().position(|known| *known == state);
        states[index.expect("it is one of them")] += 1;
    }
    let help = "Clients, one a worker, for which a replica is in a state";
    let mut family = encoder.encode_descriptor("replicas", help, None, MetricType::Gauge)?;
    for (replica, (_, states)) in &sums {
        for (state, clients) in REPLICA_STATES.iter().zip(states) {
            let replica = replica.clone();
            family
                .encode_family(&StateLabels { replica, state })?
                .encode_gauge(clients)?;
        }
    }
    let help = "Attempts of calls that went to a replica";
    let mut family = encoder.encode_descriptor("replica_picks", help, None, MetricType::Counter)?;
    for (replica, (picks, _)) in sums {
        family
            .encode_family(&ReplicaLabels { replica })?
            .encode_counter::<NoLabelSet, _, u64>(&picks, None)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_clients_of_one_address_count_by_themselves() {
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
