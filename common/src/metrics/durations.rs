//! How long requests and calls took: histograms by route or method, and by how they ended. The names
//! and labels are those of OpenTelemetry's semantic conventions, as Prometheus spells them.

use std::{cell::RefCell, collections::BTreeMap, fmt, sync::Arc, time::Duration};

use http::Method;
use prometheus_client::{
    encoding::{DescriptorEncoder, NoLabelSet},
    metrics::MetricType,
};
use tonic::Code;

use super::{Counter, Counters, of_this_thread};
use crate::{lock::lock, protocol::is_fault_of_service};

/// The upper bounds of the buckets, in microseconds: those of the conventions, and four below for
/// calls within one machine.
const BUCKETS: [u64; 18] = [
    250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 75_000, 100_000, 250_000, 500_000,
    750_000, 1_000_000, 2_500_000, 5_000_000, 7_500_000, 10_000_000,
];

/// The label of requests that match no route, and of methods that no descriptor has.
pub(crate) const OTHER: &str = "other";

/// The most series of one thread. The labels are the program's own, so this is for a program that
/// makes them up: its further series are not counted.
const MAX_SERIES: usize = 4_096;

/// What a histogram is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// An HTTP request, with its method.
    HttpServer(&'static str),
    RpcServer,
    /// A call, with all of its attempts.
    RpcClient,
    RpcClientAttempt,
}

impl Kind {
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
const HISTOGRAMS: [(&str, &str); 4] = [
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
pub(super) struct Series {
    kind: Kind,
    /// A route of HTTP, or a method of gRPC with its service.
    route: String,
    /// An HTTP status, or a gRPC code.
    status: u16,
    buckets: [Counter; BUCKETS.len() + 1],
    micros: Counter,
}

thread_local! {
    /// The same as `series` in this thread's counters, but without the lock.
    static MINE: RefCell<Vec<Arc<Series>>> = const { RefCell::new(Vec::new()) };
}

/// Counts what has ended. `route` must be one of the program's own, never a client's text; `status`
/// is an HTTP status or a gRPC code.
pub(crate) fn count_duration(kind: Kind, route: &str, status: u16, took: Duration) {
    MINE.with_borrow_mut(|all| {
        let is_it =
            |one: &Arc<Series>| one.status == status && one.kind == kind && one.route == route;
        let index = match all.iter().position(is_it) {
            Some(index) => index,
            None if all.len() < MAX_SERIES => {
                let series = Arc::new(Series {
                    kind,
                    route: route.to_owned(),
                    status,
                    buckets: Default::default(),
                    micros: Counter::default(),
                });
                lock(&of_this_thread().series).push(series.clone());
                all.push(series);
                all.len() - 1
            }
            None => return,
        };
        // Without the 128 bits of `as_micros`, and without floats.
        let micros = took.as_secs().saturating_mul(1_000_000) + u64::from(took.subsec_micros());
        let bucket = BUCKETS.partition_point(|bound| *bound < micros);
        all[index].buckets[bucket].add(1);
        all[index].micros.add(micros);
    });
}

/// The series of all threads, added up.
type Sums = BTreeMap<(Kind, String, u16), Sum>;

#[derive(Default)]
struct Sum {
    buckets: [u64; BUCKETS.len() + 1],
    micros: u64,
}

impl Sum {
    fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

fn sums(all: &[Arc<Counters>]) -> Sums {
    let mut sums = Sums::new();
    for series in all.iter().flat_map(|one| lock(&one.series).clone()) {
        let key = (series.kind, series.route.clone(), series.status);
        let sum = sums.entry(key).or_default();
        sum.micros += series.micros.get();
        for (sum, bucket) in sum.buckets.iter_mut().zip(&series.buckets) {
            *sum += bucket.get();
        }
    }
    sums
}

pub(super) fn encode(all: &[Arc<Counters>], encoder: &mut DescriptorEncoder) -> fmt::Result {
    let sums = sums(all);
    for (index, (name, help)) in HISTOGRAMS.iter().enumerate() {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for ((kind, route, status), sum) in &sums {
            if kind.histogram() != index {
                continue;
            }
            let bounds = BUCKETS.map(|micros| Duration::from_micros(micros).as_secs_f64());
            let bounds = bounds.into_iter().chain([f64::INFINITY]);
            let buckets: Vec<_> = bounds.zip(sum.buckets).collect();
            let seconds = Duration::from_micros(sum.micros).as_secs_f64();
            let status = status.to_string();
            let labels: &[(&str, &str)] = match kind {
                Kind::HttpServer(method) => &[
                    ("http_request_method", method),
                    ("http_route", route),
                    ("http_response_status_code", &status),
                ],
                _ => &[("rpc_method", route), ("rpc_grpc_status_code", &status)],
            };
            family
                .encode_family(&labels)?
                .encode_histogram::<NoLabelSet>(seconds, sum.count(), &buckets, None)?;
        }
    }
    Ok(())
}

/// The requests of one route, for people.
#[derive(Debug)]
pub(crate) struct RequestSummary {
    /// The HTTP method and the route, or the gRPC method.
    pub(crate) route: String,
    pub(crate) count: u64,
    /// Those that failed by the fault of the service.
    pub(crate) failed: u64,
    pub(crate) mean: Duration,
}

pub(super) fn summaries(all: &[Arc<Counters>]) -> Vec<RequestSummary> {
    let mut by_route = BTreeMap::<String, (u64, u64, u64)>::new();
    for ((kind, route, status), sum) in sums(all) {
        let (name, is_failed) = match kind {
            Kind::HttpServer(method) => (format!("{method} {route}"), status >= 500),
            Kind::RpcServer => (route, is_fault_of_service(Code::from_i32(status.into()))),
            Kind::RpcClient | Kind::RpcClientAttempt => continue,
        };
        let (count, failed, micros) = by_route.entry(name).or_default();
        *count += sum.count();
        *failed += if is_failed { sum.count() } else { 0 };
        *micros += sum.micros;
    }
    let summary = |(route, (count, failed, micros))| RequestSummary {
        route,
        count,
        failed,
        mean: Duration::from_micros(micros / std::cmp::max(count, 1)),
    };
    by_route.into_iter().map(summary).collect()
}
