//! Metrics of a service, which this crate stands in for: it does not depend on `prometheus-client`.

use common::metrics::{
    self,
    prometheus_client::metrics::{counter::Counter, family::Family},
};

#[test]
fn metrics_with_labels_need_no_crate_but_common() {
    let orders = Family::<[(&'static str, &'static str); 1], Counter>::default();
    metrics::register(|registry| {
        registry.register("orders", "Orders that were placed", orders.clone());
    });
    orders.get_or_create(&[("currency", "EUR")]).inc();
    let (_, text) = metrics::text("application/openmetrics-text");
    assert!(
        text.contains("orders_total{currency=\"EUR\"} 1\n"),
        "{text}"
    );
}
