//! Bunyan JSON records on stdout, one a line, each with the id of the request in hand.
//!
//! The records are [`tracing`] events in the format of [`tracing_bunyan_formatter`]. Four things
//! are ours:
//!
//! - **No span lines.** The formatter writes a START and an END record for each span; only
//!   events are passed on to it.
//! - **The `request_id` field comes from the [`Context`](crate::Context)**, not from a span, so
//!   there is one source of truth, no filter can switch it off, and a request pays for no span.
//!   It is the last field of a record; a record made outside of any request has `""`.
//! - **An event outside of any span is written without the formatter**, in the same format:
//!   `record`, which its tests hold against it. Spans of your own work as ever: their name is in
//!   `msg`, their fields are in the record, and the formatter writes it.
//! - **Each worker has a buffer of its own**, written out when the worker runs out of work, at
//!   [`BUFFER_LIMIT`], at the end and on panic. So no line waits while nothing happens, and no
//!   line costs a system call of its own under load. Other threads write at once. A reader of
//!   stdout that can't keep up holds nobody up: what it does not take within a second is dropped,
//!   counted and told (`stdout`).
//!
//! Field names that bunyan has for itself (`name`, `msg`, `level`, `time`, `pid`, `hostname`,
//! `v`) are dropped, so do not use them, nor `request_id`.

mod buffer;
mod filter;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod json;
mod record;
pub(crate) mod stdout;
mod time;

use std::panic::{self, PanicHookInfo};

use tracing::{Event, Subscriber, error};
use tracing_bunyan_formatter::{BunyanFormattingLayer, JsonStorageLayer};
use tracing_subscriber::{
    Layer, Registry,
    filter::Targets,
    layer::{Context, SubscriberExt},
    registry::LookupSpan,
};

pub(crate) use self::buffer::{buffer_this_thread, flush};
pub use self::{
    buffer::BUFFER_LIMIT,
    filter::{InvalidFilter, parse_filter},
};
use self::{buffer::Writer, record::Format};

/// Sends all events that pass `filter` to stdout under the name of `service`, and panics too.
///
/// # Panics
///
/// When it is called a second time in one process.
pub fn init(service: &'static str, filter: Targets) {
    let subscriber = Registry::default()
        .with(filter)
        .with(JsonStorageLayer)
        .with(Events {
            format: Format::new(service),
            formatter: BunyanFormattingLayer::new(service.into(), Writer),
        });
    tracing::subscriber::set_global_default(subscriber).expect("called once in a process");
    panic::set_hook(Box::new(log_panic));
}

/// One record for a panic, in place of the text that Rust prints to stderr.
fn log_panic(info: &PanicHookInfo<'_>) {
    let location = info.location().map(ToString::to_string).unwrap_or_default();
    let reason = info.payload_as_str().unwrap_or("not a text");
    error!(
        action = "panic",
        status = "failure",
        location,
        reason,
        "panicked"
    );
    flush();
}

/// Writes events, and of spans nothing.
struct Events<F> {
    format: Format,
    formatter: F,
}

impl<S, F> Layer<S> for Events<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    F: Layer<S>,
{
    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        if context.lookup_current().is_some() {
            self.formatter.on_event(event, context);
        } else {
            buffer::write(|lines| self.format.append(event, lines));
        }
    }
}
