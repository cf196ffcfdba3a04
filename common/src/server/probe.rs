//! Where those ask who want to know how a service is.

/// Where an orchestrator asks whether the process is there at all.
pub(super) const LIVE_PATH: &str = "/healthz";

/// Where [`healthcheck`](crate::healthcheck) asks.
pub(crate) const READY_PATH: &str = "/readyz";

/// Where Prometheus asks.
pub(super) const METRICS_PATH: &str = "/metrics";

/// Whether a request asks how the service is.
pub(super) fn is_probe(path: &str) -> bool {
    matches!(path, LIVE_PATH | READY_PATH | METRICS_PATH)
        || path.starts_with("/grpc.health.v1.Health/")
}
