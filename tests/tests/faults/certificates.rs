//! Certificates that are replaced, broken or expired, with calls between the services.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use certs::Authority;
use tests::{
    Process,
    certificates::{Certificates, authority, issue, of_service},
    http,
    load::Load,
    wait_for,
};

use crate::{FEW, LOAD, QUIET, Row, SECOND, WARNINGS, assert_none_failed, edge_of};

pub(crate) const ROWS: &[Row] = &[
    (
        "mutual TLS: 5 new certificates, then a new authority (old, both, new)",
        "0 failed; an authority more ends no connection; none of the old one is left at the end",
        certificates_are_replaced,
    ),
    (
        "mutual TLS: half-written files for 10 s",
        "0 failed; one warning",
        files_are_half_written,
    ),
];

pub(crate) const LIGHT_ROWS: &[Row] = &[(
    "mutual TLS: the certificate of the only replica expires",
    "calls fail with the reason; served within 10 s of new files",
    a_certificate_expires,
)];

const HELLO: &str = "/api/v1/say-hello?name=x";

fn pair(certificates: &Certificates, variables: &[(&str, &str)]) -> (Process, Process) {
    let [one, two] = ["service1", "service2"].map(|service| certificates.directory(service));
    let own = [("MESH_TLS_DIR", one.as_str()), WARNINGS];
    let service1 = Process::start("service1", &[&own, variables].concat());
    // A certificate has names, and no address.
    let target = format!("localhost:{}", service1.grpc().port());
    let service2 = edge_of(&target, &[("MESH_TLS_DIR", &two)]);
    (service1, service2)
}

/// Changes the files of both services, and waits until both use them.
fn replace(services: &[&Process; 2], change: impl Fn(&str)) {
    let reloads = || services.map(|service| service.metric("certificate_reloads_total"));
    let before = reloads();
    change("service1");
    change("service2");
    wait_for("new certificates", || {
        let is_more = reloads()
            .into_iter()
            .zip(before)
            .all(|(now, before)| now > before);
        is_more.then_some(())
    });
}

fn certificates_are_replaced() -> String {
    let certificates = Certificates::new();
    let (service1, service2) = pair(&certificates, &[]);
    let both = [&service1, &service2];
    let load = Load::start(service2.http(), LOAD);
    sleep(SECOND);
    for _ in 0..4 {
        certificates.renew("service1");
        certificates.renew("service2");
        sleep(SECOND);
    }
    replace(&both, |service| certificates.renew(service));

    let (old, new) = (&certificates.authority, authority());
    let bundle = [old.certificate(), new.certificate()].concat();
    let write = |service: &str, issuer: &Authority, trusted: &str| {
        let mut issued = issue(issuer, &of_service(service));
        trusted.clone_into(&mut issued.authorities);
        certificates.write(service, &issued);
    };
    let of_old = connections_to(&service1);
    assert!(!of_old.is_empty());
    replace(&both, |service| write(service, old, &bundle));
    replace(&both, |service| write(service, &new, &bundle));
    sleep(SECOND);
    assert!(of_old.is_subset(&connections_to(&service1)));
    replace(&both, |service| write(service, &new, new.certificate()));
    let begin = Instant::now();
    wait_for("the end of the old connections", || {
        let now = connections_to(&service1);
        (now.is_disjoint(&of_old) && !now.is_empty()).then_some(())
    });
    let gone = begin.elapsed().as_secs_f64();
    let failed = assert_none_failed(&load.stop());
    for service in both {
        assert!(service.metric("certificate_reload_failures_total") == 0.0);
    }
    format!("{failed}; the old connections are gone after {gone:.1} s")
}

/// The ports of the clients that are connected to the gRPC port of a service on loopback.
fn connections_to(service: &Process) -> BTreeSet<u16> {
    const ESTABLISHED: &str = "01";
    let server = format!("{:04X}", service.grpc().port());
    let port = |address: &str| Some(address.split_once(':')?.1.to_owned());
    let table = fs::read_to_string("/proc/self/net/tcp").expect("Linux has it");
    let lines = table.lines().filter_map(|line| {
        let [_, local, remote, state, ..] = line.split_whitespace().collect::<Vec<_>>()[..] else {
            return None;
        };
        let is_one = port(local)? == server && state == ESTABLISHED;
        let client = port(remote)?;
        is_one.then(|| u16::from_str_radix(&client, 16).ok())?
    });
    lines.collect()
}

fn files_are_half_written() -> String {
    let certificates = Certificates::new();
    let (service1, service2) = pair(&certificates, &[]);
    let load = Load::start(service2.http(), LOAD);
    let directory = certificates.directory("service1");
    for number in 0..10 {
        let name = ["tls.crt", "tls.key", "ca.crt"][number % 3];
        let file = Path::new(&directory).join(name);
        let whole = fs::read(&file).expect("it can be read");
        fs::write(&file, &whole[..whole.len() / 2]).expect("it can be written");
        sleep(SECOND);
    }
    let warnings = service1.log();
    let warning = [("action", "certificates"), ("status", "failure")];
    let warnings = warnings.iter().filter(|line| line.has(&warning)).count();
    assert_eq!(warnings, 1);
    format!("{}; {warnings} warning", assert_none_failed(&load.stop()))
}

fn a_certificate_expires() -> String {
    let certificates = Certificates::new();
    let mut short = of_service("service1");
    short.ttl = 6 * SECOND;
    certificates.write("service1", &issue(&certificates.authority, &short));
    // An open connection goes on after a certificate has expired.
    let short_lived = [("MAX_CONNECTION_AGE", "1s"), QUIET];
    let (_service1, service2) = pair(&certificates, &short_lived);
    let load = Load::start(service2.http(), FEW);
    let down = [("action", "replica"), ("status", "down")];
    let line = service2.line(&down);
    let error = line.text("error");
    assert!(error.contains("expired"), "{error}");
    wait_for("failures", || {
        (http::get(service2.http(), HELLO).status == 503).then_some(())
    });
    certificates.renew("service1");
    let begin = Instant::now();
    wait_for("a call that is served", || {
        (http::get(service2.http(), HELLO).status == 200).then_some(())
    });
    let again = begin.elapsed();
    assert!(again < 10 * SECOND + Duration::from_secs(3), "{again:?}");
    let failures = load.stop().failures();
    let only_unavailable = failures.iter().all(|(status, _)| status == "503");
    assert!(only_unavailable, "{failures:?}");
    format!(
        "503 while it lasts; served {:.1} s after new files",
        again.as_secs_f64()
    )
}
