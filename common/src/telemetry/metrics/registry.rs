//! [`register`]: lets a service add metrics of its own to `/metrics`.

use std::{collections::HashSet, sync::Mutex};

use prometheus_client::{
    encoding::text::encode_registry,
    metrics::MetricType,
    registry::{self, Metric, Unit},
};

use super::process;
use crate::sync::lock;

/// The metrics of the service.
static OWN: Mutex<Vec<Registry>> = Mutex::new(Vec::new());

/// What [`register`] adds metrics to.
///
/// The registry of [`prometheus_client`](super::prometheus_client) hides the names of its metrics,
/// and a family without a value is not even in its text. So this one notes them.
#[derive(Debug, Default)]
pub struct Registry {
    metrics: registry::Registry,
    /// The names that the metrics and their samples take.
    names: Vec<String>,
}

impl Registry {
    /// Adds a metric. Its `name` is without the suffix of its type, such as `_total`.
    pub fn register(
        &mut self,
        name: impl Into<String>,
        help: impl Into<String>,
        metric: impl Metric,
    ) {
        let name = name.into();
        self.names.extend(names(&name, metric.metric_type()));
        self.metrics.register(name, help, metric);
    }

    /// Adds a metric whose name ends with its unit. `name` is without both.
    pub fn register_with_unit(
        &mut self,
        name: impl Into<String>,
        help: impl Into<String>,
        unit: Unit,
        metric: impl Metric,
    ) {
        let name = name.into();
        let full_name = format!("{name}_{}", unit.as_str());
        self.names.extend(names(&full_name, metric.metric_type()));
        self.metrics.register_with_unit(name, help, unit, metric);
    }
}

/// Adds metrics to `/metrics`. Call it once for each metric, before the service runs; `faces` runs
/// on each worker and is not the place.
///
/// The types are those of [`prometheus_client`](super::prometheus_client). Clones of a metric share
/// its value: register one, and keep another.
///
/// Each combination of labels is a series that lasts until the process ends, in the memory of the
/// service and of Prometheus. So a label must come from a small fixed set, never from a client.
///
/// ```
/// use common::metrics::{
///     self,
///     prometheus_client::metrics::{counter::Counter, family::Family},
/// };
///
/// /// Names and values: `currency`, one of three.
/// type Labels = [(&'static str, &'static str); 1];
///
/// let orders = Family::<Labels, Counter>::default();
/// metrics::register(|registry| {
///     registry.register("orders", "Orders that were placed", orders.clone());
/// });
/// orders.get_or_create(&[("currency", "EUR")]).inc();
/// assert_eq!(orders.get_or_create(&[("currency", "EUR")]).get(), 1);
/// ```
///
/// The macro `EncodeLabelSet` writes `::prometheus_client`: to derive it, add that crate, in the version that
/// `common` has, to the dependencies of the service.
///
/// # Panics
///
/// If a name is taken: by another metric of the service, or by one of `common`. A metric takes the
/// names of its samples, too: the counter `orders` takes `orders_total`.
pub fn register(add: impl FnOnce(&mut Registry)) {
    let mut more = Registry::default();
    add(&mut more);
    let mut own = lock(&OWN);
    let of_common = process::names().flat_map(|(name, kind)| names(name, kind));
    let of_service = own.iter().flat_map(|registry| registry.names.clone());
    let mut taken: HashSet<_> = of_common.chain(of_service).collect();
    for name in &more.names {
        assert!(
            taken.insert(name.clone()),
            "the name {name:?} of a metric is taken; choose another"
        );
    }
    own.push(more);
}

/// Appends the metrics of the service.
pub(crate) fn append(text: &mut String) {
    for registry in &*lock(&OWN) {
        encode_registry(text, &registry.metrics).expect("writing to a String cannot fail");
    }
}

/// The names that a metric takes: its own, and those of its samples.
fn names(name: &str, kind: MetricType) -> impl Iterator<Item = String> {
    let suffixes: &[&str] = match kind {
        MetricType::Counter => &["", "_total"],
        MetricType::Histogram => &["", "_bucket", "_count", "_sum"],
        MetricType::Info => &["", "_info"],
        _ => &[""],
    };
    suffixes.iter().map(move |suffix| format!("{name}{suffix}"))
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use prometheus_client::metrics::{counter::Counter, family::Family, gauge::Gauge};

    use super::*;
    use crate::telemetry::metrics::text::text;

    /// The message of the panic.
    fn refusal(add: impl FnOnce(&mut Registry)) -> String {
        let panic = catch_unwind(AssertUnwindSafe(|| register(add))).expect_err("it is refused");
        *panic.downcast().expect("a formatted message")
    }

    #[test]
    fn metrics_of_a_service_stand_beside_the_others() {
        let things = Counter::<u64>::default();
        register(|registry| registry.register("things", "Things counted", things.clone()));
        things.inc();
        let (_, text) = text("application/openmetrics-text");
        assert!(text.contains("# TYPE things counter\n"), "{text}");
        assert!(text.contains("things_total 1\n"), "{text}");
        assert!(text.contains("requests_in_flight"), "{text}");
        assert!(text.ends_with("# EOF\n") && text.matches("# EOF").count() == 1);
    }

    #[test]
    fn a_name_that_is_taken_is_refused_by_name() {
        let add = |name: &'static str| {
            move |registry: &mut Registry| registry.register(name, "", Gauge::<i64>::default())
        };
        register(add("gauge"));
        // The last two are names of samples: of a counter, and of a histogram.
        let of_common = "http_server_request_duration_seconds";
        for taken in [
            "gauge",
            of_common,
            "requests_shed_total",
            "http_server_request_duration_seconds_sum",
        ] {
            let refusal = refusal(add(taken));
            assert!(refusal.contains(&format!("{taken:?}")), "{refusal}");
        }
    }

    #[test]
    fn a_family_takes_its_name_before_its_first_value() {
        let add = |name: &'static str| {
            let family = Family::<[(&str, &str); 1], Counter>::default();
            move |registry: &mut Registry| registry.register(name, "", family)
        };
        register(add("family"));
        assert!(refusal(add("family")).contains("family"));
        let twice = refusal(|registry| {
            add("twice")(registry);
            add("twice")(registry);
        });
        assert!(twice.contains("twice"), "{twice}");
    }
}
