//! [`Histogram`]: how many durations fell into each bucket, and the percentiles that follow.

use std::time::Duration;

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
