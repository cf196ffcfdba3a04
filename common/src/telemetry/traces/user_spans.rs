//! [`UserSpans`]: makes spans of a service's own `tracing` spans, such as those of `#[instrument]`.
//! Their parent is the span of the request, or the `tracing` span around them.

use std::fmt;

use opentelemetry::{KeyValue, Value, trace::SpanKind};
use tokio::time::Instant;
use tracing::{
    Subscriber, dispatcher,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
};
use tracing_subscriber::{
    Layer, Registry,
    layer::Context,
    registry::{LookupSpan, SpanRef},
};

use super::spans;
use crate::request::{context, trace::Trace};

/// The most fields of a span.
const MAX_FIELDS: usize = 32;

/// The innermost `tracing` span entered on this thread, if the request is recorded.
pub(crate) fn current_span() -> Option<u64> {
    dispatcher::get_default(|dispatch| {
        let registry = dispatch.downcast_ref::<Registry>()?;
        innermost(&registry.span(dispatch.current_span().id()?)?)
    })
}

/// The id of this span or, if it is not recorded, of the nearest one around it that is.
fn innermost<'a, S: LookupSpan<'a>>(span: &SpanRef<'a, S>) -> Option<u64> {
    let id_of = |span: SpanRef<'a, S>| Some(span.extensions().get::<Recorded>()?.trace.numbers().1);
    span.scope().find_map(id_of)
}

/// The layer. Outside of a request that is recorded, it does nothing.
#[derive(Debug)]
pub(crate) struct UserSpans;

/// A span that is recorded.
struct Recorded {
    trace: Trace,
    begin: Instant,
    fields: Vec<KeyValue>,
}

impl<S> Layer<S> for UserSpans
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        context::with_current(|request| {
            let trace = request.and_then(|request| request.shared.trace.as_deref());
            let Some(trace) = trace.filter(|trace| trace.recording.is_some()) else {
                return;
            };
            let Some(span) = context.span(id) else {
                return;
            };
            let outer = span.parent().and_then(|outer| innermost(&outer));
            let mut recorded = Recorded {
                trace: trace.child(outer),
                begin: Instant::now(),
                fields: Vec::new(),
            };
            attributes.record(&mut Fields(&mut recorded.fields));
            span.extensions_mut().insert(recorded);
        });
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(recorded) = span.extensions_mut().get_mut::<Recorded>()
        {
            values.record(&mut Fields(&mut recorded.fields));
        }
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let Some(span) = context.span(&id) else {
            return;
        };
        if let Some(recorded) = span.extensions_mut().remove::<Recorded>() {
            let Recorded {
                trace,
                begin,
                fields,
            } = recorded;
            let name = span.name().into();
            spans::end(
                &trace,
                SpanKind::Internal,
                name,
                begin.elapsed(),
                fields,
                None,
            );
        }
    }
}

/// Collects fields as attributes.
struct Fields<'a>(&'a mut Vec<KeyValue>);

impl Fields<'_> {
    fn add(&mut self, field: &Field, value: impl Into<Value>) {
        if self.0.len() < MAX_FIELDS {
            self.0.push(KeyValue::new(field.name(), value));
        }
    }
}

impl Visit for Fields<'_> {
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        match i64::try_from(value) {
            Ok(value) => self.add(field, value),
            Err(_) => self.add(field, value.to_string()),
        }
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, spans::text(value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, spans::text(&format!("{value:?}")));
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use opentelemetry_sdk::trace::SpanData;
    use tracing::{info_span, instrument};
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;
    use crate::request::{
        context::{Context as Request, Deadline},
        id::RequestId,
        trace::Recording,
    };
    use crate::telemetry::traces::{buffer, of_attempt};

    #[instrument]
    async fn outer(order: u32) {
        inner().await;
    }

    #[instrument(fields(text = "a text"))]
    async fn inner() {
        if let Some((_, attempt)) = of_attempt() {
            let name = "attempt".into();
            spans::end(
                &attempt,
                SpanKind::Client,
                name,
                Duration::ZERO,
                Vec::new(),
                None,
            );
        }
        tokio::task::yield_now().await;
    }

    async fn spans_of(recording: Option<Recording>) -> Vec<SpanData> {
        let trace = Trace::new(1, 2, true);
        let trace = match recording {
            Some(recording) => trace.recorded(recording),
            None => trace,
        };
        let deadline = Deadline::after(Duration::from_secs(1));
        let request = Request::new(RequestId::fresh(), deadline)
            .with(|shared| shared.trace = Some(Arc::new(trace)));
        let _subscriber = tracing::subscriber::set_default(Registry::default().with(UserSpans));
        info_span!("outside of any request").in_scope(|| {});
        request.scope(outer(17)).await;
        assert_eq!(current_span(), None);
        buffer::take_mine()
    }

    #[tokio::test]
    async fn spans_of_the_service_are_between_the_request_and_its_calls() {
        let recording = Recording {
            parent: None,
            is_remote: false,
        };
        let spans = spans_of(Some(recording)).await;
        let [attempt, inner, outer] = &spans[..] else {
            panic!("{spans:?}");
        };
        assert_eq!((&*outer.name, &*inner.name), ("outer", "inner"));
        assert_eq!(outer.parent_span_id.to_bytes(), 2_u64.to_be_bytes());
        assert_eq!(inner.parent_span_id, outer.span_context.span_id());
        assert_eq!(attempt.parent_span_id, inner.span_context.span_id());
        assert_eq!(outer.attributes, [KeyValue::new("order", 17)]);
        assert_eq!(inner.attributes, [KeyValue::new("text", "a text")]);
    }

    #[tokio::test]
    async fn a_request_that_is_not_recorded_has_no_spans() {
        assert!(spans_of(None).await.is_empty());
    }
}
