//! Replicas that die, freeze, vanish, come back, or are replaced.

use std::{
    collections::HashSet,
    fs,
    path::PathBuf,
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

use tests::{Port, Process, http, load::Load, wait_for};

use crate::{
    FEW, LOAD, Row, SECOND, SLICES, WARNINGS, assert_none_failed, backend, backend_on, edge,
    edge_of, millis, picks,
};

pub(crate) const ROWS: &[Row] = &[
    (
        "kill -9 of one of two replicas",
        "0 failed; no pick after 1 s",
        one_of_two_is_killed,
    ),
    (
        "kill -9 of the only replica, back after 2 s",
        "0 failed",
        the_only_one_is_killed_and_comes_back,
    ),
    (
        "SIGSTOP of one of two for 10 s",
        "0 failed; p99 of before, picks again within 5 s",
        one_of_two_is_frozen,
    ),
    (
        "packets to one of two dropped for 10 s",
        "as SIGSTOP",
        packets_to_one_of_two_are_dropped,
    ),
    (
        "rolling restart of three replicas by SIGTERM",
        "0 failed",
        three_are_restarted_one_by_one,
    ),
    (
        "SIGTERM to service2 with requests in flight",
        "all answered; exit 0",
        the_edge_is_told_to_stop,
    ),
];

pub(crate) const LIGHT_ROWS: &[Row] = &[
    (
        "the look-up of the name fails for 60 s",
        "0 failed",
        the_look_up_fails,
    ),
    (
        "the name moves to an address where the replica starts 12 s later",
        "0 failed; the old address is left then",
        the_name_moves_too_early,
    ),
    (
        "all replicas gone for 30 s",
        "503 within 3 s, later at once; normal within 1 s of return",
        all_are_gone_for_a_while,
    ),
];

/// The time until a silent replica is detected: its calls become late, then it has a second to
/// show a sign of life. The rest is slack.
const UNTIL_SILENCE_IS_KNOWN: Duration = Duration::from_secs(2);

fn one_of_two_is_killed() -> String {
    let (one, other) = (backend(), backend());
    let dead = one.grpc().to_string();
    let service2 = edge(&[&one, &other], &[]);
    let load = Load::start(service2.http(), LOAD);
    sleep(2 * SECOND);
    assert!(picks(&service2, &dead) > 0.0);
    drop(one); // kill -9
    sleep(SECOND);
    let before = picks(&service2, &dead);
    sleep(2 * SECOND);
    let more = picks(&service2, &dead) - before;
    assert!(more == 0.0, "{more} picks of a dead replica");
    format!("{}; no pick after 1 s", assert_none_failed(&load.stop()))
}

fn the_only_one_is_killed_and_comes_back() -> String {
    let port = Port::keep();
    let only = backend_on(&port);
    let service2 = edge(&[&only], &[]);
    let load = Load::start(service2.http(), LOAD);
    sleep(2 * SECOND);
    drop(only); // kill -9
    sleep(2 * SECOND);
    let _back = backend_on(&port);
    sleep(2 * SECOND);
    let samples = load.stop();
    let longest = samples.percentile(1.0);
    format!(
        "{}, the slowest took {}",
        assert_none_failed(&samples),
        millis(longest)
    )
}

fn one_of_two_is_frozen() -> String {
    let (one, other) = (backend(), backend());
    let frozen = one.grpc().to_string();
    let service2 = edge(&[&one, &other], &[]);
    out_for_ten_seconds(
        &service2,
        &frozen,
        || one.signal("STOP"),
        || one.signal("CONT"),
    )
}

/// A replica is out for ten seconds, and nothing tells the edge.
fn out_for_ten_seconds(
    service2: &Process,
    replica: &str,
    out: impl FnOnce(),
    back: impl FnOnce(),
) -> String {
    let load = Load::start(service2.http(), LOAD);
    sleep(SECOND);
    let begin = Instant::now();
    sleep(3 * SECOND);
    let fault = Instant::now();
    out();
    sleep(10 * SECOND);
    let before = picks(service2, replica);
    let returned = Instant::now();
    back();
    // More picks than the probes, of which there is one for each worker.
    wait_for("picks", || {
        (picks(service2, replica) > before + 20.0).then_some(())
    });
    let again = returned.elapsed();
    let samples = load.stop();
    let none_failed = assert_none_failed(&samples);
    let usual = samples.within(begin, fault).percentile(0.99);
    let known = fault + UNTIL_SILENCE_IS_KNOWN;
    let during = samples.within(known, returned).percentile(0.99);
    assert!(during <= usual * 2 + SLICES, "{usual:?} to {during:?}");
    assert!(again < 5 * SECOND, "{again:?}");
    format!(
        "{none_failed}; p99 {} before, {} during; picks again after {:.1} s",
        millis(usual),
        millis(during),
        again.as_secs_f64()
    )
}

/// A network namespace, with a cable to it.
struct Namespace;

const NAMESPACE: &str = "mesh-faults";
const OUTSIDE: &str = "10.213.77.1";
const INSIDE: &str = "10.213.77.2";

impl Namespace {
    fn new() -> Option<Self> {
        let new = ip(&["netns", "add", NAMESPACE]).then_some(Self)?;
        let is_up = ip(&[
            "link", "add", "mesh-out", "type", "veth", "peer", "name", "mesh-in", "netns",
            NAMESPACE,
        ]) && ip(&["addr", "add", &format!("{OUTSIDE}/24"), "dev", "mesh-out"])
            && ip(&["link", "set", "mesh-out", "up"])
            && ip(&[
                "-n",
                NAMESPACE,
                "addr",
                "add",
                &format!("{INSIDE}/24"),
                "dev",
                "mesh-in",
            ])
            && new.cable("up")
            && ip(&["-n", NAMESPACE, "link", "set", "lo", "up"]);
        is_up.then_some(new)
    }

    /// Sets the inner end of the cable `up` or `down`. Packets that meet it `down` are lost.
    fn cable(&self, state: &str) -> bool {
        let Self = self;
        ip(&["-n", NAMESPACE, "link", "set", "mesh-in", state])
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // The cable goes with it.
        ip(&["netns", "delete", NAMESPACE]);
    }
}

fn ip(arguments: &[&str]) -> bool {
    let output = Command::new("ip").args(arguments).output();
    output.is_ok_and(|output| output.status.success())
}

fn packets_to_one_of_two_are_dropped() -> String {
    let Some(namespace) = Namespace::new() else {
        return "not run here: it needs root and iproute2".into();
    };
    let one = Process::start_within(
        &["ip", "netns", "exec", NAMESPACE],
        "service1",
        &[("HOST", INSIDE), ("GRPC_PORT", "50051"), WARNINGS],
    );
    let other = backend();
    let cut_off = format!("{INSIDE}:50051");
    let service2 = edge_of(&format!("{cut_off},{}", other.grpc()), &[]);
    let shown = out_for_ten_seconds(
        &service2,
        &cut_off,
        || assert!(namespace.cable("down")),
        || assert!(namespace.cable("up")),
    );
    drop(one);
    shown
}

fn three_are_restarted_one_by_one() -> String {
    let ports = [(); 3].map(|()| Port::keep());
    let mut replicas = ports.each_ref().map(backend_on);
    let service2 = edge(&replicas.each_ref(), &[]);
    let load = Load::start(service2.http(), LOAD);
    sleep(SECOND);
    for (replica, port) in replicas.iter_mut().zip(&ports) {
        replica.signal("TERM");
        wait_for("its end", || {
            std::net::TcpStream::connect(replica.grpc())
                .is_err()
                .then_some(())
        });
        sleep(SECOND / 2);
        let before = picks(&service2, replica.grpc());
        let old = std::mem::replace(replica, backend_on(port));
        assert_eq!(old.ended().status.code(), Some(0));
        wait_for("picks of the new one", || {
            (picks(&service2, replica.grpc()) > before + 20.0).then_some(())
        });
    }
    assert_none_failed(&load.stop())
}

fn the_edge_is_told_to_stop() -> String {
    let only = backend();
    let service2 = edge(&[&only], &[("RUST_LOG", "info")]);
    let load = Load::start(service2.http(), LOAD);
    sleep(2 * SECOND);
    let begin = Instant::now();
    let ended = service2.terminate();
    let took = begin.elapsed();
    assert_eq!(ended.status.code(), Some(0));
    let samples = load.stop();
    let taken: HashSet<_> = ended.log_by_id().into_keys().collect();
    let served: HashSet<_> = samples
        .0
        .iter()
        .filter(|one| one.outcome.is_ok())
        .map(|one| &one.id)
        .collect();
    let lost: Vec<_> = taken
        .iter()
        .filter(|id| id.starts_with("load-") && !served.contains(id))
        .collect();
    assert!(lost.is_empty(), "taken, and without a response: {lost:?}");
    assert!(served.iter().all(|id| taken.contains(*id)));
    format!(
        "all {} that it took were answered; exit 0 after {}",
        served.len(),
        millis(took)
    )
}

fn all_are_gone_for_a_while() -> String {
    let ports = [(); 2].map(|()| Port::keep());
    let replicas = ports.each_ref().map(backend_on);
    let service2 = edge(&replicas.each_ref(), &[]);
    let load = Load::start(service2.http(), LOAD);
    sleep(SECOND);
    let begin = Instant::now();
    sleep(SECOND);
    let calm = Instant::now();
    sleep(SECOND / 10); // for requests in flight
    drop(replicas); // kill -9
    let gone = Instant::now();
    sleep(30 * SECOND);
    let back = Instant::now();
    let _replicas = ports.each_ref().map(backend_on);
    let ready = Instant::now();
    sleep(3 * SECOND);
    let samples = load.stop();
    assert_none_failed(&samples.within(begin, calm));

    let first = samples.within(gone, gone + SECOND);
    assert_eq!(first.failures(), [("503".to_owned(), first.count())]);
    let slowest = first
        .0
        .iter()
        .map(|one| one.took)
        .max()
        .expect("there are some");
    assert!(slowest < Duration::from_millis(3_300), "{slowest:?}");
    let later = samples.within(gone + 5 * SECOND, back);
    assert_eq!(later.failures(), [("503".to_owned(), later.count())]);
    let mut took: Vec<_> = later.0.iter().map(|one| one.took).collect();
    took.sort();
    let p99 = took[took.len() * 99 / 100];
    assert!(p99 < SLICES, "{p99:?}");

    assert_none_failed(&samples.within(ready + SECOND, ready + 10 * SECOND));
    let all = samples.0.iter();
    let last = all
        .filter(|one| one.outcome.is_err())
        .map(|one| one.at + one.took)
        .max();
    let normal = last
        .expect("there were some")
        .saturating_duration_since(ready);
    format!(
        "first 503 within {}, later p99 {}; normal {} after the return",
        millis(slowest),
        millis(p99),
        millis(normal)
    )
}

/// An `/etc/hosts` for one process, in a mount namespace without any other source of names.
struct Hosts {
    directory: PathBuf,
}

impl Hosts {
    /// `None` where it needs root.
    fn new() -> Option<Self> {
        let directory = std::env::temp_dir().join(format!("mesh-faults-{}", std::process::id()));
        fs::create_dir_all(&directory).expect("it can be written");
        let new = Self { directory };
        new.set("");
        let mount = new.mount();
        let [unshare, arguments @ ..] = wrapper(&mount);
        let status = Command::new(unshare).args(arguments).arg("true").status();
        status.is_ok_and(|status| status.success()).then_some(new)
    }

    fn path(&self) -> PathBuf {
        self.directory.join("hosts")
    }

    fn mount(&self) -> String {
        format!(
            "mount --bind {} /etc/hosts && mount --bind /dev/null /etc/resolv.conf && exec \"$@\"",
            self.path().display()
        )
    }

    /// Sets the address of the name `replicas.test`, or none.
    fn set(&self, address: &str) {
        let line = format!("{address} replicas.test\n");
        let line = if address.is_empty() { "" } else { &line };
        fs::write(self.path(), line).expect("it can be written");
    }

    /// service2 that calls the name at this port, ready on all workers.
    fn edge(&self, port: u16) -> Process {
        let target = format!("replicas.test:{port}");
        let variables = [("SERVICE1_CHANNEL", target.as_str()), WARNINGS];
        let service2 = Process::start_within(&wrapper(&self.mount()), "service2", &variables);
        service2.wait_until_ready();
        service2
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn wrapper(mount: &str) -> [&str; 6] {
    ["unshare", "--mount", "sh", "-c", mount, "sh"]
}

const NEEDS_ROOT: &str = "not run here: it needs root and unshare";

fn the_look_up_fails() -> String {
    let Some(hosts) = Hosts::new() else {
        return NEEDS_ROOT.into();
    };
    hosts.set("127.0.0.1");
    let only = backend();
    let service2 = hosts.edge(only.grpc().port());
    let load = Load::start(service2.http(), FEW);
    sleep(SECOND);
    hosts.set("");
    sleep(60 * SECOND);
    service2.line(&[("action", "look_up"), ("status", "failure")]);
    let shown = assert_none_failed(&load.stop());
    assert_eq!(http::get(service2.http(), "/readyz").status, 200);
    shown
}

fn the_name_moves_too_early() -> String {
    let Some(hosts) = Hosts::new() else {
        return NEEDS_ROOT.into();
    };
    hosts.set("127.0.0.1");
    let old = backend();
    let port = old.grpc().port();
    let service2 = hosts.edge(port);
    let load = Load::start(service2.http(), FEW);
    sleep(SECOND);
    hosts.set("127.0.0.2");
    sleep(12 * SECOND);
    service2.line(&[("action", "replica"), ("status", "down")]);
    let variables = [
        ("HOST", "127.0.0.2"),
        ("GRPC_PORT", &port.to_string()),
        WARNINGS,
    ];
    let _new = Process::start("service1", &variables);
    let of_new = format!("127.0.0.2:{port}");
    wait_for("calls to the new one", || {
        (picks(&service2, &of_new) > 0.0).then_some(())
    });
    // Each worker leaves once it has connected the new one.
    let of_old = format!("replicas{{replica=\"127.0.0.1:{port}\"");
    wait_for("the old one to be left", || {
        let metrics = http::get(service2.admin(), "/metrics");
        (!metrics.text().contains(&of_old)).then_some(())
    });
    assert_none_failed(&load.stop())
}
