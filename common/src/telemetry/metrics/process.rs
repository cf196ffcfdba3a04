//! [`process_registry`]: the metrics that every service has.

use std::{
    fmt,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::SystemTime,
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, NoLabelSet},
    metrics::MetricType,
    registry::Registry,
};

use super::{
    counters::{self, COUNTERS, GAUGES, HISTOGRAMS, of_all_threads},
    replicas,
    usage::{self, Usage, Used},
};

/// Bytes of log lines that stdout took. Any thread may add to it.
pub(crate) static LOG_WRITTEN_BYTES: AtomicU64 = AtomicU64::new(0);

/// Bytes of log lines that stdout did not take.
pub(crate) static LOG_LOST_BYTES: AtomicU64 = AtomicU64::new(0);

/// The name and the version of the service.
static BUILD: OnceLock<(String, String)> = OnceLock::new();

/// A directory of certificates, as operators see it. Times are seconds since the epoch.
pub(crate) struct CertificateFacts {
    /// What the directory is for.
    pub(crate) directory: &'static str,
    /// For each file with certificates, when the first of them expires.
    pub(crate) expiries: Vec<(&'static str, u64)>,
    /// When all files were read for the last time.
    pub(crate) looked: u64,
}

static CERTIFICATES: OnceLock<fn() -> Vec<CertificateFacts>> = OnceLock::new();

/// The metrics that are neither a counter nor a gauge of each thread, nor a histogram.
const OTHERS: [(&str, MetricType); 13] = [
    ("log_written_bytes", MetricType::Counter),
    ("log_lost_bytes", MetricType::Counter),
    ("certificate_expiry_timestamp_seconds", MetricType::Gauge),
    ("certificate_look_timestamp_seconds", MetricType::Gauge),
    ("build_info", MetricType::Gauge),
    ("process_open_fds", MetricType::Gauge),
    ("process_max_fds", MetricType::Gauge),
    ("process_resident_memory_bytes", MetricType::Gauge),
    ("process_memory_limit_bytes", MetricType::Gauge),
    ("process_start_time_seconds", MetricType::Gauge),
    ("process_cpu_seconds", MetricType::Counter),
    ("replicas", MetricType::Gauge),
    ("replica_picks", MetricType::Counter),
];

/// Sets what `build_info` says of the service. The first call counts.
#[cfg(feature = "cli")]
pub(crate) fn set_build(name: &str, version: &str) {
    let _ = BUILD.set((name.to_owned(), version.to_owned()));
}

/// Reads the facts of certificates with `read` from now on.
pub(crate) fn read_certificates_with(read: fn() -> Vec<CertificateFacts>) {
    let _ = CERTIFICATES.set(read); // each caller has the same function
}

/// The name and the type of each metric of `common`.
pub(super) fn names() -> impl Iterator<Item = (&'static str, MetricType)> {
    let counters = COUNTERS.iter().map(|it| (it.0, MetricType::Counter));
    let gauges = GAUGES.iter().map(|it| (it.0, MetricType::Gauge));
    let histograms = HISTOGRAMS.iter().map(|it| (it.0, MetricType::Histogram));
    counters.chain(gauges).chain(histograms).chain(OTHERS)
}

/// The metrics that every service has.
pub(crate) fn process_registry() -> Registry {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(ProcessMetrics));
    registry
}

/// The counters of all threads, added up.
#[derive(Debug)]
struct ProcessMetrics;

impl Collector for ProcessMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let all = of_all_threads();
        let of_threads = COUNTERS.iter().map(|(name, help, counter)| {
            let sum = all.iter().map(|counters| counter(counters).get()).sum();
            (*name, *help, sum)
        });
        let [written, lost] = [&LOG_WRITTEN_BYTES, &LOG_LOST_BYTES].map(|it| it.load(Relaxed));
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
        encode_certificates(&mut encoder)?;
        encode_build(&mut encoder)?;
        encode_usage(&mut encoder)?;
        counters::encode(&mut encoder)?;
        replicas::encode(&mut encoder)
    }
}

