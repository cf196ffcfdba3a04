//! [`start`] and [`finish`]: the log and the traces of a process.

use tracing_subscriber::filter::Targets;
#[cfg(feature = "traces")]
use tracing_subscriber::layer::SubscriberExt;

use super::logging;
#[cfg(feature = "traces")]
use super::traces::{self, UserSpans};

/// Starts to log the events that pass `filter` and, with the feature `traces`, to record spans.
/// `version` is that of the service, or empty if it is unknown. `followed_traces` is the limit a second on those
/// of requests from outside that ask to be recorded.
pub(crate) fn start(service: &str, version: &str, filter: Targets, followed_traces: u32) {
    let subscriber = logging::subscriber(service, filter);
    #[cfg(feature = "traces")]
    let subscriber = subscriber.with(UserSpans);
    logging::install(subscriber);
    #[cfg(feature = "traces")]
    traces::init(service, version, followed_traces);
    #[cfg(not(feature = "traces"))]
    let _ = (version, followed_traces);
}

/// Exports the last spans and writes the last records, before the process ends.
pub(crate) fn finish() {
    #[cfg(feature = "traces")]
    traces::finish();
    logging::finish();
}
