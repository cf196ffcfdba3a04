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
mod own;
mod settings;
mod spans;

use std::sync::{Arc, OnceLock};

pub(crate) use self::{
    export::finish,
    own::OwnSpans,
    spans::{Attempt, HttpAttempt, Request},
};
use self::{own::current_span, settings::Sampler};
use crate::{
    context,
    request::context::Context,
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
    let trace_id = match &inbound {
        Some(trace) => trace.trace_id,
        None => fastrand::u128(1..),
    };
    let is_sampled = sampler.samples(inbound.as_ref(), trace_id);
    Some(Trace {
        trace_id,
        span_id: fastrand::u64(1..),
        flags: Trace::flags_of(is_sampled),
        recording: is_sampled.then(|| Recording {
            parent: inbound.as_ref().map(|trace| trace.span_id),
            is_remote: true,
        }),
        state: inbound.and_then(|trace| trace.state),
    })
}

/// The context of an attempt in the request in hand, if its span is recorded.
pub(crate) fn of_attempt() -> Option<(Context, Arc<Trace>)> {
    SAMPLER.get()?;
    let context = context::current()?;
    let trace = context.trace.as_deref().filter(|it| it.recording.is_some());
    let child = Arc::new(child_of(trace?));
    let context = Context {
        trace: Some(child.clone()),
        ..context
    };
    Some((context, child))
}

/// A span below the one in hand: a span of the service's own, or else the one of the request.
fn child_of(trace: &Trace) -> Trace {
    Trace {
        span_id: fastrand::u64(1..),
        recording: Some(Recording {
            parent: Some(current_span().unwrap_or(trace.span_id)),
            is_remote: false,
        }),
        ..trace.clone()
    }
}
