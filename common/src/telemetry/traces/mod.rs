//! Spans for OpenTelemetry: one for each request, one for each attempt of a call, and those of the
//! service's own `tracing` spans within a request.
//!
//! | file | contents |
//! |---|---|
//! | `settings` | the variables `OTEL_…`, and the sampler |
//! | `begin` | starts to record: the process, a request, an attempt |
//! | `follow` | the limit on requests of strangers that ask to be recorded |
//! | `spans` | the span of a request or of an attempt, from what the layers know at its end |
//! | `user_spans` | the layer that makes spans of a service's own `tracing` spans |
//! | `buffer` | the spans of each thread, bounded, until they are exported |
//! | `export` | the thread that exports them over OTLP |
//! | `client` | its HTTP, and gRPC |
//! | `last_failure` | why an export failed |
//! | `secure` | the authorities of a collector with `https` |
//!
//! The spans are not those of the SDK. Its tracer keeps a live span for each request and attaches a
//! context at each poll; here, the [`Context`](crate::Context) already travels with the request, and
//! all of a span is known at its end. So a request that is not sampled builds no span, and a worker
//! never meets the exporter: it pushes what has ended on a list of its own.

mod begin;
mod buffer;
mod client;
mod export;
mod follow;
mod last_failure;
mod secure;
mod settings;
pub(crate) mod spans;
mod user_spans;

pub(crate) use self::{
    begin::{init, of_attempt, of_request},
    export::finish,
    spans::{AttemptSpan, RequestSpan},
    user_spans::UserSpans,
};
