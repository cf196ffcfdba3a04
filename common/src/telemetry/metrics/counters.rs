//! [`Counters`]: what each thread counts.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
};

#[cfg(feature = "server")]
use super::usage::Used;
use crate::sync::lock;

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

    pub(crate) fn get(&self) -> u64 {
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
            /// The number of the thread.
            pub(super) thread: usize,
        }

        /// Each counter with its name in `/metrics` and its help.
        pub(super) const COUNTERS: &[(&str, &str, fn(&Counters) -> &Counter)] =
            &[$(($counter_name, $counter_help, |counters| &counters.$counter)),*];
        /// Each gauge with its name in `/metrics` and its help.
        pub(super) const GAUGES: &[(&str, &str, fn(&Counters) -> &AtomicI64)] =
            &[$(($gauge_name, $gauge_help, |counters| &counters.$gauge)),*];
    };
}

declare! {
    counters:
    /// Requests refused because too many were in flight
    shed = "requests_shed",
    /// Calls that came with less than 1 ms to their deadline, and passed it
    expired = "requests_expired",
    /// Calls refused because too many were in flight
    calls_shed = "calls_shed",
    /// Requests ended for others, at the limit of those in flight
    preempted = "requests_gave_way",
    /// Connections that had to wait, or for which another was closed, at their limit
    connections_at_limit = "connections_at_limit",
    /// HTTP/2 connections closed for more control frames, or more stream errors, than a client may send
    floods = "connections_flooding",
    /// HTTP/2 streams that were reset for an error of the client
    stream_errors = "http2_stream_errors",
    /// HTTP/2 connections that were ended with an error, and so all requests on them
    connection_errors = "http2_connection_errors",
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
    /// The most requests in flight, beside probes and those of operators
    in_flight_limit = "requests_in_flight_limit",
    /// The most open connections from clients, beside those of operators
    connections_limit = "connections_open_limit",
}

static ALL: Mutex<Vec<Arc<Counters>>> = Mutex::new(Vec::new());

thread_local! {
    /// The counters of this thread, which are in [`ALL`], too.
    static MINE: Arc<Counters> = {
        let mut all = lock(&ALL);
        let mine = Arc::new(Counters {
            thread: all.len(),
            ..Counters::default()
        });
        all.push(mine.clone());
        mine
    };
}

/// The counters of this thread.
pub(crate) fn of_this_thread() -> Arc<Counters> {
    MINE.with(Arc::clone)
}

/// The counters of all threads.
pub(super) fn of_all_threads() -> Vec<Arc<Counters>> {
    lock(&ALL).clone()
}

/// Notes the limits of the process on requests in flight and on open connections.
#[cfg(feature = "server")]
pub(crate) fn set_limits(in_flight: usize, connections: usize) {
    let mine = of_this_thread();
    let store = |gauge: &AtomicI64, limit| {
        gauge.store(i64::try_from(limit).unwrap_or(i64::MAX), Relaxed);
    };
    store(&mine.in_flight_limit, in_flight);
    store(&mine.connections_limit, connections);
}

/// The requests in flight and the open connections, with their limits.
#[cfg(feature = "server")]
pub(crate) fn open() -> (Used, Used) {
    let all = of_all_threads();
    let sum = |gauge: fn(&Counters) -> &AtomicI64| {
        let gauges = all.iter().map(|counters| gauge(counters).load(Relaxed));
        u64::try_from(gauges.sum::<i64>()).unwrap_or_default()
    };
    let used = |now, limit| Used {
        now: sum(now),
        limit: Some(sum(limit)).filter(|limit| *limit > 0),
    };
    (
        used(|all| &all.in_flight, |all| &all.in_flight_limit),
        used(|all| &all.connections, |all| &all.connections_limit),
    )
}

/// Adds 1 to a counter of this thread.
pub(crate) fn count(counter: impl FnOnce(&Counters) -> &Counter) {
    MINE.with(|mine| counter(mine).add(1));
}
