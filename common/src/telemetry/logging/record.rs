//! An event as a bunyan record, written straight into the buffer; and [`init`], which installs the log and its
//! panic hook.
//!
//! The formatter defines the format. A test compares the two.

use std::{
    cell::{Cell, RefCell},
    fmt,
    panic::{self, PanicHookInfo},
    process,
    rc::Rc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use ahash::AHashMap;
use rustix::system::uname;
use serde_json::Value;
use tracing::{
    Event, Level, Metadata, Subscriber,
    callsite::Identifier,
    error,
    field::{Field, FieldSet, Visit},
};
use tracing_bunyan_formatter::{JsonStorage, JsonStorageLayer};
use tracing_subscriber::{
    Layer, Registry,
    filter::Targets,
    layer::{Context, SubscriberExt},
    registry::{LookupSpan, SpanRef},
};

use super::{
    dependencies::QuietDependencies,
    json,
    stdout::{self, flush},
};
use crate::{
    limits,
    request::{
        context::with_current,
        log_fields::{LogField, is_reserved},
    },
};

/// The bytes of a record that its fields leave free: for the message of a record without one, the
/// number of fields that are left out, the trace and the request id.
const RESERVED: usize = limits::LOG_NAME + 512;

/// A field that has less room for its value is left out. All numbers are shorter.
const LEAST_ROOM: usize = 64;

/// The part that all records of a process share.
pub(crate) struct Format {
    /// The beginning of each record, up to the value of `level`.
    begin: Vec<u8>,
}

impl Format {
    pub(crate) fn new(service: &str) -> Self {
        let mut begin = Vec::new();
        begin.extend_from_slice(br#"{"v":0,"name":"#);
        json::string(&mut begin, service, limits::LOG_NAME);
        begin.extend_from_slice(br#","hostname":"#);
        let host = uname().nodename().to_string_lossy().into_owned();
        json::string(&mut begin, &host, limits::LOG_NAME);
        begin.extend_from_slice(br#","pid":"#);
        json::value(&mut begin, &process::id());
        begin.extend_from_slice(br#","level":"#);
        Self { begin }
    }

    /// Appends the record of an event, without its `request_id` and the closing brace.
    pub(crate) fn append<S>(&self, event: &Event<'_>, context: &Context<'_, S>, bytes: &mut Vec<u8>)
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        let metadata = event.metadata();
        let site = Site::of(metadata);
        let start = bytes.len();
        bytes.extend_from_slice(&self.begin);
        bytes.extend_from_slice(bunyan_level(*metadata.level()));
        bytes.extend_from_slice(br#","time":""#);
        append_time(bytes);
        bytes.extend_from_slice(&site.source);
        let span = context.lookup_current();
        let mut fields = Fields {
            bytes,
            end: start + limits::LOG_RECORD - RESERVED,
            keys: &site.keys,
            written: 0,
            span: span.as_ref().map(|span| span.name().to_uppercase()),
            has_message: false,
            left_out: 0,
        };
        event.record(&mut fields);
        // The span is asked after the event: a value of the event may use the span when it is
        // formatted.
        let extensions = span.as_ref().map(SpanRef::extensions);
        let stored = extensions
            .as_ref()
            .and_then(|extensions| extensions.get::<JsonStorage<'static>>());
        if let Some(stored) = stored {
            fields.append_stored(stored, metadata.fields());
        }
        with_current(|request| {
            if let Some(added) = request.and_then(|request| request.shared.log_fields.get()) {
                added.for_each(|field| fields.append_added(field, stored, metadata.fields()));
            }
        });
        fields.end(metadata.target());
    }
}

/// What all records of one place in the code share.
struct Site {
    /// The end of the time, and the place.
    source: Vec<u8>,
    /// The key of each field, with the comma before it. `None` if the field is dropped.
    keys: Vec<Option<Vec<u8>>>,
}

/// The text of a second: `2026-01-31T12:34:56`.
type Second = [u8; 19];

thread_local! {
    /// The places in the code that this thread has logged from.
    static SITES: RefCell<AHashMap<Identifier, Rc<Site>>> = RefCell::default();

    /// The last second that this thread has written, since 1970, and its text. Calling humantime for
    /// each record would cost 30 ns and 440 instructions more.
    static LAST_SECOND: Cell<(u64, Second)> = const { Cell::new((0, *b"1970-01-01T00:00:00")) };
}

impl Site {
    fn of(metadata: &Metadata<'_>) -> Rc<Self> {
        SITES.with_borrow_mut(|sites| {
            let site = sites.entry(metadata.callsite());
            site.or_insert_with(|| Rc::new(Self::new(metadata))).clone()
        })
    }

    fn new(metadata: &Metadata<'_>) -> Self {
        let mut source = Vec::new();
        source.extend_from_slice(br#"","target":"#);
        json::string(&mut source, metadata.target(), limits::LOG_NAME);
        source.extend_from_slice(br#","line":"#);
        json::value(&mut source, &metadata.line());
        source.extend_from_slice(br#","file":"#);
        match metadata.file() {
            Some(file) => json::string(&mut source, file, limits::LOG_NAME),
            None => source.extend_from_slice(b"null"),
        }
        let fields = metadata.fields();
        let is_first = |field: &Field| fields.field(field.name()).as_ref() == Some(field);
        let key_of = |field: Field| {
            let is_written = !is_reserved(field.name()) && is_first(&field);
            is_written.then(|| key(field.name()))
        };
        Self {
            source,
            keys: fields.iter().map(key_of).collect(),
        }
    }
}

/// A key, with the comma before it.
fn key(name: &str) -> Vec<u8> {
    let mut key = b",".to_vec();
    json::string(&mut key, name, limits::LOG_NAME);
    key.push(b':');
    key
}

/// Appends the time in the form of RFC 3339, in UTC and to the nanosecond.
fn append_time(bytes: &mut Vec<u8>) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    append_instant(bytes, now.unwrap_or_default()); // before 1970 only if the clock was never set
}

fn append_instant(bytes: &mut Vec<u8>, now: Duration) {
    let (mut second, mut text) = LAST_SECOND.get();
    if second != now.as_secs() {
        second = now.as_secs();
        let date = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(second));
        for (byte, new) in text.iter_mut().zip(date.to_string().bytes()) {
            *byte = new;
        }
        LAST_SECOND.set((second, text));
    }
    bytes.extend_from_slice(&text);
    let nanos = 1_000_000_000 + now.subsec_nanos(); // ten digits; a point replaces the first
    let at = bytes.len();
    bytes.extend_from_slice(itoa::Buffer::new().format(nanos).as_bytes());
    bytes[at] = b'.';
    bytes.push(b'Z');
}

fn bunyan_level(level: Level) -> &'static [u8] {
    match level {
        Level::ERROR => b"50",
        Level::WARN => b"40",
        Level::INFO => b"30",
        Level::DEBUG => b"20",
        Level::TRACE => b"10",
    }
}

/// The bit of a field of the event. The 64th field and all further ones share theirs.
fn bit_of(field: &Field) -> u64 {
    1 << field.index().min(63)
}

/// Writes each field as soon as it is visited. No key is written twice, and the fields leave
/// [`RESERVED`] bytes of the record free.
struct Fields<'a> {
    bytes: &'a mut Vec<u8>,
    /// Where the fields must end.
    end: usize,
    /// The keys of the event's fields.
    keys: &'a [Option<Vec<u8>>],
    /// A bit for each field of the event that has a value; see [`bit_of`].
    written: u64,
    /// The name of the current span, in upper case.
    span: Option<String>,
    has_message: bool,
    left_out: u32,
}

impl Fields<'_> {
    /// Appends a field of the event, whose value `append` writes into the room that it is told.
    fn field(&mut self, field: &Field, append: impl FnOnce(&mut Vec<u8>, usize)) {
        if let Some(Some(key)) = self.keys.get(field.index()) {
            self.written |= bit_of(field);
            self.append(key, append);
        }
    }

    fn append(&mut self, key: &[u8], append: impl FnOnce(&mut Vec<u8>, usize)) {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(key);
        match self.room() {
            ..LEAST_ROOM => {
                self.bytes.truncate(at);
                self.left_out += 1;
            }
            room => append(self.bytes, room),
        }
    }

    /// The longest inside of a string that may come next.
    fn room(&self) -> usize {
        let quotes = 2;
        let left = self.end.saturating_sub(self.bytes.len() + quotes);
        left.min(limits::LOG_FIELD)
    }

    fn value<V: serde::Serialize>(&mut self, field: &Field, value: V) {
        // A message that is not a text is dropped.
        if field.name() != "message" {
            self.field(field, |bytes, _| json::value(bytes, &value));
        }
    }

    fn message(&mut self, message: fmt::Arguments<'_>) {
        if std::mem::replace(&mut self.has_message, true) {
            return;
        }
        self.bytes.extend_from_slice(br#","msg":"#);
        // What is reserved has this much room for it, wherever it comes.
        let room = self.room().max(limits::LOG_NAME);
        match &self.span {
            Some(span) => {
                json::text(self.bytes, format_args!("[{span} - EVENT] {message}"), room);
            }
            None => json::text(self.bytes, message, room),
        }
    }

    /// Appends the fields of a span and its parents. The event's own field, one of `known`, wins.
    fn append_stored(&mut self, stored: &JsonStorage<'static>, known: &FieldSet) {
        for (name, value) in stored.values() {
            if !is_reserved(name) && !self.has_written(name, known) {
                self.append(&key(name), |bytes, room| json_of(value, bytes, room));
            }
        }
    }

    /// Appends a field of the request. One of the event, or of its spans, wins.
    fn append_added(
        &mut self,
        field: &LogField,
        stored: Option<&JsonStorage<'static>>,
        known: &FieldSet,
    ) {
        let is_stored = stored.is_some_and(|stored| stored.values().contains_key(field.name));
        if !is_stored && !self.has_written(field.name, known) {
            self.append(&key(field.name), |bytes, room| {
                json_of(&field.value, bytes, room.min(limits::LOG_FIELD_OF_REQUEST));
            });
        }
    }

    /// Whether the event, whose fields are `known`, has this field with a value.
    fn has_written(&self, name: &str, known: &FieldSet) -> bool {
        let own = known.field(name);
        own.is_some_and(|own| self.written & bit_of(&own) != 0)
    }

    fn end(&mut self, target: &str) {
        self.message(format_args!("{target}"));
        if self.left_out > 0 {
            self.bytes.extend_from_slice(br#","fields_left_out":"#);
            json::value(self.bytes, &self.left_out);
        }
    }
}

/// Appends a value of a span or of a request.
fn json_of(value: &Value, bytes: &mut Vec<u8>, room: usize) {
    match value {
        Value::String(text) => json::string(bytes, text, room),
        number => json::value(bytes, number), // or a boolean
    }
}

impl Visit for Fields<'_> {
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.value(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.value(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.value(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.value(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.message(format_args!("{value}")),
            _ => self.field(field, |bytes, room| json::string(bytes, value, room)),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            "message" => self.message(format_args!("{value:?}")),
            // Fields named `log.…` are metadata of records of the `log` crate.
            name if name.starts_with("log.") => {}
            _ => self.field(field, |bytes, room| {
                json::text(bytes, format_args!("{value:?}"), room);
            }),
        }
    }
}

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
    let quiet = QuietDependencies::new(&filter);
    Registry::default()
        .with(filter)
        .with(quiet)
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
        stdout::write_record(|lines| self.0.append(event, &context, lines));
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
    use crate::{limits, sync::lock, telemetry::logging::buffer_this_thread};

    #[test]
    fn the_time_is_the_same_as_from_humantime() {
        let times = [
            (0, 0),
            (1_700_000_000, 1),
            (1_700_000_000, 999_999_999),
            (1_700_000_001, 0),
            (4_102_444_800, 120_000_000),
        ];
        for (seconds, nanos) in times {
            let time = Duration::new(seconds, nanos);
            let mut bytes = Vec::new();
            append_instant(&mut bytes, time);
            let theirs = humantime::format_rfc3339_nanos(UNIX_EPOCH + time).to_string();
            assert_eq!(String::from_utf8(bytes).unwrap(), theirs);
        }
    }

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
        let mut ours = records(&stdout::take());
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
        let lines = String::from_utf8(stdout::take()).expect("UTF-8");
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
    fn the_fields_of_a_request_are_in_every_line_of_it_once() {
        use std::time::Duration;

        use crate::request::{
            context::log_field,
            context::{self, Deadline},
        };

        let deadline = Deadline::after(Duration::from_secs(1));
        let request = context::Context::new("order-17".parse().unwrap(), deadline);
        let lines = lines_of(|| {
            request.clone().sync_scope(|| {
                info!("before");
                log_field("caller", "a \"caller\"").unwrap();
                log_field("both", 1).unwrap();
                log_field("long", "\u{1}".repeat(1_000)).unwrap();
                info!("after");
                info!(both = 2);
                let _span = info_span!("span", both = 3).entered();
                info!("in a span");
            });
            info!("outside");
        });
        let seen: Vec<_> = lines.iter().map(|line| sound(line)).collect();
        let both = seen.iter().map(|line| line["both"].as_u64());
        let expected = [None, Some(1), Some(2), Some(3), None];
        assert_eq!(both.collect::<Vec<_>>(), expected);
        for (line, both) in seen.iter().zip(expected) {
            let has_fields = both.is_some();
            assert_eq!(line["caller"] == "a \"caller\"", has_fields, "{line}");
            assert_eq!(line["caller"].is_null(), !has_fields, "{line}");
            let long = line["long"].as_str().unwrap_or("…");
            assert!(long.ends_with('…') && long.len() <= 256, "{line}");
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
