//! [`RequestClass`]: which limits on requests in flight apply to a request; and [`PermitPool`]: these limits.

use crate::endpoints;

/// The prefix of the paths of gRPC's health service.
const GRPC_HEALTH: &str = "/grpc.health.v1.Health/";

/// The limits on requests in flight. Each has a count of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PermitPool {
    /// All requests but probes.
    Requests,
    LongLived,
    Probes,
}

/// The class of a request, which decides the limits that apply to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RequestClass {
    Ordinary,
    /// A call of a method whose deadline is longer than `DEADLINE`.
    LongLived,
    Probe,
}

impl RequestClass {
    /// The class of a request for this path. Probes have a limit of their own, because a service
    /// at its limit must still respond to them.
    pub(crate) fn of(path: &str, is_long_lived: bool) -> Self {
        match path {
            _ if is_long_lived => Self::LongLived,
            endpoints::LIVE | endpoints::READY => Self::Probe,
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
        }
    }

    /// The pools that a request of this class needs a permit of.
    pub(crate) fn pools(self) -> &'static [PermitPool] {
        match self {
            Self::Ordinary => &[PermitPool::Requests],
            Self::LongLived => &[PermitPool::LongLived, PermitPool::Requests],
            Self::Probe => &[PermitPool::Probes],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_probes_of_both_protocols_have_permits_of_their_own() {
        for path in [
            endpoints::LIVE,
            endpoints::READY,
            "/grpc.health.v1.Health/Check",
        ] {
            let class = RequestClass::of(path, false);
            assert_eq!(class.pools(), [PermitPool::Probes], "{path}");
        }
        let ordinary = RequestClass::of("/grpc.health.v1.HealthRecords/Get", false);
        assert_eq!(ordinary.pools(), [PermitPool::Requests]);
        // A health check that goes on holds its permits as any stream does.
        let watch = RequestClass::of("/grpc.health.v1.Health/Watch", true);
        assert_eq!(watch, RequestClass::LongLived);
    }

    #[test]
    fn a_log_line_names_the_requests_that_are_refused() {
        let all = [
            RequestClass::Ordinary,
            RequestClass::LongLived,
            RequestClass::Probe,
        ];
        assert_eq!(all.map(RequestClass::name), ["all", "long-lived", "probes"]);
    }
}
