//! [`context_of`]: reads the [`Context`] of a request from its headers.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, Request};
use tokio::time::Instant;
use tracing::warn;

use super::access::ConnectionInfo;
use crate::{
    limits,
    rate_limit::RateLimit,
    request::{
        context::{Context, Shared},
        deadline::{Deadline, InvalidTimeout, parse_timeout},
        id::{InvalidRequestId, RequestId},
        protocol::Protocol,
        timings::{Timings, WANT_SERVER_TIMING},
        trace::{InvalidTrace, Trace},
    },
};
#[cfg(feature = "traces")]
use crate::{server::capacity::request_class::RequestClass, telemetry::traces};

/// The faults of the headers of a request, which is served nevertheless.
#[derive(Debug)]
pub(super) struct Faults {
    request_id: Option<InvalidRequestId>,
    is_ambiguous: bool,
    timeout: Option<InvalidTimeout>,
    trace: Option<InvalidTrace>,
}

impl Faults {
    /// Logs the faults, if there are any. Must run in the context of the request.
    pub(super) fn warn(&self) {
        let has_faults = self.request_id.is_some()
            || self.is_ambiguous
            || self.timeout.is_some()
            || self.trace.is_some();
        if has_faults && let Some(untold) = WARNINGS.with(RateLimit::allow) {
            warn_of(self, untold);
        }
    }
}

/// The context of a request on this connection. Without a valid id from the client, the id is fresh.
/// The deadline is that of the method, or the client's if it is sooner.
pub(super) fn context_of<B>(
    request: &Request<B>,
    connection: &ConnectionInfo,
) -> (Context, Faults) {
    let protocol = Protocol::of(request, connection.port);
    let (request_id, is_ambiguous) = request_id_of(request.headers(), protocol);
    let (request_id, bad_id) = value_and_fault(request_id);
    let (timeout, bad_timeout) = value_and_fault(timeout_of(request.headers(), protocol));
    let (trace, bad_trace) = Trace::of(request.headers());
    #[cfg(feature = "traces")]
    let trace = match RequestClass::of(request.uri().path(), false) {
        RequestClass::Probe => trace, // a span every few seconds would tell nothing
        _ => traces::of_request(trace),
    };
    let terms = connection.paths.terms(request.uri().path());
    let arrived = Instant::now(); // everything that begins with the request shares this reading
    let timeout = timeout.map_or(terms.longest, |timeout| timeout.min(terms.longest));
    // For the `Server-Timing` header. Few calls want it over gRPC.
    let is_timed = protocol == Protocol::Http || request.headers().contains_key(WANT_SERVER_TIMING);
    let context = Context {
        deadline: Deadline::after_from(arrived, timeout),
        shared: Arc::new(Shared {
            request_id: request_id.unwrap_or_else(RequestId::fresh),
            arrived,
            protocol,
            timings: is_timed.then(|| Timings::since(arrived.into_std())),
            trace: trace.map(Arc::new),
            peer: connection.peer.clone(),
            terms,
        }),
    };
    let faults = Faults {
        request_id: bad_id,
        is_ambiguous,
        timeout: bad_timeout,
        trace: bad_trace,
    };
    (context, faults)
}

fn value_and_fault<T, E>(result: Result<Option<T>, E>) -> (Option<T>, Option<E>) {
    match result {
        Ok(value) => (value, None),
        Err(fault) => (None, Some(fault)),
    }
}

thread_local! {
    static WARNINGS: RateLimit = RateLimit::per_second(limits::HEADER_WARNINGS);
}

/// Logs the faults. `untold` requests with faults before this one were not logged.
fn warn_of(faults: &Faults, untold: u64) {
    if let Some(reason) = faults.request_id {
        warn!(
            action = "request_id",
            status = "replaced",
            %reason,
            untold,
            "the request's id is not usable; it has this fresh one instead"
        );
    }
    if faults.is_ambiguous {
        warn!(
            action = "request_id",
            status = "ambiguous",
            untold,
            "the request has another id in x-request-id; it goes by its request_id"
        );
    }
    if let Some(reason) = faults.timeout {
        warn!(
            action = "grpc_timeout",
            status = "ignored",
            %reason,
            untold,
            "the request's grpc-timeout is not usable"
        );
    }
    if let Some(reason) = faults.trace {
        warn!(
            action = "trace",
            status = "ignored",
            %reason,
            untold,
            "the request's trace headers are not usable"
        );
    }
}

/// The id that a request was sent with, if any, and whether it was sent with a different one, too.
fn request_id_of(
    headers: &HeaderMap,
    protocol: Protocol,
) -> (Result<Option<RequestId>, InvalidRequestId>, bool) {
    if protocol == Protocol::Grpc {
        let own = id_under(RequestId::GRPC_METADATA, headers);
        // Otherwise the id may be in the HTTP header: proxies drop names with an underscore.
        if let Ok(Some(_)) | Err(_) = own {
            let other = headers.get(RequestId::HTTP_HEADER);
            let differs = |id: &RequestId| other.is_some_and(|other| other != id.as_str());
            let is_ambiguous = matches!(&own, Ok(Some(id)) if differs(id));
            return (own, is_ambiguous);
        }
    }
    (id_under(RequestId::HTTP_HEADER, headers), false)
}

fn id_under(name: HeaderName, headers: &HeaderMap) -> Result<Option<RequestId>, InvalidRequestId> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => RequestId::try_from(value).map(Some),
        (Some(_), Some(_)) => Err(InvalidRequestId::Repeated),
        (None, _) => Ok(None),
    }
}

/// The `grpc-timeout` of a gRPC call, if it has one.
fn timeout_of(headers: &HeaderMap, protocol: Protocol) -> Result<Option<Duration>, InvalidTimeout> {
    let timeout = headers.get(Deadline::GRPC_TIMEOUT);
    let timeout = timeout.filter(|_| protocol == Protocol::Grpc);
    timeout.map(parse_timeout).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .fold(HeaderMap::new(), |mut headers, (name, value)| {
                headers.append::<http::HeaderName>(name, value);
                headers
            })
    }

    fn id(
        protocol: Protocol,
        pairs: &[(&'static str, &'static str)],
    ) -> Result<Option<String>, InvalidRequestId> {
        let (id, _) = request_id_of(&headers(pairs), protocol);
        id.map(|id| id.map(|id| id.to_string()))
    }

    #[test]
    fn grpc_metadata_wins_over_the_http_header() {
        let both = [("x-request-id", "http"), ("request_id", "grpc")];
        assert_eq!(id(Protocol::Grpc, &both), Ok(Some("grpc".into())));
        assert_eq!(id(Protocol::Http, &both), Ok(Some("http".into())));
        assert_eq!(id(Protocol::Grpc, &both[..1]), Ok(Some("http".into())));
        assert_eq!(id(Protocol::Http, &both[1..]), Ok(None));
    }

    #[test]
    fn two_ids_that_differ_are_ambiguous() {
        let both = [("x-request-id", "one"), ("request_id", "two")];
        let is_ambiguous = |pairs| request_id_of(&headers(pairs), Protocol::Grpc).1;
        assert!(is_ambiguous(&both));
        assert!(!is_ambiguous(&both[..1]));
        let same = [("x-request-id", "one"), ("request_id", "one")];
        assert!(!is_ambiguous(&same));
    }

    #[test]
    fn an_id_that_is_sent_twice_is_refused() {
        let twice = [("x-request-id", "one"), ("x-request-id", "one")];
        assert_eq!(id(Protocol::Http, &twice), Err(InvalidRequestId::Repeated));
    }
}
