//! [`Record`]: a log record of a service, and the subscriber that notes them in the trace.

use std::fmt;

use common::context;
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    Layer,
    filter::Targets,
    layer::{Context, SubscriberExt},
    registry::LookupSpan,
};

use crate::trace::{self, Trace};

/// A log record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// That of the request, or nothing.
    pub request_id: String,
    /// How bad it is.
    pub level: Level,
    fields: Vec<(&'static str, String)>,
}

impl Record {
    /// A field of the record.
    pub fn get(&self, name: &str) -> Option<&str> {
        let field = self.fields.iter().find(|(field, _)| *field == name);
        field.map(|(_, value)| value.as_str())
    }

    /// The access line of a request, without what it says of the response.
    #[cfg(test)]
    pub(crate) fn access_line(request_id: String, level: Level) -> Self {
        Self {
            request_id,
            level,
            fields: vec![("first_request_line", String::new())],
        }
    }

    /// Whether it is the access line of a request.
    pub fn is_access_line(&self) -> bool {
        self.get("first_request_line").is_some()
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.level, self.request_id)?;
        for (name, value) in &self.fields {
            write!(f, " {name}={value}")?;
        }
        Ok(())
    }
}

impl Visit for Record {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.fields.push((field.name(), format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.fields.push((field.name(), value.to_owned()));
    }
}

/// A subscriber that notes the records of `common` in the trace.
pub fn subscriber(trace: Trace) -> impl Subscriber + Send + Sync {
    let ours = Targets::new().with_target("common", Level::DEBUG);
    tracing_subscriber::registry().with(Notes(trace).with_filter(ours))
}

struct Notes(Trace);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Notes {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut record = Record {
            request_id: context::with_request_id(str::to_owned),
            level: *event.metadata().level(),
            fields: Vec::new(),
        };
        event.record(&mut record);
        self.0.note(trace::Event::Record(record));
    }
}
