//! TLS: who may call whom, and how certificates are replaced.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use certs::{Certificate, Issued};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustls::{
    HandshakeKind,
    version::{TLS12, TLS13},
};
use socket2::SockRef;
use tests::{
    Process,
    certificates::{Certificates, Client, authority, issue, of_service},
    frame, http, wait_for,
};

const HELLO: &str = "/api/v1/say-hello?name=test";
const SERVICE2: &str = "spiffe://mesh.local/service2";

fn service1(certificates: &Certificates, variables: &[(&str, &str)]) -> Process {
    let directory = certificates.directory("service1");
    let own = [("MESH_TLS_DIR", directory.as_str()), ("RUST_LOG", "debug")];
    Process::start("service1", &[&own, variables].concat())
}

/// service2 that calls a service1 of these host names.
fn service2(certificates: &Certificates, service1: &Process, hosts: &[&str]) -> Process {
    let directory = certificates.directory("service2");
    let port = service1.grpc().port();
    let channel: Vec<_> = hosts.iter().map(|host| format!("{host}:{port}")).collect();
    let channel = channel.join(",");
    let variables = [
        ("MESH_TLS_DIR", directory.as_str()),
        ("SERVICE1_CHANNEL", &channel),
        ("FAILFAST", "1s"),
    ];
    Process::start("service2", &variables)
}

fn pair(certificates: &Certificates, variables: &[(&str, &str)]) -> (Process, Process) {
    let service1 = service1(certificates, variables);
    let service2 = service2(certificates, &service1, &["localhost"]);
    service2.wait_until_ready();
    (service1, service2)
}

/// Gives a service a certificate that has changed.
fn write(certificates: &Certificates, service: &str, change: impl FnOnce(&mut Certificate)) {
    let mut certificate = of_service(service);
    change(&mut certificate);
    let issued = issue(&certificates.authority, &certificate);
    certificates.write(service, &issued);
}

/// A certificate that has expired an hour ago.
fn expired(certificates: &Certificates, service: &str) -> Issued {
    let mut expired = of_service(service);
    expired.age = expired.ttl + Duration::from_hours(1);
    issue(&certificates.authority, &expired)
}

#[test]
fn calls_are_mutual_tls_and_access_lines_name_the_peer() {
    let certificates = Certificates::new();
    let allowed = [(
        "MESH_ALLOWED_PEERS",
        "orders.example, spiffe://mesh.local/service2",
    )];
    let (service1, service2) = pair(&certificates, &allowed);
    let response = http::get(service2.http(), HELLO);
    assert_eq!(response.status, 200);
    let line = service1.access_line(response.id());
    assert_eq!(line.text("peer"), SERVICE2);
}

#[test]
fn a_peer_that_is_not_allowed_is_refused_with_an_id_and_a_line() {
    let certificates = Certificates::new();
    let allowed = [("MESH_ALLOWED_PEERS", "spiffe://mesh.local/orders")];
    let service1 = service1(&certificates, &allowed);
    let service2 = service2(&certificates, &service1, &["localhost"]);
    let response = http::get(service2.http(), HELLO);
    assert_eq!(response.status, 403, "{}", response.text());
    let refused = service1.line(&[("peer", SERVICE2), ("grpc_code", "PERMISSION_DENIED")]);
    assert!(!refused.text("request_id").is_empty());
    assert!(
        !service1
            .log()
            .iter()
            .any(|line| line.has(&[("action", "process_name")]))
    );
}

