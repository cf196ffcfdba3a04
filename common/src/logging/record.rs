//! An event as a bunyan record, written straight into the buffer.
//!
//! The formatter crate collects an event into a map of JSON values before it writes it; where
//! there is no span to collect from, that can be left out (what it saves: bench/README.md). The
//! crate still says what a record is: a test holds the two against each other.

use std::{fmt, process};

use tracing::{
    Event, Level,
    field::{Field, Visit},
};

use super::{json, time};

/// What all records of a process have in common.
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

    /// Appends an event as a record that is still open: without the brace that ends it.
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

/// Writes fields as they come.
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

    /// A field of the event, under the name that it has in the record.
    fn field<V: serde::Serialize>(&mut self, field: &Field, value: V) {
        if let Some(name) = self.name_of(field) {
            self.key(name);
            json::value(self.bytes, &value);
        }
    }

    /// `None` for the names that bunyan has for itself; fields of an event with such a name are
    /// dropped.
    fn name_of(&mut self, field: &Field) -> Option<&'static str> {
        match field.name() {
            "message" => {
                self.has_message = true;
                Some("msg")
            }
            "v" | "name" | "msg" | "level" | "hostname" | "pid" | "time" => None,
            name => Some(name),
        }
    }
}

impl Visit for Fields<'_> {
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.field(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.field(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.field(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.field(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if let Some(name) = self.name_of(field) {
            self.key(name);
            json::string(self.bytes, value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if let Some(name) = self.name_of(field) {
            self.key(name.strip_prefix("r#").unwrap_or(name));
            json::text(self.bytes, format_args!("{value:?}"));
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
    use tracing::{Subscriber, info};
    use tracing_bunyan_formatter::BunyanFormattingLayer;
    use tracing_subscriber::{
        Layer, Registry,
        layer::{Context, SubscriberExt},
    };

    use super::*;

    type Shared = Arc<Mutex<Vec<u8>>>;

    struct Ours(Format, Shared);

    impl<S: Subscriber> Layer<S> for Ours {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            let mut bytes = self.1.lock().unwrap();
            self.0.append(event, &mut bytes);
            bytes.extend_from_slice(b"}\n");
        }
    }

    struct Theirs(Shared);

    impl io::Write for Theirs {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The records of both without their time, which is another for each.
    fn records(shared: &Shared) -> Vec<Value> {
        let bytes = shared.lock().unwrap();
        let records = serde_json::Deserializer::from_slice(&bytes).into_iter::<Value>();
        records
            .map(|record| {
                let mut record = record.unwrap();
                let time = record.as_object_mut().unwrap().remove("time").unwrap();
                let time = time.as_str().unwrap();
                assert!(humantime::parse_rfc3339(time).is_ok(), "{time}");
                record
            })
            .collect()
    }

    #[test]
    fn records_are_those_of_the_formatter() {
        let (ours, theirs) = (Shared::default(), Shared::default());
        let formatter = {
            let theirs = theirs.clone();
            BunyanFormattingLayer::new("a \"service\"".into(), move || Theirs(theirs.clone()))
        };
        let subscriber = Registry::default()
            .with(Ours(Format::new("a \"service\""), ours.clone()))
            .with(formatter);
        tracing::subscriber::with_default(subscriber, || {
            let text = "quotes \" and \\, a\nline, straße, \u{1}";
            info!("only a message");
            info!(action = "no message");
            info!(text, display = %text, debug = ?text, "text {}", 1);
            info!(
                int = -1,
                uint = u64::MAX,
                float = 0.000_5,
                bool = true,
                none = None::<u8>
            );
            info!(whole = 2.0, nan = f64::NAN, wide = u128::MAX, list = ?[1, 2]);
            info!(name = "dropped", msg = 1, level = 2, time = %3, pid = ?4, v = 5, hostname = 6);
            info!(r#type = "a raw name", r#fn = ?"and a debug one", dotted.name = 1);
            tracing::error!("an error");
            tracing::warn!("a warning");
            tracing::debug!("a detail");
            tracing::trace!(target: "elsewhere", "a trace");
        });
        let (ours, theirs) = (records(&ours), records(&theirs));
        assert_eq!(ours.len(), 11);
        assert_eq!(ours, theirs);
    }
}
