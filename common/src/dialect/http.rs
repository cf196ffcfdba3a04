//! [`HTTP`]: the dialect of HTTP/1.1 and HTTP/2.

#[cfg(feature = "traces")]
use std::borrow::Cow;

#[cfg(feature = "traces")]
use http::Version;
use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CACHE_CONTROL, ETAG, LAST_MODIFIED, X_CONTENT_TYPE_OPTIONS},
};
#[cfg(feature = "traces")]
use opentelemetry::KeyValue;
use tracing::Level;

use super::grpc_timeout::{format_timeout, with_timeout};
use crate::{
    headers::all,
    request::{
        context::{self, Context, Deadline},
        dialect::{Asked, Dialect, Ended},
        id::{InvalidRequestId, RequestId},
    },
    telemetry::metrics::{self, Measure},
};
#[cfg(feature = "traces")]
use crate::{
    limits,
    telemetry::{logging::Cut, traces::spans::text},
};

/// HTTP: failures are documents, a response that breaks off is an error of its stream or connection,
/// and the end of a request is its status.
pub(crate) const HTTP: &dyn Dialect = &HttpDialect;

#[derive(Debug)]
struct HttpDialect;

/// The statuses that are the fault of this service or of one behind it. An overloaded service (503)
/// says so elsewhere, and a client chooses what is not supported (501, 505).
const FAULTS: [u16; 3] = [500, 502, 504];

impl Dialect for HttpDialect {
    fn name(&self) -> &'static str {
        "http"
    }

    fn read(&self, headers: &HeaderMap) -> Asked {
        let asked = Asked {
            is_timed: true,
            ..Asked::default()
        };
        let asked = with_timeout(asked, headers);
        asked.with_id(id_under(&RequestId::HTTP_HEADER, headers))
    }

    fn write_id(&self, id: &RequestId, headers: &mut HeaderMap) {
        headers.insert(RequestId::HTTP_HEADER, id.header_value());
    }

    /// A response is for its client and for now, unless its handler has said more of caches.
    fn protect(&self, headers: &mut HeaderMap) {
        let says_more = [CACHE_CONTROL, ETAG, LAST_MODIFIED];
        if !headers.keys().any(|name| says_more.contains(name)) {
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        }
        headers
            .entry(X_CONTENT_TYPE_OPTIONS)
            .or_insert(HeaderValue::from_static("nosniff"));
    }

    fn has_free_trailers(&self) -> bool {
        true
    }

    fn level(&self, ended: &Ended<'_>) -> Level {
        if FAULTS.contains(&ended.status) {
            Level::WARN
        } else {
            Level::INFO
        }
    }

    fn count(&self, ended: &Ended<'_>) {
        metrics::count_duration(
            Measure::http(ended.method),
            ended.route.unwrap_or(metrics::OTHER),
            ended.status,
            ended.cut_by,
            ended.took,
        );
    }

    #[cfg(feature = "traces")]
    fn describe(
        &self,
        ended: &Ended<'_>,
        attributes: &mut Vec<KeyValue>,
    ) -> (String, Option<Cow<'static, str>>) {
        attributes.extend([
            KeyValue::new("http.request.method", text(ended.method.as_str())),
            KeyValue::new("url.path", text(ended.path)),
            KeyValue::new("http.response.status_code", i64::from(ended.status)),
            KeyValue::new("network.protocol.version", version(ended.version)),
        ]);
        let route = ended.route.map(|it| KeyValue::new("http.route", text(it)));
        attributes.extend(route);
        attributes.extend(ended.scheme.map(|it| KeyValue::new("url.scheme", it)));
        let method = Cut {
            text: ended.method.as_str(),
            most: limits::LOG_METHOD,
        };
        let name = match ended.route {
            Some(route) => format!("{method} {route}"),
            None => method.to_string(),
        };
        let is_error = ended.status >= 500;
        (name, is_error.then(|| ended.status.to_string().into()))
    }
}

/// The headers that carry the current request on to a service that is called over HTTP, for clients
/// that are not of this crate: `x-request-id`; `grpc-timeout`, the time that is left until its deadline;
/// and `traceparent` and `tracestate` if the request has a trace. Outside of a request there are none.
///
/// They are those of one attempt, made now: a later attempt has less time. A service of this crate ends
/// the request at that time; bound the call by what is left of the
/// [`deadline`](crate::context::deadline), too, for the other service may not know the header.
///
/// ```
/// use common::{Context, Deadline, context};
/// use std::time::Duration;
///
/// let deadline = Deadline::after(Duration::from_secs(10));
/// let request = Context::new("order-17".parse().unwrap(), deadline);
/// let headers = request.sync_scope(context::outbound_headers);
/// assert_eq!(headers["x-request-id"], "order-17");
/// assert!(headers.contains_key("grpc-timeout"));
/// assert!(context::outbound_headers().is_empty());
/// ```
pub fn outbound_headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Some(context) = context::current() {
        HTTP.write_id(context.request_id(), &mut headers);
        write_onward(&context, &mut headers);
    }
    headers
}

/// Writes what is left of the deadline of a request, and its trace: the same for a call over gRPC.
pub(crate) fn write_onward(context: &Context, headers: &mut HeaderMap) {
    let left = context.deadline.remaining().unwrap_or_default();
    headers.insert(Deadline::GRPC_TIMEOUT, format_timeout(left));
    if let Some(trace) = &context.shared.trace {
        trace.write_to(headers);
    }
}

/// The id in the header with this name, if there is one.
pub(super) fn id_under(
    name: &HeaderName,
    headers: &HeaderMap,
) -> Result<Option<RequestId>, InvalidRequestId> {
    let mut values = all(headers, name);
    match (values.next(), values.next()) {
        (Some(value), None) => RequestId::try_from(value).map(Some),
        (Some(_), Some(_)) => Err(InvalidRequestId::Repeated),
        (None, _) => Ok(None),
    }
}

#[cfg(feature = "traces")]
fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "2",
        Version::HTTP_10 => "1.0",
        _ => "1.1",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::request::context::Context;

    #[tokio::test(start_paused = true)]
    async fn outbound_headers_give_the_next_service_what_is_left() {
        let deadline = Deadline::after(Duration::from_secs(10));
        let request = Context::new("order-17".parse().unwrap(), deadline);
        for (pause, left) in [(0, "10000m"), (4, "6000m"), (6, "0n"), (1, "0n")] {
            tokio::time::advance(Duration::from_secs(pause)).await;
            let headers = request.clone().sync_scope(outbound_headers);
            assert_eq!(headers[Deadline::GRPC_TIMEOUT], left);
            assert_eq!(headers["x-request-id"], "order-17");
        }
        assert!(outbound_headers().is_empty());
    }
}
