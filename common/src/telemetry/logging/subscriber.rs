//! [`init`]: installs the log and its panic hook.

use std::panic::{self, PanicHookInfo};

use tracing::{Event, Subscriber, error};
use tracing_bunyan_formatter::JsonStorageLayer;
use tracing_subscriber::{
    Layer, Registry,
    filter::Targets,
    layer::{Context, SubscriberExt},
    registry::LookupSpan,
};

use super::{
    buffer::{self, flush},
    record::Format,
};

/// Logs all events that pass `filter`, and panics, to stdout. Each record has `service` as its
/// `name`.
///
/// # Panics
///
/// If it is called twice in one process.
pub fn init(service: &'static str, filter: Targets) {
    install(subscriber(service, filter));
}

/// The subscriber of [`init`], for a caller that adds layers.
pub(crate) fn subscriber(
    service: &str,
    filter: Targets,
) -> impl Subscriber + for<'a> LookupSpan<'a> + use<> {
    Registry::default()
        .with(filter)
        .with(JsonStorageLayer)
        .with(Events(Format::new(service)))
}

/// Logs to this subscriber from now on.
pub(crate) fn install(subscriber: impl Subscriber + Send + Sync) {
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
struct Events(Format);

impl<S> Layer<S> for Events
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        buffer::write(|lines| self.0.append(event, &context, lines));
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        num::{NonZeroU8, Wrapping},
        sync::{Arc, Mutex},
    };

    use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
    use serde_json::Value;
    use tracing::{field, info, info_span};
    use tracing_bunyan_formatter::BunyanFormattingLayer;

    use super::*;
    use crate::{limits, lock::lock, telemetry::logging::buffer_this_thread};

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
        info!(
            single = 1.5_f32,
            small = -1_i8,
            size = usize::MAX,
            nonzero = NonZeroU8::MIN,
            wrapping = Wrapping(1_u64),
            owned = String::from("owned"),
            boxed = Box::new(1_u16),
            arguments = format_args!("{}", 1),
            empty = field::Empty,
        );
        info!(message = 1);
        info!(message = 1_u64);
        info!(message = 1.5);
        info!(message = true);
        info!(message = i128::MIN);
        info!(message = error);
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
            .with(Events(Format::new(service)))
            .with(BunyanFormattingLayer::new(service.into(), move || {
                writer.clone()
            }));
        buffer_this_thread();
        tracing::subscriber::with_default(subscriber, || {
            log_all_kinds();
            let _outer = info_span!("outer", from_outer = "ä\u{85}", both = 1).entered();
            log_all_kinds();
            let inner = info_span!(
                "inner",
                both = ?"2",
                pid = 3,
                float = f64::NAN,
                of_span = -1,
                unsigned = u64::MAX,
                wide = u128::MAX,
                is = true,
                text = %"a text",
                late = field::Empty,
            );
            inner.record("late", 1.5);
            let _inner = inner.entered();
            info!(own = 3, "deep");
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
        assert_eq!(ours.len(), 43);
        assert_eq!(ours, theirs);
    }

    /// The records that `log` writes, each without its line end.
    fn lines_of(log: impl FnOnce()) -> Vec<String> {
        let subscriber = Registry::default()
            .with(JsonStorageLayer)
            .with(Events(Format::new("service")));
        buffer_this_thread();
        tracing::subscriber::with_default(subscriber, log);
        let lines = String::from_utf8(buffer::take()).expect("UTF-8");
        lines.lines().map(str::to_owned).collect()
    }

    /// The keys of a record, each as often as it comes. A [`Value`] has only the last of two.
    struct Keys(Vec<String>);

    impl<'de> Deserialize<'de> for Keys {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct Record;

            impl<'de> Visitor<'de> for Record {
                type Value = Keys;

                fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    f.write_str("a record")
                }

                fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Keys, M::Error> {
                    let mut keys = Vec::new();
                    while let Some((key, IgnoredAny)) = map.next_entry()? {
                        keys.push(key);
                    }
                    Ok(Keys(keys))
                }
            }

            deserializer.deserialize_map(Record)
        }
    }

    /// The record, which has at most 8 KiB and no key twice.
    fn sound(line: &str) -> Value {
        assert!(line.len() < limits::LOG_RECORD, "{} bytes", line.len());
        let Keys(mut keys) = serde_json::from_str(line).unwrap();
        let all = keys.len();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), all, "{line}");
        serde_json::from_str(line).unwrap()
    }

    #[cfg(feature = "server")]
    #[test]
    fn no_key_of_a_record_comes_twice() {
        use std::time::Duration;

        use http::HeaderValue;

        use crate::request::{context::Deadline, trace::Trace};

        let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let trace = Trace::parse(&HeaderValue::from_static(trace)).unwrap();
        let deadline = Deadline::after(Duration::from_secs(1));
        let context = crate::request::context::Context::new("order-17".parse().unwrap(), deadline)
            .with(|shared| shared.trace = Some(Arc::new(trace)));
        let lines = context.sync_scope(|| {
            lines_of(|| {
                let log = || {
                    info!(
                        both = "event",
                        request_id = "own",
                        trace_id = 1,
                        span_id = 2
                    );
                    info!(target = "own", line = ?1, file = "own", trace_flags = %3, "text");
                    info!(message = "first", "second");
                    info!(twice = 1, other = 2, twice = 3, r#twice = 4);
                };
                log();
                let _outer =
                    info_span!("outer", both = "outer", request_id = 1, twice = 5).entered();
                let _inner = info_span!("inner", both = "inner", target = 1, msg = 2).entered();
                log();
            })
        });
        assert_eq!(lines.len(), 8);
        for (index, line) in lines.iter().enumerate() {
            let record = sound(line);
            assert_eq!(record["request_id"], "order-17", "{line}");
            assert_eq!(
                record["trace_id"], "0af7651916cd43dd8448eb211c80319c",
                "{line}"
            );
            assert_ne!(record["target"], "own", "{line}");
            let (both, twice) = match index {
                0 => (Value::from("event"), Value::Null),
                3 => (Value::Null, 1.into()),
                4 => ("event".into(), 5.into()),
                5 | 6 => ("inner".into(), 5.into()),
                7 => ("inner".into(), 1.into()),
                _ => (Value::Null, Value::Null),
            };
            assert_eq!(
                (&record["both"], &record["twice"]),
                (&both, &twice),
                "{line}"
            );
        }
    }

    #[test]
    fn a_record_has_at_most_8_kib_whatever_is_logged() {
        for character in ["a", "\"", "\u{1}", "é", "\u{202E}", "😀"] {
            let long = character.repeat(100_000);
            let [first, second, third, fourth, fifth] = [&long; 5];
            let lines = lines_of(|| {
                info!("{long}");
                info!(first, %second, ?third, fourth, fifth, number = 1);
                info!(first, "{long}");
                let _span = info_span!("span", first, sixth = fifth, number = 1).entered();
                info!(first, %second, ?third, fourth, fifth, message = long.as_str());
                info!(of_event = 1);
            });
            assert_eq!(lines.len(), 5);
            for line in lines {
                let record = sound(&line);
                let cut = record["first"].as_str().or(record["msg"].as_str()).unwrap();
                assert!(cut.ends_with('…'), "{cut}");
                assert!(record["msg"].is_string());
                assert_eq!(record["request_id"], "");
            }
        }
    }

    #[test]
    fn fields_without_room_are_counted() {
        let long = "x".repeat(5_000);
        let [first, second, third, fourth, fifth] = [&long; 5];
        let lines = lines_of(|| info!(first, second, third, fourth, fifth, number = 1));
        let record = sound(&lines[0]);
        assert_eq!(record["fields_left_out"], 2, "{record}");
        assert!(record["fourth"].is_string() && record["fifth"].is_null());
        assert_eq!(record["msg"], module_path!());
    }
}
