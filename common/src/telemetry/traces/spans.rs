//! [`RequestSpan`] and [`AttemptSpan`]: what the layers know of a request or an attempt at its end, and the
//! span that it makes. The names are those of OpenTelemetry's semantic conventions.

use std::{
    borrow::Cow,
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use opentelemetry::{
    InstrumentationScope, KeyValue, SpanId, TraceFlags, TraceId, Value,
    trace::{SpanContext, SpanKind, Status},
};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};
use tonic::Code;

use super::buffer;
use crate::{
    request::{
        dialect::{Dialect, Ended, code_name},
        trace::Trace,
    },
    telemetry::metrics,
};

/// The longest text of an attribute, in bytes: clients choose paths.
const MAX_TEXT: usize = 1_024;

/// The most attributes of a span of ours, so that their list does not grow.
const MOST_ATTRIBUTES: usize = 9;

/// A request that has ended.
#[derive(Debug)]
#[allow(clippy::struct_field_names)] // `request_id` is its name everywhere
pub(crate) struct RequestSpan<'a> {
    pub(crate) trace: &'a Trace,
    pub(crate) request_id: &'a str,
    pub(crate) client: &'a str,
    pub(crate) dialect: &'static dyn Dialect,
    pub(crate) ended: Ended<'a>,
}

impl RequestSpan<'_> {
    /// Records the span.
    pub(crate) fn record(self) {
        let mut attributes = Vec::with_capacity(MOST_ATTRIBUTES);
        attributes.extend([
            KeyValue::new("request_id", text(self.request_id)),
            KeyValue::new("client.address", text(self.client)),
        ]);
        let (name, error) = self.dialect.describe(&self.ended, &mut attributes);
        // That the client went away is no error of the server.
        let cut_by = self.ended.cut_by;
        let cut_by = cut_by.filter(|cause| *cause != metrics::CLIENT_GONE);
        end(
            self.trace,
            SpanKind::Server,
            name.into(),
            self.ended.took,
            attributes,
            error.or(cut_by.map(Into::into)),
        );
    }
}

/// An attempt of a call that has ended.
#[derive(Debug)]
pub(crate) struct AttemptSpan<'a> {
    pub(crate) trace: &'a Trace,
    pub(crate) method: &'a str,
    pub(crate) replica: SocketAddr,
    pub(crate) code: Code,
    pub(crate) took: Duration,
}

impl AttemptSpan<'_> {
    /// Records the span.
    pub(crate) fn record(self) {
        let mut attributes = Vec::with_capacity(MOST_ATTRIBUTES);
        attributes.extend([
            KeyValue::new("server.address", self.replica.ip().to_string()),
            KeyValue::new("server.port", i64::from(self.replica.port())),
        ]);
        attributes.extend(of_rpc(self.method, self.code));
        let error = (self.code != Code::Ok).then(|| code_name(self.code).into());
        let name = self.method.to_owned().into();
        end(
            self.trace,
            SpanKind::Client,
            name,
            self.took,
            attributes,
            error,
        );
    }
}

/// The attributes of a request or call over gRPC.
pub(crate) fn of_rpc(method: &str, code: Code) -> impl Iterator<Item = KeyValue> {
    let (service, name) = method.rsplit_once('/').unwrap_or(("", method));
    [
        KeyValue::new("rpc.system", "grpc"),
        KeyValue::new("rpc.service", text(service)),
        KeyValue::new("rpc.method", text(name)),
        KeyValue::new("rpc.grpc.status_code", code as i64),
    ]
    .into_iter()
}

/// A text, cut to its limit.
pub(crate) fn text(text: &str) -> Value {
    text[..text.floor_char_boundary(MAX_TEXT)].to_owned().into()
}

/// Records a span that ends now, and lasted this long. `error` is its `error.type`, if it failed. Its status has
/// no description: that would say the same.
pub(crate) fn end(
    trace: &Trace,
    kind: SpanKind,
    name: Cow<'static, str>,
    took: Duration,
    mut attributes: Vec<KeyValue>,
    error: Option<Cow<'static, str>>,
) {
    let Some(recording) = &trace.recording else {
        return;
    };
    let end_time = SystemTime::now();
    let status = match &error {
        Some(_) => Status::error(""),
        None => Status::Unset,
    };
    attributes.extend(error.map(|error| KeyValue::new("error.type", error)));
    let (trace_id, span_id) = trace.numbers();
    let state = trace.state().and_then(|state| state.parse().ok());
    let id = |id: u64| SpanId::from_bytes(id.to_be_bytes());
    buffer::push(SpanData {
        span_context: SpanContext::new(
            TraceId::from_bytes(trace_id.to_be_bytes()),
            id(span_id),
            TraceFlags::SAMPLED,
            false,
            state.unwrap_or_default(),
        ),
        parent_span_id: recording.parent.map_or(SpanId::INVALID, id),
        parent_span_is_remote: recording.is_remote && recording.parent.is_some(),
        span_kind: kind,
        name,
        start_time: end_time.checked_sub(took).unwrap_or(end_time),
        end_time,
        attributes,
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status,
        instrumentation_scope: scope(),
    });
}

