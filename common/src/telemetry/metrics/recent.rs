//! [`Recent`]: the requests and calls of the last minute, from snapshots of the counters.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use tokio::time::Instant;
use tonic::Code;

use super::counters::{CLIENT_GONE, Histogram, Measure, Percentile, sums};
use crate::request::dialect::is_fault_of_service;

/// The time between two snapshots.
pub(crate) const SNAPSHOT_INTERVAL: Duration = Duration::from_secs(5);

/// The snapshots that are kept: the oldest is from 55 to 60 s ago.
const MAX_SNAPSHOTS: usize = 12;

/// The most routes and methods in a snapshot, about 300 bytes each: 1 MB in all. Further
/// ones have figures since the start only.
const MAX_FOLLOWED: usize = 256;

/// Who made the requests of a route or method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Side {
    /// Clients of this process.
    Served,
    /// This process, of another service.
    Called,
}

/// The side, and the HTTP method and the route, or the gRPC method.
type Key = (Side, String);

/// What a route or method has counted since the start.
#[derive(Debug, Clone, Copy, Default)]
struct Totals {
    histogram: Histogram,
    /// Those that failed by the fault of the service.
    failed: u64,
}

impl Totals {
    fn since(&self, earlier: &Self) -> Self {
        Self {
            histogram: self.histogram.since(&earlier.histogram),
            failed: self.failed.saturating_sub(earlier.failed),
        }
    }
}

/// The counters of all threads by route and method.
#[derive(Debug, Default)]
pub(crate) struct Snapshot(BTreeMap<Key, Totals>);

/// Whether this HTTP status is the fault of the service. 501 and 505 are for what a client asks and
/// the service does not support, such as a transfer coding.
fn is_failure(status: u16) -> bool {
    status >= 500 && !matches!(status, 501 | 505)
}

/// The requests and calls up to now, by route and method.
pub(crate) fn snapshot() -> Snapshot {
    let mut totals = BTreeMap::<Key, Totals>::new();
    for ((kind, route, status, cut_by), sum) in sums() {
        let is_cut = cut_by.is_some_and(|cause| cause != CLIENT_GONE);
        let is_failed = match kind {
            _ if is_cut => true,
            Measure::HttpServer(_) => is_failure(status),
            _ => is_fault_of_service(Code::from_i32(status.into())),
        };
        let key = match kind {
            Measure::HttpServer(method) => (Side::Served, format!("{method} {route}")),
            Measure::RpcServer => (Side::Served, route),
            Measure::RpcClient => (Side::Called, route),
            Measure::RpcClientAttempt => continue,
        };
        let totals = totals.entry(key).or_default();
        totals.histogram.add(&sum.histogram);
        totals.failed += if is_failed { sum.histogram.count() } else { 0 };
    }
    Snapshot(totals)
}

/// The requests of one route or method, or the calls of one.
#[derive(Debug, Clone)]
pub(crate) struct RouteSummary {
    pub(crate) side: Side,
    /// The HTTP method and the route, or the gRPC method.
    pub(crate) name: String,
    /// Since the start.
    pub(crate) count: u64,
    pub(crate) failed: u64,
    /// Of the last minute, if the route is followed.
    pub(crate) recent: Option<Figures>,
}

/// The requests of one route or method in a window of time.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Figures {
    pub(crate) count: u64,
    pub(crate) failed: u64,
    pub(crate) per_second: f64,
    pub(crate) median: Option<Percentile>,
    pub(crate) p99: Option<Percentile>,
}

/// Snapshots of the last minute.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    snapshots: VecDeque<(Instant, Snapshot)>,
    /// The routes and methods of the snapshots.
    followed: BTreeSet<Key>,
}

impl Recent {
    /// Adds a snapshot, in place of the oldest.
    pub(crate) fn add(&mut self, at: Instant, mut snapshot: Snapshot) {
        snapshot.0.retain(|key, _| {
            let is_followed = self.followed.contains(key);
            if !is_followed && self.followed.len() < MAX_FOLLOWED {
                return self.followed.insert(key.clone());
            }
            is_followed
        });
        self.snapshots.truncate(MAX_SNAPSHOTS - 1);
        self.snapshots.push_front((at, snapshot));
    }

    /// The time that the figures are of, and the figures: from the oldest snapshot to `now`.
    pub(crate) fn summaries(&self, at: Instant, now: &Snapshot) -> (Duration, Vec<RouteSummary>) {
        let Some((since, oldest)) = self.snapshots.back() else {
            return (Duration::ZERO, Vec::new());
        };
        let window = at.saturating_duration_since(*since);
        let summary = |(key, totals): (&Key, &Totals)| {
            // A route that is not followed may be in no snapshot for lack of room.
            let is_known = self.followed.contains(key) || self.followed.len() < MAX_FOLLOWED;
            let before = oldest.0.get(key).copied().unwrap_or_default();
            let recent = totals.since(&before);
            RouteSummary {
                side: key.0,
                name: key.1.clone(),
                count: totals.histogram.count(),
                failed: totals.failed,
                recent: is_known.then(|| Figures {
                    count: recent.histogram.count(),
                    failed: recent.failed,
                    per_second: per_second(recent.histogram.count(), window),
                    median: recent.histogram.percentile(50),
                    p99: recent.histogram.percentile(99),
                }),
            }
        };
        (window, now.0.iter().map(summary).collect())
    }
}

