//! [`Backoff`]: pauses that grow.

use std::time::Duration;

/// The pauses after failures: `base` after the first failure, `factor` times longer after each
/// further one, and at most `limit`. A random share of up to `jitter` lengthens or shortens each
/// pause, so that clients that fail together do not come back together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Backoff {
    pub(crate) base: Duration,
    pub(crate) factor: f64,
    pub(crate) limit: Duration,
    pub(crate) jitter: f64,
}

impl Backoff {
    /// Returns the pause after this many failures.
    pub(crate) fn pause(&self, failures: u32) -> Duration {
        self.pause_at(failures, fastrand::f64())
    }

    /// `random` is from 0 to 1.
    fn pause_at(&self, failures: u32, random: f64) -> Duration {
        let exponent = i32::try_from(failures.saturating_sub(1)).unwrap_or(i32::MAX);
        let seconds = self.base.as_secs_f64() * self.factor.powi(exponent);
        let seconds = seconds.min(self.limit.as_secs_f64());
        Duration::from_secs_f64(seconds * (1.0 + self.jitter * (2.0 * random - 1.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff {
        base: Duration::from_millis(100),
        factor: 1.6,
        limit: Duration::from_secs(10),
        jitter: 0.2,
    };

    #[test]
    fn pauses_grow_up_to_the_limit() {
        let pause = |failures| BACKOFF.pause_at(failures, 0.5).as_millis();
        assert_eq!([1, 2, 3, 4].map(pause), [100, 160, 256, 409]);
        assert_eq!([11, 12, 1_000, u32::MAX].map(pause), [10_000; 4]);
    }

    #[test]
    fn the_jitter_is_a_share_of_the_pause() {
        assert_eq!(BACKOFF.pause_at(1, 0.0), Duration::from_millis(80));
        assert_eq!(BACKOFF.pause_at(1, 1.0), Duration::from_millis(120));
        assert_eq!(BACKOFF.pause_at(99, 1.0), Duration::from_secs(12));
    }
}
