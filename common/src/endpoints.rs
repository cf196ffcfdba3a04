//! The paths that every HTTP port serves.

/// Whether the process lives.
pub(crate) const LIVE: &str = "/healthz";

/// Whether the process wants traffic. The subcommand `healthcheck` requests it.
pub(crate) const READY: &str = "/readyz";

/// The metrics of the process.
pub(crate) const METRICS: &str = "/metrics";

pub(crate) const ALL: [&str; 3] = [LIVE, READY, METRICS];
