//! [`register`]: the metrics of a service, beside those of `common`.

use std::{collections::HashSet, sync::Mutex};

use prometheus_client::{encoding::text::encode_registry, registry::Registry};

use super::process::process_registry;
use crate::lock::lock;

/// The metrics of the service.
static OWN: Mutex<Vec<Registry>> = Mutex::new(Vec::new());

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
///     prometheus_client::{
///         encoding::EncodeLabelSet,
///         metrics::{counter::Counter, family::Family},
///     },
/// };
///
/// #[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
/// struct Labels {
///     currency: &'static str, // one of three
/// }
///
/// let orders = Family::<Labels, Counter>::default();
/// metrics::register(|registry| {
///     registry.register("orders", "Orders that were placed", orders.clone());
/// });
/// orders.get_or_create(&Labels { currency: "EUR" }).inc();
/// assert_eq!(orders.get_or_create(&Labels { currency: "EUR" }).get(), 1);
/// ```
///
/// # Panics
///
/// If a name is taken: by another metric of the service, or by one of `common`.
pub fn register(add: impl FnOnce(&mut Registry)) {
    let mut more = Registry::default();
    add(&mut more);
    let mut own = lock(&OWN);
    let mut names: HashSet<_> = own.iter().flat_map(names_of).collect();
    names.extend(names_of(&process_registry()));
    for name in names_of(&more) {
        let is_new = names.insert(name.clone());
        assert!(
            is_new,
            "the name of the metric {name:?} is taken; choose another"
        );
    }
    own.push(more);
}

/// Appends the metrics of the service.
pub(super) fn append(text: &mut String) {
    for registry in &*lock(&OWN) {
        encode_registry(text, registry).expect("a string takes it");
    }
}

fn names_of(registry: &Registry) -> Vec<String> {
    let mut text = String::new();
    encode_registry(&mut text, registry).expect("a string takes it");
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    types
        .filter_map(|line| line.split(' ').next().map(str::to_owned))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::panic::catch_unwind;

    use prometheus_client::metrics::counter::Counter;

    use super::{super::text::text, *};

    #[test]
    fn metrics_of_a_service_stand_beside_the_others_and_share_no_name() {
        let register_one = |name: &'static str| {
            let counter = Counter::<u64>::default();
            counter.inc();
            register(|registry| registry.register(name, "Things counted", counter));
        };
        register_one("things");
        let text = text();
        assert!(text.contains("# TYPE things counter\n"), "{text}");
        assert!(text.contains("things_total 1\n"), "{text}");
        assert!(text.contains("requests_in_flight"), "{text}");
        assert!(text.ends_with("# EOF\n") && text.matches("# EOF").count() == 1);
        for taken in ["requests_shed", "things"] {
            assert!(catch_unwind(|| register_one(taken)).is_err(), "{taken}");
        }
    }
}
