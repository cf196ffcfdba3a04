//! The paths that HTTP ports serve beside those of the service.

/// Whether the process lives.
pub(crate) const LIVE: &str = "/healthz";

/// Whether the process wants traffic. The subcommand `healthcheck` requests it.
pub(crate) const READY: &str = "/readyz";

/// The metrics of the process, on the port for operators.
pub(crate) const METRICS: &str = "/metrics";

/// The state of the process for people, on the port for operators.
pub(crate) const STATUS: &str = "/status";

/// The paths that every HTTP port has.
pub(crate) const ALL: [&str; 2] = [LIVE, READY];
