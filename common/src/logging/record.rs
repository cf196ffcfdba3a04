//! An event outside of any span as a bunyan record, written straight into the buffer.
//!
//! The formatter defines the format. A test in [`super`] compares the two.

use std::{fmt, process};

use tracing::{
    Event, Level,
    field::{Field, Visit},
};

use super::{json, time};

/// The part that all records of a process share.
pub(super) struct Format {
    /// The beginning of each record, up to the value of `level`.
    begin: Vec<u8>,
}

impl Format {
    pub(super) fn new(service: &str) -> Self {
        let mut begin = Vec::new();
        begin.extend_from_slice(br#"{"v":0,"name":"#);
        json::string(&mut begin, service);
        begin.extend_from_slice(br#","hostname":"#);
        json::string(&mut begin, &gethostname::gethostname().to_string_lossy());
        begin.extend_from_slice(br#","pid":"#);
        json::value(&mut begin, &process::id());
        begin.extend_from_slice(br#","level":"#);
        Self { begin }
    }

    /// Appends the record of an event, without its `request_id` and the closing brace.
    pub(super) fn append(&self, event: &Event<'_>, bytes: &mut Vec<u8>) {
        let metadata = event.metadata();
        bytes.extend_from_slice(&self.begin);
        bytes.extend_from_slice(bunyan_level(*metadata.level()));
        bytes.extend_from_slice(br#","time":""#);
        time::now(bytes);
        bytes.extend_from_slice(br#"","target":"#);
        json::string(bytes, metadata.target());
        bytes.extend_from_slice(br#","line":"#);
        json::value(bytes, &metadata.line());
        bytes.extend_from_slice(br#","file":"#);
        match metadata.file() {
            Some(file) => json::string(bytes, file),
            None => bytes.extend_from_slice(b"null"),
        }
        let mut fields = Fields {
            bytes,
            has_message: false,
        };
        event.record(&mut fields);
        if !fields.has_message {
            fields.key("msg");
            json::string(fields.bytes, metadata.target());
        }
    }
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

/// Writes each field as soon as it is visited.
struct Fields<'a> {
    bytes: &'a mut Vec<u8>,
    has_message: bool,
}

impl Fields<'_> {
    fn key(&mut self, key: &str) {
        self.bytes.push(b',');
        json::string(self.bytes, key);
        self.bytes.push(b':');
    }

    /// Writes the key of an event's field. Returns `false` for a reserved name, whose field is
    /// dropped.
    fn begin(&mut self, name: &str) -> bool {
        match name {
            "v" | "name" | "msg" | "level" | "hostname" | "pid" | "time" => return false,
            "message" => {
                self.has_message = true;
                self.key("msg");
            }
            name => self.key(name),
        }
        true
    }

    fn value<V: serde::Serialize>(&mut self, field: &Field, value: V) {
        // A message that is not a text is dropped.
        if field.name() != "message" && self.begin(field.name()) {
            json::value(self.bytes, &value);
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
        if self.begin(field.name()) {
            json::string(self.bytes, value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let name = field.name();
        // Fields named `log.…` are metadata of records of the `log` crate.
        if !name.starts_with("log.") && self.begin(name) {
            json::text(self.bytes, format_args!("{value:?}"));
        }
    }
}
