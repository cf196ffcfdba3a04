//! Bunyan JSON records on stdout, one a line, each with the id of its request.
//!
//! [`tracing_bunyan_formatter`] defines the format. Its layer writes events inside a span: `msg`
//! has the name of the span, and the record has the span's fields. `record` writes events outside
//! of any span, which are nearly all: as the same JSON, but without the map in which the formatter
//! collects the fields (its cost: bench/README.md). A test compares the two.
//!
//! Three things differ from the formatter alone:
//!
//! - **Spans have no lines.** The formatter would write a START and an END record for each span, so
//!   it gets only events.
//! - **The `request_id` field comes from the [`Context`](crate::Context)**, not from a span. So it
//!   has one source, no filter can switch it off, and a request pays for no span. It is the last
//!   field of a record; outside of a request it is `""`.
//! - **Each worker has a buffer.** The worker writes it to stdout when it runs out of work, at
//!   32 KiB, at its end and on panic. So no line waits while the worker is idle, and a
//!   line costs no system call of its own under load. Other threads write at once. A slow reader of
//!   stdout delays a write by at most 10 ms: lines that wait longer than a second are dropped and
//!   counted (`stdout`).
//!
//! Bunyan reserves the field names `name`, `msg`, `level`, `time`, `pid`, `hostname` and `v`: an
//! event's fields of these names are dropped. Don't use `request_id` either.

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
pub use self::filter::{InvalidFilter, parse_filter};
use self::{buffer::Writer, record::Format};

/// Logs all events that pass `filter`, and panics, to stdout. Each record has `service` as its
/// `name`.
///
/// # Panics
///
/// If it is called twice in one process.
pub fn init(service: &'static str, filter: Targets) {
    let subscriber = Registry::default()
        .with(filter)
        .with(JsonStorageLayer)
        .with(Events::new(service));
    #[cfg(feature = "traces")]
    let subscriber = subscriber.with(crate::traces::OwnSpans);
    tracing::subscriber::set_global_default(subscriber).expect("called once in a process");
    panic::set_hook(Box::new(log_panic));
}

/// Logs a panic as one record, in place of the text that Rust prints to stderr.
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

/// Writes events, but no START and END records of spans.
struct Events {
    format: Format,
    formatter: BunyanFormattingLayer<Writer>,
}

impl Events {
    fn new(service: &str) -> Self {
        Self {
            format: Format::new(service),
            formatter: BunyanFormattingLayer::new(service.to_owned(), Writer),
        }
    }
}

impl<S> Layer<S> for Events
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        if context.lookup_current().is_some() {
            self.formatter.on_event(event, context);
        } else {
            buffer::write(|lines| self.format.append(event, lines));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    use serde_json::Value;
    use tracing::{Level, info, info_span};

    use super::*;
    use crate::lock::lock;

    /// Keeps what the formatter writes.
    #[derive(Clone, Default)]
    struct Theirs(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Theirs {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            lock(&self.0).extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The records without their times, which differ.
    fn records(lines: &[u8]) -> Vec<Value> {
        let lines = str::from_utf8(lines).unwrap().lines();
        let records = lines.map(|line| {
            let mut record: Value = serde_json::from_str(line).unwrap();
            let time = record.as_object_mut().unwrap().remove("time").unwrap();
            let time = time.as_str().unwrap();
            assert!(humantime::parse_rfc3339(time).is_ok(), "{time}");
            record
        });
        records.collect()
    }

    fn log_all_kinds() {
        let text = "quotes \" and \\, a\nline, straße, \u{1}, \u{7F}\u{9B}\u{202E}\u{FEFF}, 😀";
        let error: &(dyn std::error::Error + 'static) = &io::Error::other("an error");
        info!("only a message");
        info!(action = "no message");
        info!(text, display = %text, debug = ?text, "text {}", 1);
        info!(int = -1, uint = u64::MAX, float = 0.000_5, bool = true);
        info!(
            none = None::<u8>,
            some = Some(1),
            wide = u128::MAX,
            narrow = i128::MIN
        );
        info!(
            whole = 2.0,
            large = 1e300,
            nan = f64::NAN,
            infinite = f64::INFINITY
        );
        info!(error, list = ?[1, 2], bytes = [0_u8, 255].as_slice());
        info!(name = "dropped", msg = 1, level = 2, time = %3, pid = ?4, v = 5, hostname = 6);
        info!(r#type = "a raw name", r#fn = ?"a debug one", r#name = ?"dropped", dotted.name = 1);
        info!(message = 1);
        info!(message = ?"a debug message", log.line = ?"dropped");
        tracing::error!("an error");
        tracing::warn!("a warning");
        tracing::debug!("a detail");
        tracing::trace!(target: "elsewhere", "a trace");
    }

    #[test]
    fn records_are_those_of_the_formatter() {
        let theirs = Theirs::default();
        let writer = theirs.clone();
        let service = "a \"service\"";
        let subscriber = Registry::default()
            .with(JsonStorageLayer)
            .with(Events::new(service))
            .with(BunyanFormattingLayer::new(service.into(), move || {
                writer.clone()
            }));
        buffer_this_thread();
        tracing::subscriber::with_default(subscriber, || {
            log_all_kinds();
            let _outer = info_span!("outer", from_outer = "ä\u{85}", both = 1).entered();
            log_all_kinds();
            let _inner = info_span!("inner", both = ?"2").entered();
            tracing::event!(Level::INFO, both = 3, "deep");
        });
        let mut ours = records(&buffer::take());
        for record in &mut ours {
            let id = record.as_object_mut().unwrap().remove("request_id");
            assert_eq!(id, Some("".into()));
        }
        let mut theirs = records(&lock(&theirs.0));
        theirs.retain(|record| {
            let msg = record["msg"].as_str().unwrap();
            !msg.ends_with(" - START]") && !msg.ends_with(" - END]")
        });
        assert_eq!(ours.len(), 31);
        assert_eq!(ours, theirs);
    }
}
