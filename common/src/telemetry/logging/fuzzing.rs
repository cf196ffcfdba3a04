//! For the fuzzer: a log line with any text in it.

use std::sync::{Arc, Mutex};

use tracing::{Event, Subscriber, info};
use tracing_subscriber::{
    Layer, Registry,
    layer::{Context, SubscriberExt},
    registry::LookupSpan,
};

use super::{record::Format, stdout};
use crate::sync::lock;

/// The log line of an event that has this text as its message and in its fields.
pub fn log_line(text: &str) -> Vec<u8> {
    let line = Arc::<Mutex<Vec<u8>>>::default();
    let subscriber = Registry::default().with(Lines(Format::new(text), line.clone()));
    tracing::subscriber::with_default(subscriber, || {
        info!(text, display = %text, debug = ?text, "{text}");
    });
    let mut line = lock(&line);
    stdout::append_id_and_end(&mut line, 0);
    line.clone()
}

struct Lines(Format, Arc<Mutex<Vec<u8>>>);

impl<S> Layer<S> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        self.0.append(event, &context, &mut lock(&self.1));
    }
}
