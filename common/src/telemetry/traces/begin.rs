//! Starts to record: the process ([`init`]), a request, an attempt.

use std::sync::{Arc, OnceLock};

use super::{
    export,
    settings::{self, Sampler},
    user_spans::current_span,
};
use crate::request::{
    context::{self, Context},
    trace::{Recording, Trace},
};

static SAMPLER: OnceLock<Sampler> = OnceLock::new();

/// Starts to record and to export spans, if the environment says where to. The environment may name
/// another service or version than these.
pub(crate) fn init(service: &str, version: &str) {
    if let Some(settings) = settings::of_environment()
        && export::start(service, version, settings.collector)
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
        // Nothing is recorded, so the trace is passed on unchanged.
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

/// The context of an attempt of the current request, if the request is recorded. The parent of its
/// span is the innermost span of the service, or else the span of the request.
pub(crate) fn of_attempt() -> Option<(Context, Arc<Trace>)> {
    context::with_current(|context| {
        let trace = context?.shared.trace.as_deref();
        let trace = trace.filter(|it| it.recording.is_some())?;
        let child = Arc::new(trace.child(current_span()));
        let context = context?.clone();
        let context = context.with(|shared| shared.trace = Some(child.clone()));
        Some((context, child))
    })
}
