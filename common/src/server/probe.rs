//! Where those ask who want to know how a service is.

use super::places::Kind;

/// Where an orchestrator asks whether the process is there at all.
pub(super) const LIVE_PATH: &str = "/healthz";

/// Where [`healthcheck`](crate::healthcheck) asks.
pub(crate) const READY_PATH: &str = "/readyz";

/// Where Prometheus asks.
pub(super) const METRICS_PATH: &str = "/metrics";

/// What a request for this path is. Whoever asks how the service is must get an answer at its limit
/// above all, and so comes under limits of its own.
pub(super) fn kind_of(path: &str) -> Kind {
    match path {
        LIVE_PATH | READY_PATH => Kind::Probe,
        METRICS_PATH => Kind::Scrape,
        path if path.starts_with("/grpc.health.v1.Health/") => Kind::Probe,
        _ => Kind::Ordinary,
    }
}