/// Writes when certificates expire and when their files were read, if there are any.
fn encode_certificates(encoder: &mut DescriptorEncoder) -> fmt::Result {
    let all = CERTIFICATES.get().map_or_else(Vec::new, |read| read());
    if all.is_empty() {
        return Ok(());
    }
    let mut family = encoder.encode_descriptor(
        "certificate_expiry_timestamp_seconds",
        "When a certificate expires, in seconds since the epoch; of several, the first",
        None,
        MetricType::Gauge,
    )?;
    let gauge = |time| i64::try_from(time).unwrap_or(i64::MAX);
    for one in &all {
        for (file, expiry) in &one.expiries {
            let labels = [("directory", one.directory), ("file", *file)];
            family
                .encode_family(&labels)?
                .encode_gauge(&gauge(*expiry))?;
        }
    }
    let mut family = encoder.encode_descriptor(
        "certificate_look_timestamp_seconds",
        "When the files of a directory of certificates were all read for the last time, in seconds since \
         the epoch",
        None,
        MetricType::Gauge,
    )?;
    for one in &all {
        let labels = [("directory", one.directory)];
        family
            .encode_family(&labels)?
            .encode_gauge(&gauge(one.looked))?;
    }
    Ok(())
}

/// Writes the service and its version.
fn encode_build(encoder: &mut DescriptorEncoder) -> fmt::Result {
    let (service, version) = BUILD.get().cloned().unwrap_or_default();
    let labels = [
        ("service", service.as_str()),
        ("version", version.as_str()),
        ("mesh_version", env!("CARGO_PKG_VERSION")),
    ];
    let help = "The service and its version; always 1";
    encoder
        .encode_descriptor("build_info", help, None, MetricType::Gauge)?
        .encode_family(&labels)?
        .encode_gauge(&1_u64)
}

/// Writes what the process uses, under the names that all Prometheus clients have for it. What the
/// system does not tell has no line.
fn encode_usage(encoder: &mut DescriptorEncoder) -> fmt::Result {
    let mut gauge = |name, help, value: Option<u64>| match value {
        Some(value) => encoder
            .encode_descriptor(name, help, None, MetricType::Gauge)?
            .encode_gauge(&value),
        None => Ok(()),
    };
    let Usage {
        files,
        memory,
        cpu_seconds,
    } = Usage::now();
    let limit = |used: Option<Used>| used.and_then(|used| used.limit);
    gauge("process_open_fds", "Open files", files.map(|it| it.now))?;
    gauge("process_max_fds", "The limit of open files", limit(files))?;
    let (name, help) = ("process_resident_memory_bytes", "Resident memory, in bytes");
    gauge(name, help, memory.map(|it| it.now))?;
    let help = "The memory that the control group of the process allows, or else that of the \
                machine, in bytes";
    gauge("process_memory_limit_bytes", help, limit(memory))?;
    let help = "When the process started, in seconds since the epoch";
    let since_epoch = usage::start().duration_since(SystemTime::UNIX_EPOCH);
    let name = "process_start_time_seconds";
    encoder
        .encode_descriptor(name, help, None, MetricType::Gauge)?
        .encode_gauge(&since_epoch.unwrap_or_default().as_secs_f64())?;
    let Some(seconds) = cpu_seconds else {
        return Ok(());
    };
    let help = "CPU time of the user and of the system, in seconds";
    encoder
        .encode_descriptor("process_cpu_seconds", help, None, MetricType::Counter)?
        .encode_counter::<NoLabelSet, f64, u64>(&seconds, None)
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode_registry;

    use super::*;

    #[test]
    fn each_metric_is_in_the_list_of_names() {
        let known: Vec<_> = names().collect();
        let mut text = String::new();
        encode_registry(&mut text, &process_registry()).unwrap();
        let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        let shown: Vec<_> = types.filter_map(|line| line.split_once(' ')).collect();
        assert!(shown.len() > OTHERS.len(), "{text}");
        for (name, kind) in shown {
            let is_it = |known: &(&str, MetricType)| known.0 == name && known.1.as_str() == kind;
            assert!(
                known.iter().any(is_it),
                "{name}, a {kind}, is not in the list"
            );
        }
    }
}
