//! [`RetryPolicy`]: when a client makes further attempts of a call.

use std::time::Duration;

use tonic::Code;

use crate::backoff::Backoff;

/// When a client makes further attempts of a call.
///
/// ```
/// use common::client::{Config, RetryPolicy};
///
/// let once = RetryPolicy { attempts: 1, ..RetryPolicy::default() };
/// let config = Config { retries: once, ..Config::default() };
/// assert_eq!(Config::default().retries.attempts, 3);
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct RetryPolicy {
    /// The most attempts of one call, with the first.
    pub attempts: u32,
    /// The pause before the second attempt. Each further one is twice as long, give or take a half.
    pub pause: Duration,
    /// The longest pause.
    pub longest_pause: Duration,
    /// The further attempts of all calls of the process, as a share of the calls of the last ten
    /// seconds (the figure of linkerd and finagle).
    pub budget: f64,
    /// The further attempts that the process may make each second beside that.
    pub budget_per_second: f64,
    /// The codes after which an idempotent call may be retried. Whether it is, follows from how the
    /// attempt ended: a status of `PERMISSION_DENIED` never is.
    pub codes: Vec<Code>,
    /// Whether a call of an idempotent unary method gets a second attempt beside one that is late.
    /// `option (mesh.hedge) = "off"` turns that off for a method.
    pub hedging: bool,
    /// The most memory of a request stream that is kept for another attempt, in bytes. Once more has
    /// been sent, no attempt follows.
    pub kept_request: usize,
    /// How much of a response with one message is read before the caller gets it, in bytes. Up to
    /// there an attempt that fails can be followed by another.
    pub read_ahead: usize,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: 3,
            pause: Duration::from_millis(25),
            longest_pause: Duration::from_secs(1),
            budget: 0.2,
            budget_per_second: 10.0,
            codes: vec![
                Code::Unavailable,
                Code::ResourceExhausted,
                Code::Internal,
                Code::Unknown,
                Code::DataLoss,
                // Where these come from a response that is not gRPC:
                Code::Unimplemented,
                Code::PermissionDenied,
            ],
            hedging: true,
            kept_request: 64 * 1_024,
            read_ahead: 64 * 1_024,
        }
    }
}

impl RetryPolicy {
    /// The pause after this many attempts.
    pub(crate) fn pause_after(&self, attempts: u32) -> Duration {
        let backoff = Backoff {
            base: self.pause,
            factor: 2.0,
            limit: self.longest_pause,
            jitter: 0.5,
        };
        backoff.pause(attempts)
    }
}