fn scope() -> InstrumentationScope {
    InstrumentationScope::builder(env!("CARGO_PKG_NAME"))
        .with_version(env!("CARGO_PKG_VERSION"))
        .build()
}

#[cfg(test)]
pub(crate) mod tests {
    use http::{Method, Version};

    use super::*;
    use crate::{
        dialect::{grpc::GRPC, http::HTTP},
        request::trace::Recording,
    };

    pub(crate) fn span(name: &'static str) -> SpanData {
        SpanData {
            span_context: SpanContext::empty_context(),
            parent_span_id: SpanId::INVALID,
            parent_span_is_remote: false,
            span_kind: SpanKind::Internal,
            name: name.into(),
            start_time: SystemTime::UNIX_EPOCH,
            end_time: SystemTime::UNIX_EPOCH,
            attributes: Vec::new(),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: scope(),
        }
    }

    fn recorded(record: impl FnOnce(&Trace)) -> SpanData {
        let recording = Recording {
            parent: Some(3),
            is_remote: true,
        };
        record(&Trace::new(7, 5, true).recorded(recording));
        buffer::take_mine().pop().expect("it is recorded")
    }

    fn attribute(span: &SpanData, name: &str) -> String {
        let mut all = span.attributes.iter();
        let found = all.find(|attribute| attribute.key.as_str() == name);
        found
            .map(|attribute| attribute.value.to_string())
            .unwrap_or_default()
    }

    /// The span of a request over HTTP, or over gRPC if it has a code.
    fn request(path: &str, status: u16, code: Option<Code>) -> SpanData {
        cut(path, status, code, None)
    }

    fn cut(path: &str, status: u16, code: Option<Code>, cut_by: Option<&'static str>) -> SpanData {
        recorded(|trace| {
            RequestSpan {
                trace,
                request_id: "order-17",
                client: "192.0.2.1",
                dialect: if code.is_some() { GRPC } else { HTTP },
                ended: Ended {
                    method: &Method::GET,
                    path,
                    version: Version::HTTP_11,
                    scheme: Some("https"),
                    route: Some("/orders/{id}"),
                    status,
                    code,
                    cut_by,
                    is_stopped: false,
                    took: Duration::from_millis(5),
                },
            }
            .record();
        })
    }

    #[test]
    fn a_request_makes_a_span_of_the_conventions() {
        let span = request("/orders/17", 200, None);
        assert_eq!(span.name, "GET /orders/{id}");
        assert_eq!(span.status, Status::Unset);
        assert_eq!(span.parent_span_id, SpanId::from_bytes(3_u64.to_be_bytes()));
        assert_eq!(attribute(&span, "url.path"), "/orders/17");
        assert_eq!(attribute(&span, "url.scheme"), "https");
        assert_eq!(attribute(&span, "request_id"), "order-17");
        let took = span.end_time.duration_since(span.start_time).unwrap();
        assert_eq!(took, Duration::from_millis(5));
        let failed = request("/orders/17", 503, None);
        assert_eq!(failed.status, Status::error(""));
        assert_eq!(attribute(&failed, "error.type"), "503");
        assert_eq!(request("/orders/17", 404, None).status, Status::Unset);
        // The caller's fault is no error of the server.
        assert_eq!(
            request("/", 200, Some(Code::NotFound)).status,
            Status::Unset
        );
        let failed = request("/", 200, Some(Code::Internal));
        assert_eq!(attribute(&failed, "error.type"), "INTERNAL");
    }

    #[test]
    fn a_response_that_the_service_has_cut_is_an_error() {
        let cut = |cut_by| cut("/", 200, None, Some(cut_by));
        assert_eq!(cut("deadline").status, Status::error(""));
        assert_eq!(attribute(&cut("drain"), "error.type"), "drain");
        assert_eq!(cut(metrics::CLIENT_GONE).status, Status::Unset);
    }

    #[test]
    fn a_client_does_not_choose_the_size_of_a_span() {
        let span = request(&"/ä".repeat(10_000), 404, None);
        assert!(attribute(&span, "url.path").len() <= MAX_TEXT);
    }
}
