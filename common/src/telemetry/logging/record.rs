//! An event as a bunyan record, written straight into the buffer.
//!
//! The formatter defines the format. A test in `subscriber.rs` compares the two.

use std::{
    cell::{Cell, RefCell},
    fmt, process,
    rc::Rc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use ahash::AHashMap;
use rustix::system::uname;
use serde_json::Value;
use tracing::{
    Event, Level, Metadata, Subscriber,
    callsite::Identifier,
    field::{Field, FieldSet, Visit},
};
use tracing_bunyan_formatter::JsonStorage;
use tracing_subscriber::{layer::Context, registry::LookupSpan};

use super::json;
use crate::limits;

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
        if let Some(span) = span
            && let Some(stored) = span.extensions().get::<JsonStorage<'static>>()
        {
            fields.append_stored(stored, metadata.fields());
        }
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

/// Whether each record has this key by itself, or the format reserves it. A field of this name is
/// dropped.
fn is_reserved(name: &str) -> bool {
    matches!(
        name,
        "v" | "name" | "msg" | "level" | "hostname" | "pid" | "time" // bunyan
            | "target" | "line" | "file"
            | "trace_id" | "span_id" | "trace_flags" | "request_id" | "fields_left_out"
    )
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
            let own = known.field(name);
            if is_reserved(name) || own.is_some_and(|own| self.written & bit_of(&own) != 0) {
                continue;
            }
            self.append(&key(name), |bytes, room| match value {
                Value::String(text) => json::string(bytes, text, room),
                number => json::value(bytes, number), // or a boolean
            });
        }
    }

    fn end(&mut self, target: &str) {
        self.message(format_args!("{target}"));
        if self.left_out > 0 {
            self.bytes.extend_from_slice(br#","fields_left_out":"#);
            json::value(self.bytes, &self.left_out);
        }
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
