//! What each thread counts: its [`Counters`], and how long requests and calls took, in a [`Histogram`] for each
//! route or method and each way to end. The names and labels of the latter are those of OpenTelemetry's
//! semantic conventions, as Prometheus spells them.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use http::Method;
use prometheus_client::{
    encoding::{DescriptorEncoder, NoLabelSet},
    metrics::MetricType,
};

#[cfg(feature = "server")]
use super::usage::Used;
use crate::sync::lock;

/// The label of requests that match no route, and of methods that no descriptor has.
pub(crate) const OTHER: &str = "other";

/// The label of responses whose client went away. All other values of `error_type` are the service's own
/// decision or fault.
pub(crate) const CLIENT_GONE: &str = "client_gone";

/// The most series of one thread. The labels are the program's own, so this is for a program that
/// makes them up: its further series are not counted.
const MAX_SERIES: usize = 4_096;

/// The histogram that a duration is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Measure {
    /// An HTTP request, with its method.
    HttpServer(&'static str),
    RpcServer,
    /// A call, with all of its attempts.
    RpcClient,
    RpcClientAttempt,
}

impl Measure {
    /// An HTTP request. Clients choose the method, so all but the standard ones are one.
    pub(crate) fn http(method: &Method) -> Self {
        Self::HttpServer(match *method {
            Method::GET => "GET",
            Method::HEAD => "HEAD",
            Method::POST => "POST",
            Method::PUT => "PUT",
            Method::DELETE => "DELETE",
            Method::OPTIONS => "OPTIONS",
            Method::PATCH => "PATCH",
            Method::TRACE => "TRACE",
            Method::CONNECT => "CONNECT",
            _ => "_OTHER",
        })
    }

    /// The index of the histogram in [`HISTOGRAMS`].
    fn histogram(self) -> usize {
        match self {
            Self::HttpServer(_) => 0,
            Self::RpcServer => 1,
            Self::RpcClient => 2,
            Self::RpcClientAttempt => 3,
        }
    }
}

/// The name and the help of each histogram.
pub(super) const HISTOGRAMS: [(&str, &str); 4] = [
    (
        "http_server_request_duration_seconds",
        "How long HTTP requests took to the last byte of their response",
    ),
    (
        "rpc_server_duration_seconds",
        "How long gRPC requests took to the last byte of their response",
    ),
    (
        "rpc_client_duration_seconds",
        "How long calls took, with all attempts, to the end of their response",
    ),
    (
        "rpc_client_attempt_duration_seconds",
        "How long single attempts of calls took to the end of their response",
    ),
];

/// The requests or calls of one kind and route that ended with one status.
#[derive(Debug)]
pub(crate) struct Series {
    kind: Measure,
    /// A route of HTTP, or a method of gRPC with its service.
    route: String,
    /// An HTTP status, or a gRPC code.
    status: u16,
    /// Why the response is not whole, if it is not.
    cut_by: Option<&'static str>,
    buckets: [Counter; BUCKETS],
    micros: Counter,
}

/// The series of all threads.
static ALL_SERIES: Mutex<Vec<Arc<Series>>> = Mutex::new(Vec::new());

thread_local! {
    /// The series that this thread counts in.
    static MY_SERIES: RefCell<Vec<Arc<Series>>> = const { RefCell::new(Vec::new()) };
}

/// Counts what has ended. `route` must be one of the program's own, never a client's text; `status`
/// is an HTTP status or a gRPC code; `cut_by` says why the response is not whole.
pub(crate) fn count_duration(
    kind: Measure,
    route: &str,
    status: u16,
    cut_by: Option<&'static str>,
    took: Duration,
) {
    MY_SERIES.with_borrow_mut(|all| {
        let is_it = |one: &Arc<Series>| {
            let ends_so = one.status == status && one.cut_by == cut_by;
            ends_so && one.kind == kind && one.route == route
        };
        let index = match all.iter().position(is_it) {
            Some(index) => index,
            None if all.len() < MAX_SERIES => {
                let series = Arc::new(Series {
                    kind,
                    route: route.to_owned(),
                    status,
                    cut_by,
                    buckets: Default::default(),
                    micros: Counter::default(),
                });
                lock(&ALL_SERIES).push(series.clone());
                all.push(series);
                all.len() - 1
            }
            None => return,
        };
        // Without the 128 bits of `as_micros`, and without floats.
        let micros = took.as_secs().saturating_mul(1_000_000) + u64::from(took.subsec_micros());
        all[index].buckets[bucket_of(micros)].add(1);
        all[index].micros.add(micros);
    });
}