#[test]
fn clients_without_a_good_certificate_are_refused_and_the_log_says_why() {
    let certificates = Certificates::new();
    let service1 = service1(&certificates, &[]);
    let trusted = certificates.authority.certificate();
    let good = issue(&certificates.authority, &of_service("service2"));
    let expired = expired(&certificates, "service2");
    let foreign = issue(&authority(), &of_service("service2"));
    for (what, own, version, reason) in [
        ("none", None, &TLS13, "peer sent no certificates"),
        ("another authority", Some(&foreign), &TLS13, "UnknownIssuer"),
        ("expired", Some(&expired), &TLS13, "certificate expired"),
        ("TLS 1.2", Some(&good), &TLS12, "peer is incompatible"),
    ] {
        // The log has one such line a second.
        wait_for(what, || {
            let refused = Client::new(trusted, own, version).greet(service1.grpc());
            assert!(refused.is_err(), "{what}");
            let log = service1.log();
            let mut lines = log.iter().filter(|line| line.has(&[("action", "tls")]));
            let is_told = lines.any(|line| line.text("error").contains(reason));
            is_told.then_some(())
        });
    }
    let served = Client::new(trusted, Some(&good), &TLS13).greet(service1.grpc());
    served.expect("a good certificate is taken");
}

#[test]
fn a_client_without_tls_gets_a_400_that_says_so() {
    let certificates = Certificates::new();
    let directory = certificates.directory("service1");
    let service1 = service1(&certificates, &[("EDGE_TLS_DIR", &directory)]);
    for port in [service1.http(), service1.grpc()] {
        let response = http::get(port, "/healthz");
        assert_eq!(response.status, 400);
        assert!(response.problem().contains("TLS"), "{}", response.text());
    }
    let mut h2c = TcpStream::connect(service1.grpc()).expect("it listens");
    h2c.write_all(&frame::hello()).expect("it reads");
    let mut all = String::new();
    h2c.read_to_string(&mut all).expect("it closes");
    assert!(all.starts_with("HTTP/1.1 400 "), "{all}");
}

#[test]
fn a_session_is_never_resumed_so_a_removed_authority_is_never_trusted() {
    let certificates = Certificates::new();
    let service1 = service1(&certificates, &[]);
    let own = issue(&certificates.authority, &of_service("service2"));
    let client = Client::new(certificates.authority.certificate(), Some(&own), &TLS13);
    for _ in 0..2 {
        let kind = client.greet(service1.grpc()).expect("it is served");
        assert_eq!(kind, HandshakeKind::Full);
    }
    let other = authority();
    certificates.write("service1", &issue(&other, &of_service("service1")));
    service1.line(&[("action", "certificates"), ("status", "success")]);
    let client = Client::new(other.certificate(), Some(&own), &TLS13);
    client
        .greet(service1.grpc())
        .expect_err("its authority is gone");
}

#[test]
fn a_server_with_another_name_or_authority_is_not_called() {
    let certificates = Certificates::new();
    let service1 = service1(&certificates, &[]);
    let misnamed = service2(&certificates, &service1, &["127.0.0.1"]);
    let line = misnamed.line(&[("action", "replica"), ("status", "down")]);
    let error = line.text("error");
    assert!(error.contains("not valid for name"), "{error}");
    assert_eq!(http::get(misnamed.http(), HELLO).status, 503);

    let others = Certificates::new();
    let distrusting = service2(&others, &service1, &["localhost"]);
    let line = distrusting.line(&[("action", "replica"), ("status", "down")]);
    let error = line.text("error");
    assert!(error.contains("UnknownIssuer"), "{error}");
}

