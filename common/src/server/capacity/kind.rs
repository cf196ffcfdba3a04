//! [`Kind`]: what a request is, for the limits that apply to it.

/// Paths of the health and metrics endpoints: liveness, readiness (which
/// the subcommand `healthcheck` asks for), and the metrics for Prometheus.
pub(crate) const LIVE_PATH: &str = "/healthz";
pub(crate) const READY_PATH: &str = "/readyz";
pub(crate) const METRICS_PATH: &str = "/metrics";

/// The path of each method of the health service begins with this.
const GRPC_HEALTH: &str = "/grpc.health.v1.Health/";

/// The limits on requests in flight. Each has a count of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limit {
    InFlight,
    LongLived,
    Probes,
    Scrapes,
}

/// What a request is, for the limits that apply to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Ordinary,
    /// A call of a method that may take longer than `DEADLINE`.
    LongLived,
    /// A question about the health of the service.
    Probe,
    /// A read of the metrics.
    Scrape,
}

impl Kind {
    /// The kind of a request for this path. Probes and scrapes have limits of their own: a service
    /// at its limit must still answer them.
    pub(crate) fn of(path: &str, is_long_lived: bool) -> Self {
        match path {
            _ if is_long_lived => Self::LongLived,
            LIVE_PATH | READY_PATH => Self::Probe,
            METRICS_PATH => Self::Scrape,
            _ if path.starts_with(GRPC_HEALTH) => Self::Probe,
            _ => Self::Ordinary,
        }
    }

    /// The name for the log.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ordinary => "all",
            Self::LongLived => "long-lived",
            Self::Probe => "probes",
            Self::Scrape => "scrapes",
        }
    }

    /// The limits that apply.
    pub(crate) fn limits(self) -> &'static [Limit] {
        match self {
            Self::Ordinary => &[Limit::InFlight],
            Self::LongLived => &[Limit::LongLived, Limit::InFlight],
            Self::Probe => &[Limit::Probes],
            Self::Scrape => &[Limit::Scrapes],
        }
    }
}
