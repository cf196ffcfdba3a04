//! [`start`] and [`finish`]: the log and the traces of a process.

use tracing_subscriber::filter::Targets;
#[cfg(feature = "traces")]
use tracing_subscriber::layer::SubscriberExt;

use super::logging;
#[cfg(feature = "traces")]
use super::traces::{self, UserSpans};

/// Starts to log the events that pass `filter` and, with the feature `traces`, to record spans.
/// `version` is that of the service, or empty if it is unknown.
pub(crate) fn start(service: &str, version: &str, filter: Targets) {
    let subscriber = logging::subscriber(service, filter);
    #[cfg(feature = "traces")]
    let subscriber = subscriber.with(UserSpans);
    logging::install(subscriber);
    #[cfg(feature = "traces")]
    traces::init(service, version);
    #[cfg(not(feature = "traces"))]
    let _ = version;
}

/// Exports the last spans and writes the last records, before the process ends.
pub(crate) fn finish() {
    #[cfg(feature = "traces")]
    traces::finish();
    logging::finish();
}