/// The series of all threads, added up.
pub(crate) type Sums = BTreeMap<Key, Sum>;

/// The kind, the route, the status, and why the response is not whole.
type Key = (Measure, String, u16, Option<&'static str>);

#[derive(Default)]
pub(crate) struct Sum {
    pub(crate) histogram: Histogram,
    micros: u64,
}

pub(crate) fn sums() -> Sums {
    let mut sums = Sums::new();
    for series in &*lock(&ALL_SERIES) {
        let route = series.route.clone();
        let key = (series.kind, route, series.status, series.cut_by);
        let sum = sums.entry(key).or_default();
        sum.micros += series.micros.get();
        let buckets = series.buckets.each_ref().map(Counter::get);
        sum.histogram.add(&Histogram(buckets));
    }
    sums
}

pub(crate) fn encode(encoder: &mut DescriptorEncoder) -> fmt::Result {
    let sums = sums();
    for (index, (name, help)) in HISTOGRAMS.iter().enumerate() {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for ((kind, route, status, cut_by), sum) in &sums {
            if kind.histogram() != index {
                continue;
            }
            let (count, buckets) = (sum.histogram.count(), sum.histogram.buckets());
            let seconds = Duration::from_micros(sum.micros).as_secs_f64();
            let status = status.to_string();
            let mut labels: Vec<(&str, &str)> = match kind {
                Measure::HttpServer(method) => vec![
                    ("http_request_method", method),
                    ("http_route", route),
                    ("http_response_status_code", &status),
                ],
                _ => vec![("rpc_method", route), ("rpc_grpc_status_code", &status)],
            };
            labels.extend(cut_by.map(|cause| ("error_type", cause)));
            family
                .encode_family(&labels)?
                .encode_histogram::<NoLabelSet>(seconds, count, &buckets, None)?;
        }
    }
    Ok(())
}

/// The upper bounds of the buckets, in microseconds: those of OpenTelemetry's conventions from 5 ms
/// on, and below them those of calls within a machine, most of which take 50 to 200 µs.
///
/// A binary search finds the bucket, so up to 32 bounds cost the same.
const BOUNDS: [u64; 23] = [
    50, 75, 100, 150, 200, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 75_000, 100_000,
    250_000, 500_000, 750_000, 1_000_000, 2_500_000, 5_000_000, 7_500_000, 10_000_000,
];

/// The number of buckets: one for each bound, and one for what is above the last.
pub(crate) const BUCKETS: usize = BOUNDS.len() + 1;

/// The bucket of a duration in microseconds.
pub(crate) fn bucket_of(micros: u64) -> usize {
    BOUNDS.partition_point(|bound| *bound < micros)
}

/// A percentile, as far as buckets tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Percentile {
    /// About this, interpolated within a bucket.
    About(Duration),
    /// Above the bounds of all buckets, of which this is the last.
    Above(Duration),
}

/// The number of durations in each bucket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Histogram(pub(super) [u64; BUCKETS]);

impl Histogram {
    /// The number of all durations.
    pub(crate) fn count(&self) -> u64 {
        self.0.iter().sum()
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (bucket, more) in self.0.iter_mut().zip(other.0) {
            *bucket += more;
        }
    }

