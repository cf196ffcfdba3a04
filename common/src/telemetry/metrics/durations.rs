//! How long requests and calls took: histograms by route or method, and by how they ended. The names
//! and labels are those of OpenTelemetry's semantic conventions, as Prometheus spells them.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use http::Method;
use prometheus_client::{
    encoding::{DescriptorEncoder, NoLabelSet},
    metrics::MetricType,
};

use super::{
    counters::Counter,
    histogram::{BUCKETS, Histogram, bucket_of},
};
use crate::lock::lock;

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
static ALL: Mutex<Vec<Arc<Series>>> = Mutex::new(Vec::new());

thread_local! {
    /// The series that this thread counts in.
    static MINE: RefCell<Vec<Arc<Series>>> = const { RefCell::new(Vec::new()) };
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
    MINE.with_borrow_mut(|all| {
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
                lock(&ALL).push(series.clone());
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
    for series in &*lock(&ALL) {
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