#[test]
fn a_service_without_a_dns_name_is_called_by_its_uri_or_not_at_all() {
    const SERVICE1: &str = "spiffe://mesh.local/service1";
    let certificates = Certificates::new();
    // What SPIRE issues.
    write(&certificates, "service1", |it| it.dns_names.clear());
    write(&certificates, "service2", |it| it.dns_names.clear());
    let service1 = service1(&certificates, &[("MESH_ALLOWED_PEERS", SERVICE2)]);
    let service2 = |peer: &[(&str, &str)]| {
        let directory = certificates.directory("service2");
        let channel = service1.grpc().to_string();
        let own = [
            ("MESH_TLS_DIR", directory.as_str()),
            ("SERVICE1_CHANNEL", &channel),
            ("FAILFAST", "1s"),
        ];
        Process::start("service2", &[&own, peer].concat())
    };
    let expecting = service2(&[("SERVICE1_PEER", SERVICE1)]);
    expecting.wait_until_ready();
    let response = http::get(expecting.http(), HELLO);
    assert_eq!(response.status, 200, "{}", response.text());
    let line = service1.access_line(response.id());
    assert_eq!(line.text("peer"), SERVICE2);

    for (peer, reason) in [
        (None, "not valid for name"),
        (
            Some("spiffe://mesh.local/orders"),
            "the channel expects spiffe://mesh.local/orders, and the certificate is of \
             spiffe://mesh.local/service1",
        ),
    ] {
        let peer = peer.map(|peer| ("SERVICE1_PEER", peer));
        let service2 = service2(peer.as_slice());
        let line = service2.line(&[("action", "replica"), ("status", "down")]);
        let error = line.text("error");
        assert!(error.contains(reason), "{error}");
        assert_eq!(http::get(service2.http(), HELLO).status, 503);
    }
}

#[test]
fn settings_of_calls_that_contradict_each_other_are_one_line_and_exit_code_2() {
    let certificates = Certificates::new();
    let directory = certificates.directory("service2");
    let tls = ("MESH_TLS_DIR", directory.as_str());
    let long = format!("spiffe://mesh.local/{}", "a".repeat(2_048));
    for (variables, parts) in [
        (
            &[tls, ("SERVICE1_PEER", "mesh.local/service1")][..],
            ["SERVICE1_PEER", "it must begin with spiffe://"],
        ),
        (
            &[tls, ("SERVICE1_PEER", &long)],
            ["SERVICE1_PEER", "at most 2048 bytes"],
        ),
        (
            &[tls, ("SERVICE1_PEER", "spiffe://mesh.local")],
            ["SERVICE1_PEER", "a path"],
        ),
        (
            &[("SERVICE1_PEER", "spiffe://mesh.local/service1")],
            ["SERVICE1_PEER needs MESH_TLS_DIR", "set both or none"],
        ),
        (
            &[tls, ("SERVICE1_CHANNEL", "http://localhost:1")],
            [
                "localhost:1 begins with http://",
                "MESH_TLS_DIR is set: write it without",
            ],
        ),
    ] {
        let ended = Process::spawn("service2", &[], variables).ended();
        assert_eq!(ended.status.code(), Some(2), "{}", ended.stderr);
        assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
        for part in parts {
            assert!(ended.stderr.contains(part), "{part}: {}", ended.stderr);
        }
    }
}

#[test]
fn a_tcp_check_that_sends_nothing_is_no_failed_handshake() {
    let certificates = Certificates::new();
    let directory = certificates.directory("service1");
    let service1 = service1(&certificates, &[("EDGE_TLS_DIR", &directory)]);
    let failures = || service1.metric("tls_handshake_failures_total");
    for port in [service1.http(), service1.grpc()] {
        for ends_with_reset in [false, true] {
            let check = TcpStream::connect(port).expect("it listens");
            let linger = ends_with_reset.then_some(Duration::ZERO);
            SockRef::from(&check).set_linger(linger).expect("a socket");
        }
    }
    // A client that begins and gives up is counted, after those before it.
    let mut begun = TcpStream::connect(service1.grpc()).expect("it listens");
    begun.write_all(&[22]).expect("it reads");
    drop(begun);
    wait_for("a failed handshake", || (failures() > 0.0).then_some(()));
    assert!((failures() - 1.0).abs() < 0.1, "{}", failures());
    let log = service1.log();
    let lines = log.iter().filter(|line| line.has(&[("action", "tls")]));
    assert_eq!(lines.count(), 1);
}

