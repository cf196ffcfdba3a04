//! The paths that HTTP ports serve beside those of the service.

/// The liveness check.
pub(crate) const LIVE: &str = "/healthz";

/// The readiness check, which the subcommand `healthcheck` requests.
pub(crate) const READY: &str = "/readyz";

/// The metrics of the process, on the port for operators.
pub(crate) const METRICS: &str = "/metrics";

/// The state of the process for people, on the port for operators.
pub(crate) const STATUS: &str = "/status";

/// The style sheet of that page.
pub(crate) const STATUS_STYLE: &str = "/status.css";

/// The description of the API for people, and for programs, where a service has one.
pub(crate) const DOCS: &str = "/docs";
pub(crate) const OPENAPI: &str = "/openapi.json";

/// The icon that browsers request on their own.
pub(crate) const ICON: &str = "/favicon.ico";

/// The paths that every HTTP port has.
pub(crate) const ALL: [&str; 2] = [LIVE, READY];

/// The routes of every service.
const OWN: [&str; 9] = [
    LIVE,
    READY,
    METRICS,
    STATUS,
    STATUS_STYLE,
    DOCS,
    "/docs.css",
    OPENAPI,
    ICON,
];

/// Whether a route or a method is one of every service. Operators look for those of the service
/// first.
pub(crate) fn is_own(route: &str) -> bool {
    OWN.contains(&route) || route.starts_with("grpc.") // health and reflection
}
