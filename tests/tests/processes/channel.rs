//! The connections of many workers to many replicas.

use tests::{Process, http, wait_for};

#[test]
fn many_workers_share_a_bounded_number_of_connections_to_many_replicas() {
    // One process stands in for fifty replicas, with an address for each.
    let service1 = Process::start("service1", &[("HOST", "0.0.0.0")]);
    let port = service1.grpc().port();
    let replicas: Vec<_> = (1..=50)
        .map(|host| format!("127.0.0.{host}:{port}"))
        .collect();
    let channel = replicas.join(",");
    let service2 = Process::start(
        "service2",
        &[("SERVICE1_CHANNEL", channel.as_str()), ("WORKERS", "64")],
    );
    service2.wait_until_ready();
    // One connection is that of the request for the metrics.
    let open = || service1.metric("connections_open ") - 1.0;
    wait_for("64 shares of 8 connections", || {
        ((open() - 512.0).abs() < 0.5).then_some(())
    });
    for _ in 0..64 {
        let response = http::get(service2.http(), "/api/v1/say-hello?name=test");
        assert_eq!(response.status, 200);
    }
}