#[test]
fn the_edge_needs_no_authorities() {
    let certificates = Certificates::new();
    let directory = tempfile::tempdir().expect("a directory");
    let issued = issue(&certificates.authority, &of_service("service1"));
    // As cert-manager writes it for a certificate of ACME, whose ca.crt is empty if it is there.
    for ca in [None, Some("")] {
        let write = |name: &str, text: &str| fs::write(directory.path().join(name), text);
        write("tls.crt", &issued.certificate).expect("it can be written");
        write("tls.key", &issued.key).expect("it can be written");
        if let Some(ca) = ca {
            write("ca.crt", ca).expect("it can be written");
        }
        let edge = directory.path().to_str().expect("it is UTF-8");
        let service1 = Process::start("service1", &[("EDGE_TLS_DIR", edge)]);
        let client = Client::new(certificates.authority.certificate(), None, &TLS13);
        client.greet(service1.http()).expect("it serves");
        let metrics = http::get(service1.admin(), "/metrics");
        let expiry = "certificate_expiry_timestamp_seconds{directory=\"edge\"";
        let expiries = metrics
            .text()
            .lines()
            .filter(|line| line.starts_with(expiry));
        assert_eq!(expiries.count(), 1, "{}", metrics.text());
    }
}

#[test]
fn a_file_that_blocks_stops_neither_the_start_nor_the_reloads() {
    let certificates = Certificates::new();
    let directory = certificates.directory("service1");
    let service1 = service1(&certificates, &[]);
    let looked = || service1.metric("certificate_look_timestamp_seconds{directory=\"mesh\"}");
    let key = fs::canonicalize(format!("{directory}/tls.key")).expect("it is there");
    fs::remove_file(&key).expect("it can be removed");
    mknodat(CWD, &key, FileType::Fifo, Mode::RWXU, 0).expect("a FIFO");
    let line = service1.line(&[("action", "certificates"), ("status", "failure")]);
    let error = line.text("error");
    assert!(error.contains("tls.key: it is a FIFO"), "{error}");
    let last = looked();
    assert!(last > 1e9, "{last}");

    let ended = Process::spawn("service1", &[], &[("MESH_TLS_DIR", &directory)]).ended();
    assert_eq!(ended.status.code(), Some(2), "{}", ended.stderr);
    assert!(
        ended.stderr.contains("tls.key: it is a FIFO"),
        "{}",
        ended.stderr
    );

    certificates.renew("service1");
    service1.line(&[("action", "certificates"), ("status", "success")]);
    assert!(looked() > last, "the look that failed does not count");
}

#[test]
fn an_address_under_two_names_is_one_replica_of_the_name_in_its_certificate() {
    let certificates = Certificates::new();
    let service1 = service1(&certificates, &[]);
    for hosts in [["127.0.0.1", "localhost"], ["localhost", "127.0.0.1"]] {
        let service2 = service2(&certificates, &service1, &hosts);
        service2.wait_until_ready();
        assert_eq!(http::get(service2.http(), HELLO).status, 200, "{hosts:?}");
        let metrics = http::get(service2.admin(), "/metrics");
        let of_replicas = metrics
            .text()
            .lines()
            .filter(|line| line.starts_with("replicas{"));
        let own = format!("replicas{{replica=\"{}\"", service1.grpc());
        let is_own = |line: &str| line.starts_with(&own);
        assert!(of_replicas.clone().all(is_own), "{}", metrics.text());
        assert!(service2.metric(&format!("{own},state=\"up\"}}")) > 0.0);
    }
}

#[test]
fn the_edge_speaks_tls_and_its_health_check_too() {
    let certificates = Certificates::new();
    let directory = certificates.directory("service1");
    let edge = ("EDGE_TLS_DIR", directory.as_str());
    let service1 = service1(&certificates, &[edge]);
    let trusted = certificates.authority.certificate();
    for version in [&TLS12, &TLS13] {
        let client = Client::new(trusted, None, version);
        for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
            assert_eq!(client.greet(service1.http()).expect("it serves"), kind);
        }
    }
    // It asks over TLS, and reads no certificate.
    let port = service1.http().port().to_string();
    for (variables, code) in [
        (&[("PORT", port.as_str()), edge][..], 0),
        (&[("PORT", &port), ("EDGE_TLS_DIR", "/nowhere")], 0),
        (&[("PORT", &port)], 1),
    ] {
        let checked = Process::spawn("service1", &["healthcheck"], variables).ended();
        assert_eq!(checked.status.code(), Some(code), "{}", checked.stderr);
    }
    let address = format!("https://{}", service1.http());
    let checked = Process::spawn("service1", &["healthcheck", "--address", &address], &[]).ended();
    assert_eq!(checked.status.code(), Some(0), "{}", checked.stderr);
}

