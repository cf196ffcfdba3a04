//! The metrics of the process: [`register`] adds those of a service to `/metrics`.
//!
//! Each thread writes only its own counters, so counting costs neither a lock nor a contended cache
//! line. A scrape adds up the counters of all threads.

mod counters;
mod process;
mod recent;
mod registry;
mod replica_state;
mod replicas;
mod targets;
mod text;
mod usage;

pub use prometheus_client;

#[cfg(feature = "cli")]
pub(crate) use self::process::set_build;
#[cfg(all(test, feature = "server"))]
pub(crate) use self::recent::Figures;
pub use self::registry::{Registry, register};
#[cfg(feature = "server")]
pub use self::text::text;
pub(crate) use self::{
    counters::{CLIENT_GONE, Counters, Measure, OTHER, count, count_duration, of_this_thread},
    process::{CertificateFacts, LOG_LOST_BYTES, LOG_WRITTEN_BYTES, read_certificates_with},
    replica_state::ReplicaState,
    replicas::{CountedReplica, Live, ReplicaMetrics},
    targets::TargetMetrics,
};
#[cfg(feature = "server")]
pub(crate) use self::{
    counters::{Percentile, open, set_limits},
    recent::{Recent, RouteSummary, SNAPSHOT_INTERVAL, Side, snapshot},
    replicas::{ReplicaSummary, View, summaries as replicas},
    targets::{NameSummary, TargetSummary, summaries as targets},
    usage::{Usage, Used, start as process_start},
};
