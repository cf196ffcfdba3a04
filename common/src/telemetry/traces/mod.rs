//! Spans for OpenTelemetry: one for each request, one for each attempt of a call, and those of the
//! service's own `tracing` spans within a request.
//!
//! | file | contents |
//! |---|---|
//! | `settings` | the variables `OTEL_…`, and the sampler |
//! | `spans` | a span of a request or of an attempt, from what the layers know at its end |
//! | `own` | the layer that makes spans of a service's own `tracing` spans |
//! | `buffer` | the spans of each thread, bounded, until they are exported |
//! | `export` | the thread that exports them over OTLP |
//!
//! The spans are not those of the SDK. Its tracer keeps a live span for each request and attaches a
//! context at each poll; here, the [`Context`](crate::Context) already travels with the request, and
//! all of a span is known at its end. So a request that is not sampled builds no span, and a worker
//! never meets the exporter: it pushes what has ended on a list of its own.

mod buffer;
mod export;
mod settings;
pub(crate) mod spans;
mod user_spans;

use std::sync::{Arc, OnceLock};

pub(crate) use self::{
    export::finish,
    spans::{Attempt, Request},
    user_spans::OwnSpans,
};
use self::{settings::Sampler, user_spans::current_span};
use crate::request::{
    context::{self, Context},
    trace::{Recording, Trace},
};

static SAMPLER: OnceLock<Sampler> = OnceLock::new();

/// Starts to record and to export spans, if the environment says where to. `service` is the name of
/// the service, unless the environment has another.
pub(crate) fn init(service: &str) {
    if let Some(settings) = settings::of_environment()
        && export::start(service, settings.protocol)
    {
        let _ = SAMPLER.set(settings.sampler);
    }
}

/// The trace of a request that came with `inbound`. Without spans, it is passed on as it came.
pub(crate) fn of_request(inbound: Option<Trace>) -> Option<Trace> {
    let Some(sampler) = SAMPLER.get() else {
        return inbound;
    };
    let span_id = fastrand::u64(1..);
    let recording = |parent| Recording {
        parent,
        is_remote: true,
    };
    match inbound {
        Some(inbound) if sampler.follows(&inbound) => {
            let parent = Some(inbound.numbers().1);
            Some(inbound.at(span_id, true).recorded(recording(parent)))
        }
        Some(inbound) if inbound.is_sampled() => Some(inbound.at(span_id, false)),
        // Nothing is recorded, so it may go on as it came.
        Some(inbound) => Some(inbound),
        None => {
            let trace_id = fastrand::u128(1..);
            if sampler.samples(trace_id) {
                let trace = Trace::new(trace_id, span_id, true);
                Some(trace.recorded(recording(None)))
            } else {
                Some(Trace::new(trace_id, span_id, false))
            }
        }
    }
}

/// The context of an attempt in the request in hand, if its span is recorded.
pub(crate) fn of_attempt() -> Option<(Context, Arc<Trace>)> {
    context::with_current(|context| {
        let trace = context?.shared.trace.as_deref();
        let child = Arc::new(child_of(trace.filter(|it| it.recording.is_some())?));
        let context = context?.clone();
        let context = context.with(|shared| shared.trace = Some(child.clone()));
        Some((context, child))
    })
}

/// A span below the one in hand: a span of the service's own, or else the one of the request.
fn child_of(trace: &Trace) -> Trace {
    let recording = Recording {
        parent: Some(current_span().unwrap_or_else(|| trace.numbers().1)),
        is_remote: false,
    };
    trace.at(fastrand::u64(1..), true).recorded(recording)
}
