//! The metrics of the process: [`register`] adds those of a service to `/metrics`.
//!
//! Each thread writes only its own counters, so counting costs neither a lock nor a contended cache
//! line. A scrape adds up the counters of all threads.

mod durations;
mod own;
mod process;
mod replicas;
mod text;

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
};

pub use prometheus_client;

use self::durations::Series;
pub use self::own::{Registry, register};
#[cfg(feature = "server")]
pub(crate) use self::{
    durations::RequestSummary, process::start as process_start, replicas::ReplicaSummary,
    text::text,
};
pub(crate) use self::{
    durations::{Kind, OTHER, count_duration},
    replicas::{CountedReplica, Live, Replica},
};
use crate::lock::lock;

/// A number that goes up. Only one thread adds to it, so adding needs no atomic read-modify-write.
/// Any thread may read it.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// Adds to the number, and returns the sum.
    pub(crate) fn add(&self, more: u64) -> u64 {
        let sum = self.get().wrapping_add(more);
        self.0.store(sum, Relaxed);
        sum
    }

    fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Declares what a thread counts: for each field its help and its name in `/metrics`.
macro_rules! declare {
    (
        counters: $(#[doc = $counter_help:literal] $counter:ident = $counter_name:literal,)*
        gauges: $(#[doc = $gauge_help:literal] $gauge:ident = $gauge_name:literal,)*
    ) => {
        /// What one thread counts.
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(#[doc = $counter_help] pub(crate) $counter: Counter,)*
            $(#[doc = $gauge_help] pub(crate) $gauge: AtomicI64,)*
            series: Mutex<Vec<Arc<Series>>>,
            replicas: Mutex<Vec<(SocketAddr, Arc<Replica>)>>,
        }

        const COUNTERS: &[(&str, &str, fn(&Counters) -> &Counter)] =
            &[$(($counter_name, $counter_help, |counters| &counters.$counter)),*];
        const GAUGES: &[(&str, &str, fn(&Counters) -> &AtomicI64)] =
            &[$(($gauge_name, $gauge_help, |counters| &counters.$gauge)),*];
    };
}

declare! {
    counters:
    /// Requests refused because too many were in flight
    shed = "requests_shed",
    /// Requests ended for others, at the limit of those in flight
    gave_way = "requests_gave_way",
    /// Connections that had to wait, or for which another was closed, at their limit
    connections_at_limit = "connections_at_limit",
    /// Connections closed for more control frames than their requests explain
    floods = "connections_flooding",
    /// Attempts after one that failed
    retries = "call_retries",
    /// Retries and hedges that the budget or the limit of attempts refused
    retries_refused = "call_retries_refused",
    /// Attempts beside one that was later than usual
    hedges = "call_hedges",
    /// Attempts after one that was never processed
    resends = "call_resends",
    /// Attempts that waited for a stream, at the peer's limit of streams
    stream_waits = "call_stream_waits",
    /// TLS handshakes that clients have completed
    tls_handshakes = "tls_handshakes",
    /// TLS handshakes that failed
    tls_handshake_failures = "tls_handshake_failures",
    /// Times that new certificates were taken from their files
    certificate_reloads = "certificate_reloads",
    /// Times that new files of certificates could not be used
    certificate_reload_failures = "certificate_reload_failures",
    /// Spans that were exported
    spans_exported = "spans_exported",
    /// Spans dropped because the collector did not take them
    spans_dropped = "spans_dropped",
    gauges:
    /// Requests being served
    in_flight = "requests_in_flight",
    /// Open connections from clients
    connections = "connections_open",
}

static ALL: Mutex<Vec<Arc<Counters>>> = Mutex::new(Vec::new());

thread_local! {
    static MINE: Arc<Counters> = {
        let mine = Arc::<Counters>::default();
        lock(&ALL).push(mine.clone());
        mine
    };
}

/// The counters of this thread.
pub(crate) fn of_this_thread() -> Arc<Counters> {
    MINE.with(Arc::clone)
}

/// The counters of all threads.
fn of_all_threads() -> Vec<Arc<Counters>> {
    lock(&ALL).clone()
}

/// The number of requests in flight and of open connections.
#[cfg(feature = "server")]
pub(crate) fn open() -> (i64, i64) {
    let all = of_all_threads();
    let sum = |gauge: fn(&Counters) -> &AtomicI64| {
        let gauges = all.iter().map(|counters| gauge(counters).load(Relaxed));
        gauges.sum()
    };
    (sum(|all| &all.in_flight), sum(|all| &all.connections))
}

/// The replicas that this process calls.
#[cfg(feature = "server")]
pub(crate) fn replicas() -> Vec<ReplicaSummary> {
    replicas::summaries(&of_all_threads())
}

/// The requests by route.
#[cfg(feature = "server")]
pub(crate) fn requests() -> Vec<RequestSummary> {
    durations::summaries(&of_all_threads())
}

/// Adds 1 to a counter of this thread.
pub(crate) fn count(counter: impl FnOnce(&Counters) -> &Counter) {
    MINE.with(|mine| counter(mine).add(1));
}
