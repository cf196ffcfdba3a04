//! [`CalledMethod`]: what a client knows of a method.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use super::latencies::{Latencies, UsualLatency};
use crate::{
    request::{dialect::rpc_method, methods::Method},
    telemetry::metrics,
};

/// The time after which a response is late while the usual latency of its method is not known: until
/// the first ten responses, and for ever if the method is not declared.
const LATE_UNTIL_KNOWN: Duration = Duration::from_millis(500);

/// Whether the data of a message can be decoded.
pub(crate) type Check = fn(&[u8]) -> bool;

/// What a client knows of a method.
#[derive(Debug)]
pub(crate) struct CalledMethod {
    /// The method with its service, for metrics.
    pub(crate) name: String,
    pub(crate) declared: Method,
    /// `None` for methods that are not declared, which may be any.
    latencies: Option<Latencies>,
    /// The check that a response of a replica did not pass, once there was one.
    check: OnceLock<Check>,
    /// Whether a response was refused for its length.
    was_too_long: AtomicBool,
}

impl CalledMethod {
    pub(crate) fn new(path: &str, declared: Method, usual: Arc<UsualLatency>) -> Self {
        Self {
            name: rpc_method(path).to_owned(),
            declared,
            latencies: Some(Latencies::new(usual)),
            check: OnceLock::new(),
            was_too_long: AtomicBool::new(false),
        }
    }

    /// All methods that are not declared.
    pub(crate) fn undeclared() -> Self {
        Self {
            name: metrics::OTHER.to_owned(),
            declared: Method::default(),
            latencies: None,
            check: OnceLock::new(),
            was_too_long: AtomicBool::new(false),
        }
    }

    /// Whether a call may have two attempts at once.
    pub(crate) fn may_be_hedged(&self) -> bool {
        let Method {
            is_idempotent,
            has_one_request,
            has_one_response,
            is_never_hedged,
            ..
        } = self.declared;
        is_idempotent && has_one_request && has_one_response && !is_never_hedged
    }

    /// Whether calls last until one side ends them. Their silence says nothing.
    pub(crate) fn is_endless(&self) -> bool {
        self.declared.deadline == Some(Duration::MAX)
    }

    /// Notes that a response was refused for its length.
    pub(crate) fn set_too_long(&self) {
        self.was_too_long.store(true, Relaxed);
    }

    /// Whether a response was refused for its length.
    pub(crate) fn was_too_long(&self) -> bool {
        self.was_too_long.load(Relaxed)
    }

    /// Keeps the check that a response did not pass.
    pub(crate) fn set_check(&self, check: Check) {
        let _ = self.check.set(check);
    }

    /// The check that a response of a replica did not pass, if there was one. Methods that are not
    /// declared have different messages, and no check.
    pub(crate) fn check(&self) -> Option<Check> {
        self.latencies.as_ref()?;
        self.check.get().copied()
    }

    /// The time after which a response is late.
    pub(crate) fn late_after(&self) -> Duration {
        let usual = self.latencies.as_ref().and_then(Latencies::late_after);
        usual.unwrap_or(LATE_UNTIL_KNOWN)
    }

    /// How long half of the responses take at most, if that is known.
    pub(crate) fn usual(&self) -> Option<Duration> {
        self.latencies.as_ref()?.usual()
    }

    /// Records the latency of a good response.
    pub(crate) fn record(&self, latency: Duration) {
        if let Some(latencies) = &self.latencies {
            latencies.record(latency);
        }
    }
}
