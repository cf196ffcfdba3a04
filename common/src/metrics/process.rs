//! [`process_registry`]: the metrics that every service has.

use std::{fmt, sync::atomic::Ordering::Relaxed};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, NoLabelSet},
    metrics::MetricType,
    registry::Registry,
};

use super::{ALL, COUNTERS, GAUGES, replicas, requests};
use crate::{lock::lock, logging::stdout, tls};

/// The metrics that every service has.
pub(super) fn process_registry() -> Registry {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Process));
    registry
}

/// The counters of all threads, added up.
#[derive(Debug)]
struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let all = lock(&ALL).clone();
        let of_threads = COUNTERS.iter().map(|(name, help, counter)| {
            let sum = all.iter().map(|counters| counter(counters).get()).sum();
            (*name, *help, sum)
        });
        let (written, lost) = (stdout::written_bytes(), stdout::lost_bytes());
        let of_log = [
            ("log_written_bytes", "Bytes of log lines written", written),
            (
                "log_lost_bytes",
                "Bytes of log lines that stdout did not take",
                lost,
            ),
        ];
        for (name, help, sum) in of_threads.chain(of_log) {
            encoder
                .encode_descriptor(name, help.trim(), None, MetricType::Counter)?
                .encode_counter::<NoLabelSet, u64, u64>(&sum, None)?;
        }
        for (name, help, gauge) in GAUGES {
            let sum: i64 = all
                .iter()
                .map(|counters| gauge(counters).load(Relaxed))
                .sum();
            encoder
                .encode_descriptor(name, help.trim(), None, MetricType::Gauge)?
                .encode_gauge(&sum)?;
        }
        encode_expiries(&mut encoder)?;
        requests::encode(&all, &mut encoder)?;
        replicas::encode(&all, &mut encoder)
    }
}

/// Writes when certificates expire, if there are any.
fn encode_expiries(encoder: &mut DescriptorEncoder) -> fmt::Result {
    let all = tls::expiries();
    if all.is_empty() {
        return Ok(());
    }
    let mut family = encoder.encode_descriptor(
        "certificate_expiry_timestamp_seconds",
        "When a certificate expires, in seconds since the epoch; of several, the first",
        None,
        MetricType::Gauge,
    )?;
    for (directory, expiries) in all {
        for (file, expiry) in ["tls.crt", "ca.crt"].into_iter().zip(expiries) {
            let labels = [("directory", directory), ("file", file)];
            let expiry = i64::try_from(expiry).unwrap_or(i64::MAX);
            family.encode_family(&labels)?.encode_gauge(&expiry)?;
        }
    }
    Ok(())
}
