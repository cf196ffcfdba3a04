//! gRPC's interoperability tests, and every other kind of call, through `common` as server and as
//! client. The other side is plain tonic; in `make interop` it is grpcio.

mod limits;
mod streams;

use std::time::Duration;

use tests::{
    Process, Record, raise_file_limit,
    testing::{
        cases::{ALL, Case, run},
        peers::{self, Connect, DEADLINE, PlainServer},
    },
};
use tokio::time::{sleep, timeout};

/// The service through `common`. It logs an access line for OK as well.
fn service(variables: &[(&str, &str)]) -> Process {
    let mut all = vec![("RUST_LOG", "info,common=debug")];
    all.extend(variables);
    Process::start("test_service", &all)
}

/// Runs all cases against this service, each as a request of its own.
async fn run_all(connect: &Connect, service: Process) {
    raise_file_limit();
    for case in &ALL {
        eprintln!("{}", case.name);
        run(case, case.name, connect).await;
        access_lines(&service, case.name, case.calls).await;
    }
    let log = service.terminate().log_by_id();
    for Case { name, calls, .. } in ALL {
        let lines = &log[name];
        let access = lines.iter().filter(|line| line.has(&[("msg", "request")]));
        assert_eq!(
            access.count(),
            calls,
            "{name}: an access line for each call"
        );
        let longest = match name {
            "timeout_on_sleeping_server" => 0.1,
            _ => DEADLINE.as_secs_f64(),
        };
        let left: Vec<_> = lines
            .iter()
            .filter_map(|line| line.number("remaining"))
            .collect();
        let is_bounded = |left: &f64| *left > 0.0 && *left <= longest;
        assert!(left.iter().all(is_bounded), "{name}: {left:?}");
        // No handler sees the calls that nobody serves.
        let handled = if name.starts_with("unimplemented") {
            0
        } else {
            calls
        };
        assert_eq!(left.len(), handled, "{name}: each call has a deadline");
    }
    for (id, lines) in &log {
        let is_known = id.is_empty() || ALL.iter().any(|case| case.name == id);
        let request = |line: &Record| line.text("first_request_line").to_owned();
        let is_health = lines
            .iter()
            .all(|line| request(line).contains("grpc.health.v1"));
        assert!(is_known || is_health, "a call has lost its id: {lines:?}");
    }
}

/// Waits for that many access lines with this id, and lets the runtime go on meanwhile.
async fn access_lines(service: &Process, id: &str, count: usize) -> Vec<Record> {
    let wait = async {
        loop {
            let mut lines = service.log_of(id);
            lines.retain(|line| line.has(&[("msg", "request")]));
            if lines.len() >= count {
                return lines;
            }
            sleep(Duration::from_millis(5)).await;
        }
    };
    let lines = timeout(DEADLINE * 2, wait).await;
    lines.unwrap_or_else(|_| panic!("waited in vain for the access lines of {id}"))
}

#[tokio::test]
async fn a_client_of_tonic_calls_a_server_of_common() {
    let service = service(&[]);
    run_all(&peers::plain(service.grpc()), service).await;
}

#[tokio::test]
async fn a_client_of_common_calls_a_server_of_common() {
    let service = service(&[]);
    run_all(&peers::ours(&service.grpc().to_string()), service).await;
}

#[tokio::test]
async fn a_client_of_common_calls_a_server_of_tonic() {
    raise_file_limit();
    let server = PlainServer::start();
    let connect = peers::ours(&server.address.to_string());
    for case in &ALL {
        eprintln!("{}", case.name);
        run(case, case.name, &connect).await;
        let seen = server.seen(case.name);
        assert_eq!(seen.len(), case.calls, "{}", case.name);
        for headers in seen {
            assert_eq!(headers["x-request-id"], case.name);
            let agent = headers["user-agent"].to_str().expect("ASCII");
            assert!(agent.starts_with("mesh/"), "{agent}");
            let left = common::deadline::parse_timeout(&headers["grpc-timeout"]);
            let left = left.expect("a timeout");
            assert!(left > Duration::ZERO && left <= DEADLINE, "{left:?}");
        }
    }
}
