//! How long requests took, by route and status: a histogram.

use std::{cell::RefCell, collections::BTreeMap, fmt, sync::Arc, time::Duration};

use prometheus_client::{
    encoding::{DescriptorEncoder, NoLabelSet},
    metrics::MetricType,
};

use super::{Counter, Counters, of_this_thread};
use crate::lock::lock;

/// The upper bounds of the buckets, in seconds: from a call within one machine to the default
/// deadline.
const BUCKETS: [f64; 14] = [
    0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
];

/// The route label of requests that match no route.
pub(crate) const OTHER: &str = "other";

/// The requests of one route that ended with one status.
#[derive(Debug)]
pub(super) struct Requests {
    route: String,
    status: String,
    buckets: [Counter; BUCKETS.len() + 1],
    micros: Counter,
}

thread_local! {
    /// The same as `requests` in this thread's counters, but without the lock.
    static MINE: RefCell<Vec<Arc<Requests>>> = const { RefCell::new(Vec::new()) };
}

/// Counts a request that has ended. `route` must be one of the program's own, never a client's
/// text; `status` is an HTTP status or the name of a gRPC code.
pub(crate) fn count_request(route: &str, status: &str, took: Duration) {
    MINE.with_borrow_mut(|all| {
        let is_it = |one: &Arc<Requests>| one.status == status && one.route == route;
        let known = all.iter().position(is_it).unwrap_or_else(|| {
            let requests = Arc::new(Requests {
                route: route.to_owned(),
                status: status.to_owned(),
                buckets: Default::default(),
                micros: Counter::default(),
            });
            lock(&of_this_thread().requests).push(requests.clone());
            all.push(requests);
            all.len() - 1
        });
        let seconds = took.as_secs_f64();
        let bucket = BUCKETS.partition_point(|bound| *bound < seconds);
        all[known].buckets[bucket].add(1);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        all[known].micros.add(micros);
    });
}

pub(super) fn encode(all: &[Arc<Counters>], encoder: &mut DescriptorEncoder) -> fmt::Result {
    let mut sums = BTreeMap::<(String, String), (u64, [u64; BUCKETS.len() + 1])>::new();
    for requests in all.iter().flat_map(|one| lock(&one.requests).clone()) {
        let labels = (requests.route.clone(), requests.status.clone());
        let (micros, buckets) = sums.entry(labels).or_default();
        *micros += requests.micros.get();
        for (sum, bucket) in buckets.iter_mut().zip(&requests.buckets) {
            *sum += bucket.get();
        }
    }
    let (name, kind) = ("request_duration_seconds", MetricType::Histogram);
    let help = "How long requests took to the last byte of their response";
    let mut family = encoder.encode_descriptor(name, help, None, kind)?;
    for ((route, status), (micros, buckets)) in sums {
        let bounds = BUCKETS.into_iter().chain([f64::INFINITY]);
        let buckets: Vec<_> = bounds.zip(buckets).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let seconds = Duration::from_micros(micros).as_secs_f64();
        family
            .encode_family(&[("route", route), ("status", status)])?
            .encode_histogram::<NoLabelSet>(seconds, count, &buckets, None)?;
    }
    Ok(())
}