#[test]
fn certificates_that_can_t_be_used_are_one_line_and_exit_code_2() {
    let certificates = Certificates::new();
    let directory = certificates.directory("service1");
    let other = issue(&certificates.authority, &of_service("service1"));
    let mut mixed = issue(&certificates.authority, &of_service("service1"));
    mixed.key = other.key;
    let expired = expired(&certificates, "service1");
    let mut foreign = issue(&authority(), &of_service("service1"));
    foreign.authorities = certificates.authority.certificate().to_owned();
    for (issued, reason) in [
        (
            mixed,
            "tls.key: it does not belong to the first certificate",
        ),
        (expired, "tls.crt: the certificate has expired at 20"),
        (
            foreign,
            "tls.crt: none of the authorities in ca.crt has issued",
        ),
    ] {
        certificates.write("service1", &issued);
        for variable in ["MESH_TLS_DIR", "EDGE_TLS_DIR"] {
            if variable == "EDGE_TLS_DIR" && reason.contains("ca.crt") {
                continue; // the edge does not read it
            }
            let ended = Process::spawn("service1", &[], &[(variable, &directory)]).ended();
            assert_eq!(ended.status.code(), Some(2), "{reason}");
            assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
            for part in [reason, variable, &directory] {
                assert!(ended.stderr.contains(part), "{part}: {}", ended.stderr);
            }
        }
    }
    let alone = Process::spawn("service1", &[], &[("MESH_ALLOWED_PEERS", "a")]).ended();
    assert_eq!(alone.status.code(), Some(2));
    assert_eq!(alone.stderr.lines().count(), 1, "{}", alone.stderr);
}

#[test]
fn a_channel_without_the_settings_of_the_service_is_one_line_and_exit_code_2() {
    let certificates = Certificates::new();
    let directory = certificates.directory("service1");
    let variables = [("MESH_TLS_DIR", &*directory), ("FORGETS_TLS", "true")];
    let ended = Process::spawn("fixture", &[], &variables).ended();
    assert_eq!(ended.status.code(), Some(2));
    assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
    for part in ["nowhere:1", "MESH_TLS_DIR", "Channel::plain"] {
        assert!(ended.stderr.contains(part), "{part}: {}", ended.stderr);
    }
}

#[test]
fn new_files_are_taken_and_bad_ones_reported_once() {
    let certificates = Certificates::new();
    let (service1, service2) = pair(&certificates, &[]);
    let key = fs::canonicalize(certificates.directory("service1")).expect("it is there");
    let key = key.join("..data/tls.key");
    let good = fs::read(&key).expect("it can be read");
    fs::write(&key, &good[..good.len() / 2]).expect("it can be written");
    service1.line(&[("action", "certificates"), ("status", "failure")]);
    let response = http::get(service2.http(), HELLO);
    assert_eq!(response.status, 200, "the last good ones stay");
    assert!((service1.metric("certificate_reload_failures_total") - 1.0).abs() < 0.1);

    certificates.renew("service1");
    service1.line(&[("action", "certificates"), ("status", "success")]);
    assert_eq!(http::get(service2.http(), HELLO).status, 200);
    let failures = service1.log();
    let failed = [("action", "certificates"), ("status", "failure")];
    let failures = failures.iter().filter(|line| line.has(&failed));
    assert_eq!(failures.count(), 1);
}
