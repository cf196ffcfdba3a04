//! The replicas that calls go to, and the connections to them.

use std::{thread, time::Duration};

use tests::{
    Process, http,
    load::{Load, Plan},
    wait_for,
};

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

#[test]
fn invalid_requests_of_one_client_never_eject_a_replica() {
    let replicas = [(); 2].map(|()| Process::start("fixture", &[]));
    let channel = replicas
        .each_ref()
        .map(|it| it.grpc().to_string())
        .join(",");
    let variables = [("SERVICE1_CHANNEL", channel.as_str()), ("WORKERS", "1")];
    let service2 = Process::start("service2", &variables);
    service2.wait_until_ready();
    let ask = |name: &str| {
        let path = format!("/api/v1/say-hello?name={name}");
        http::get(service2.http(), &path).status
    };
    for status in [400, 401, 404, 409, 410, 412, 413, 418, 422, 429] {
        for _ in 0..10 {
            assert_eq!(ask("test"), 200);
        }
        for _ in 0..20 {
            let seen = ask(&format!("problem%20{status}"));
            assert!((400..500).contains(&seen), "{status} is {seen}");
        }
    }
    let log = service2.terminate();
    assert!(!log.has_line(&[("action", "replica"), ("status", "ejected")]));
}

#[test]
fn calls_to_a_slow_method_move_no_calls_to_another_between_replicas() {
    let replicas = [(); 2].map(|()| Process::start("fixture", &[("ORDERS", "wait 10")]));
    let [one, other] = replicas.each_ref().map(Process::grpc);
    let channel = format!("{one},{other}");
    let variables = [("SERVICE1_CHANNEL", channel.as_str()), ("WORKERS", "1")];
    let service2 = Process::start("service2", &variables);
    service2.wait_until_ready();
    let plan = Plan {
        connections: 15,
        interval: Duration::from_millis(100),
        name: None,
        is_kept: true,
    };
    let load = Load::start(service2.http(), plan);
    let picks = || {
        let picks = http::picks(service2.admin());
        [one, other].map(|replica| picks[&replica.to_string()])
    };
    let slow = || {
        let response = http::get(service2.http(), "/?length=400&stream_length=0");
        assert_eq!(response.status, 200);
    };
    // From the tenth response on, it is known how long the slow method usually takes. Each slow call
    // would move calls; a busy machine moves some, too.
    let mut uneven = Vec::new();
    for slow_calls in [10, 1, 1, 1, 1, 1] {
        thread::scope(|scope| {
            for _ in 0..slow_calls {
                scope.spawn(slow);
            }
        });
        let before = picks();
        let more = wait_for("150 picks", || {
            let now = picks();
            let more = [now[0] - before[0], now[1] - before[1]];
            (more[0] + more[1] >= 150.0).then_some(more)
        });
        let share = more[0] / (more[0] + more[1]);
        if !(0.3..0.7).contains(&share) {
            uneven.push(more);
        }
    }
    assert!(uneven.len() <= 2, "{uneven:?}");
    assert!(load.stop().failures().is_empty());
}