#[allow(clippy::cast_precision_loss)] // exact for 2^53 requests
fn per_second(count: u64, window: Duration) -> f64 {
    if window.is_zero() {
        0.0
    } else {
        count as f64 / window.as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::counters::bucket_of;

    /// A snapshot of a route with this many requests of 60 µs, and as many failed.
    fn snapshot(routes: &[(&str, u64, u64)]) -> Snapshot {
        let totals = routes.iter().map(|(route, count, failed)| {
            let mut totals = Totals {
                failed: *failed,
                ..Totals::default()
            };
            totals.histogram.0[bucket_of(60)] = *count;
            ((Side::Served, (*route).to_owned()), totals)
        });
        Snapshot(totals.collect())
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn figures(recent: &Recent, at: Instant, now: &Snapshot, route: &str) -> Option<Figures> {
        let (_, rows) = recent.summaries(at, now);
        let row = rows.into_iter().find(|row| row.name == route);
        row.expect("it has a row").recent
    }

    #[test]
    fn the_figures_are_those_of_the_last_minute() {
        let start = Instant::now();
        let mut recent = Recent::default();
        // 10 requests/s for two minutes, of which the first 600 failed.
        for tick in 0..=24 {
            let count = tick * 50;
            let taken = snapshot(&[("GET /", count, count.min(600))]);
            recent.add(start + seconds(tick * 5), taken);
        }
        let at = start + seconds(120);
        let now = snapshot(&[("GET /", 1_200, 600)]);
        let (window, rows) = recent.summaries(at, &now);
        assert_eq!(window, seconds(55));
        assert_eq!((rows[0].count, rows[0].failed), (1_200, 600));
        let row = rows[0].recent.clone().expect("it is followed");
        assert_eq!((row.count, row.failed), (550, 0));
        assert!((row.per_second - 10.0).abs() < 1e-9, "{row:?}");
        let is_in_bucket = |percentile| match percentile {
            Some(Percentile::About(took)) => (50..=75).contains(&took.as_micros()),
            _ => false,
        };
        assert!(is_in_bucket(row.median) && is_in_bucket(row.p99), "{row:?}");
    }

    #[test]
    fn a_new_route_counts_from_its_first_request() {
        let start = Instant::now();
        let mut recent = Recent::default();
        recent.add(start, snapshot(&[]));
        let now = snapshot(&[("GET /new", 5, 5)]);
        let row = figures(&recent, start + seconds(10), &now, "GET /new");
        let row = row.expect("it has figures");
        assert_eq!((row.count, row.failed), (5, 5));
        assert!((row.per_second - 0.5).abs() < 1e-9);
    }

    #[test]
    fn a_route_without_requests_in_the_last_minute_has_no_percentiles() {
        let start = Instant::now();
        let mut recent = Recent::default();
        recent.add(start, snapshot(&[("GET /", 5, 1)]));
        let now = snapshot(&[("GET /", 5, 1)]);
        let row = figures(&recent, start + seconds(60), &now, "GET /").expect("figures");
        assert_eq!((row.count, row.failed, row.p99), (0, 0, None));
    }

    #[test]
    fn snapshots_are_bounded_and_what_they_lack_has_no_figures() {
        let names: Vec<_> = (0..MAX_FOLLOWED + 2)
            .map(|number| format!("GET /{number:03}"))
            .collect();
        let with = |names: &[String]| {
            let routes: Vec<_> = names.iter().map(|name| (name.as_str(), 7, 0)).collect();
            snapshot(&routes)
        };
        let start = Instant::now();
        let mut recent = Recent::default();
        // The first two come last, and find no room.
        recent.add(start, with(&names[2..]));
        for tick in 1..100 {
            recent.add(start + seconds(tick * 5), with(&names));
        }
        assert_eq!(recent.snapshots.len(), MAX_SNAPSHOTS);
        let is_bounded = |(_, one): &(Instant, Snapshot)| one.0.len() == MAX_FOLLOWED;
        assert!(recent.snapshots.iter().all(is_bounded));
        let (at, now) = (start + seconds(500), with(&names));
        assert_eq!(figures(&recent, at, &now, "GET /000"), None);
        let last = figures(&recent, at, &now, names.last().expect("there are some"));
        assert_eq!(last.expect("it is followed").count, 0);
    }
}