    /// The durations that came after those of `earlier`.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        let mut later = *self;
        for (bucket, before) in later.0.iter_mut().zip(earlier.0) {
            *bucket = bucket.saturating_sub(before);
        }
        later
    }

    /// The buckets with their upper bounds in seconds.
    pub(crate) fn buckets(&self) -> Vec<(f64, u64)> {
        let bounds = BOUNDS.map(|micros| Duration::from_micros(micros).as_secs_f64());
        let bounds = bounds.into_iter().chain([f64::INFINITY]);
        bounds.zip(self.0).collect()
    }

    /// The duration that `percent` of all do not exceed; none without durations. Durations are taken
    /// to be spread evenly over a bucket, as Prometheus' `histogram_quantile` does.
    pub(crate) fn percentile(&self, percent: u8) -> Option<Percentile> {
        // In hundredths of a duration, so that all is whole.
        let rank = u128::from(self.count()) * u128::from(percent);
        let (mut before, mut lower) = (0, 0);
        for (count, upper) in self.0.iter().zip(BOUNDS) {
            let within = u128::from(*count) * 100;
            if within > 0 && before + within >= rank {
                let part = u128::from(upper - lower) * (rank - before) / within;
                let micros = lower + u64::try_from(part).unwrap_or(upper - lower);
                return Some(Percentile::About(Duration::from_micros(micros)));
            }
            before += within;
            lower = upper;
        }
        (rank > 0).then_some(Percentile::Above(Duration::from_micros(lower)))
    }
}

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

static ALL_COUNTERS: Mutex<Vec<Arc<Counters>>> = Mutex::new(Vec::new());

thread_local! {
    /// The counters of this thread, which are in [`ALL_COUNTERS`], too.
    static MY_COUNTERS: Arc<Counters> = {
        let mut all = lock(&ALL_COUNTERS);
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
    MY_COUNTERS.with(Arc::clone)
}

/// The counters of all threads.
pub(super) fn of_all_threads() -> Vec<Arc<Counters>> {
    lock(&ALL_COUNTERS).clone()
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
    MY_COUNTERS.with(|mine| counter(mine).add(1));
}

#[cfg(test)]
mod tests {
    use Percentile::{About, Above};

    use super::*;

    fn of(micros: impl IntoIterator<Item = u64>) -> Histogram {
        let mut histogram = Histogram::default();
        for micros in micros {
            histogram.0[bucket_of(micros)] += 1;
        }
        histogram
    }

    fn micros(micros: u64) -> Duration {
        Duration::from_micros(micros)
    }

    #[test]
    fn a_bucket_has_its_upper_bound() {
        for (micros, bucket) in [(0, 0), (50, 0), (51, 1), (75, 1), (10_000_000, 22)] {
            assert_eq!(bucket_of(micros), bucket, "{micros}");
        }
        assert_eq!(bucket_of(10_000_001), BUCKETS - 1);
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn the_bounds_rise_and_have_those_of_the_conventions() {
        assert!(BOUNDS.is_sorted_by(|one, next| one < next));
        // The attribute `ExplicitBucketBoundaries` of `http.server.request.duration`, in ms.
        let conventions = [
            5, 10, 25, 50, 75, 100, 250, 500, 750, 1_000, 2_500, 5_000, 7_500, 10_000,
        ];
        for bound in conventions {
            assert!(BOUNDS.contains(&(bound * 1_000)), "{bound} ms");
        }
    }

    #[test]
    fn a_percentile_lies_within_its_bucket() {
        // A hundred, spread over the bucket from 100 to 150 µs.
        let calls = of((0..100).map(|index| 101 + index / 2));
        assert_eq!(calls.percentile(50), Some(About(micros(125))));
        assert_eq!(calls.percentile(99), Some(About(micros(149))));
        assert_eq!(calls.percentile(100), Some(About(micros(150))));
        assert_eq!(of([10]).percentile(50), Some(About(micros(25))));
    }

    #[test]
    fn a_few_slow_ones_move_the_99th_percentile_and_not_the_median() {
        let calls = of([60; 97].into_iter().chain([2_000_000; 3]));
        let Some(About(median)) = calls.percentile(50) else {
            panic!("{calls:?}");
        };
        assert!(median > micros(50) && median < micros(75), "{median:?}");
        assert_eq!(calls.percentile(99), Some(About(micros(2_000_000))));
    }

    #[test]
    fn what_is_above_the_last_bound_has_no_figure_but_that_bound() {
        let calls = of([11_000_000, 60_000_000]);
        assert_eq!(calls.percentile(50), Some(Above(micros(10_000_000))));
        assert_eq!(of([]).percentile(99), None);
    }

    #[test]
    fn what_came_since_is_the_difference() {
        let before = of([60, 60]);
        let mut now = before;
        now.add(&of([3_000]));
        assert_eq!(now.since(&before), of([3_000]));
        assert_eq!(now.since(&now).percentile(50), None);
    }
}
