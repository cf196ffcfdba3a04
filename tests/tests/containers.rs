//! The pair in real containers, as `docker compose up` runs it. `make e2e` builds the images and
//! runs these tests; they need the ports 8080, 8081, 9080 and 9081.

use std::{
    collections::BTreeMap,
    fs,
    net::{Ipv4Addr, SocketAddr},
    process::Command,
    thread::{self, sleep},
    time::{Duration, Instant},
};

use serde_json::Value;
use tests::{
    Record, http,
    load::{Load, Plan},
    wait_for,
};

/// A name of its own, so that it stops only what it started.
const PROJECT: &str = "mesh-e2e";

/// The largest that an image may be, in bytes.
const IMAGE_LIMIT: u64 = 12_000_000;

const SAY_HELLO: &str = "/api/v1/say-hello?name=test";

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .env("COMPOSE_PROJECT_NAME", PROJECT)
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .output()
        .expect("Docker is there");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {stderr}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// The running pair; it goes when the test ends, however it does.
struct Pair;

impl Pair {
    fn up() -> Self {
        let pair = Self;
        compose(&["up", "--detach", "--wait", "--no-build"]);
        pair
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        let _ = Command::new("docker")
            .args(["compose", "--project-name", PROJECT, "down", "--volumes"])
            .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
            .status();
    }
}

fn compose(arguments: &[&str]) -> String {
    run("docker", &[&["compose"], arguments].concat())
}

/// A value of a container, as a Go template has it.
fn inspect(service: &str, template: &str) -> String {
    let container = format!("{PROJECT}-{service}-1");
    run("docker", &["inspect", "--format", template, &container])
        .trim()
        .to_owned()
}

fn log_of(service: &str, id: &str) -> Vec<Record> {
    let log = compose(&["logs", "--no-color", "--no-log-prefix", service]);
    let records = log.lines().map(Record::read);
    records
        .filter(|line| line.text("request_id") == id)
        .collect()
}

fn port(number: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, number).into()
}

/// The address of a container in the network of the pair.
fn address(service: &str) -> String {
    let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
    inspect(service, format)
}

/// The ports for operators are published on the loopback of this host alone, and other containers
/// reach them.
fn operators_read_from_this_host_and_from_a_container() {
    for (service, number) in [("service1", 9080), ("service2", 9081)] {
        assert_eq!(http::get(port(number), "/metrics").status, 200);
        let bindings = inspect(service, "{{json .HostConfig.PortBindings}}");
        let bindings: serde_json::Value = serde_json::from_str(&bindings).expect("JSON");
        let published = bindings[format!("{number}/tcp")].as_array();
        let published = published.expect("it is published");
        assert!(published.len() == 1 && published[0]["HostIp"] == "127.0.0.1");
        // The image has one program, whose health check asks the other container.
        let network = format!("{PROJECT}_default");
        let asked = format!("{}:{number}", address(service));
        let options = ["--rm", "--network", &network];
        let image = format!("mesh-{service}");
        let check = [&image, "healthcheck", "--address", &asked];
        let arguments = [&["run"], &options[..], &check].concat();
        run("docker", &arguments); // it panics if the port is not reached
    }
}

/// The picks of each replica, read in the network of the containers, which this host reaches.
fn picks() -> BTreeMap<String, f64> {
    let address = address("service2").parse().expect("an address");
    http::picks(SocketAddr::new(address, 9081))
}

fn scale(replicas: usize) {
    let replicas = format!("N={replicas}");
    run("make", &["scale", &replicas]);
}

/// One replica is killed and comes back.
fn kill_one_and_start_it() {
    let replicas = compose(&["ps", "--quiet", "service1"]);
    let one = replicas.lines().next().expect("there are replicas");
    run("docker", &["kill", one]);
    sleep(Duration::from_secs(2));
    run("docker", &["start", one]);
    sleep(Duration::from_secs(2));
}

/// One replica becomes three and one again, under load; meanwhile one is killed.
fn scale_up_and_down() {
    let plan = Plan {
        connections: 100,
        interval: Duration::from_millis(100),
        name: None,
        is_kept: true,
    };
    let load = Load::start(port(8081), plan);
    sleep(Duration::from_secs(1));
    scale(3);
    let started = Instant::now();
    wait_for("three replicas that serve", || {
        let picks = picks();
        (picks.len() == 3 && picks.values().all(|picks| *picks > 20.0)).then_some(())
    });
    let served = started.elapsed();
    sleep(Duration::from_secs(2));
    let before = picks();
    sleep(Duration::from_secs(4));
    let after = picks();
    let more: Vec<_> = after
        .iter()
        .map(|(replica, picks)| picks - before[replica])
        .collect();
    let sum: f64 = more.iter().sum();
    let shares: Vec<_> = more.iter().map(|picks| 100.0 * picks / sum).collect();
    assert!(
        shares
            .iter()
            .all(|share| (share - 100.0 / 3.0).abs() <= 10.0),
        "{shares:?}"
    );
    kill_one_and_start_it();
    scale(1);
    sleep(Duration::from_secs(1));
    let samples = load.stop();
    assert_eq!(samples.failures(), [], "of {}", samples.count());
    println!(
        "scale from 1 to 3, kill one, and back: 0 of {} failed; all served after {:.1} s, shares {shares:.0?} %",
        samples.count(),
        served.as_secs_f64()
    );
}

/// A container beside the pair. It goes with this value.
struct Container(String);

impl Container {
    /// Runs an image with these options of `docker run`.
    fn run(name: &str, options: &[&str], image: &str) -> Self {
        let name = format!("{PROJECT}-{name}");
        let start = ["run", "--detach", "--rm", "--name", &name];
        run("docker", &[&start[..], options, &[image]].concat());
        Self(name)
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = Command::new("docker")
            .args(["rm", "--force", &self.0])
            .status();
    }
}

/// service2 on the same network, but without a certificate.
fn a_container_without_a_certificate_calls_nothing() {
    let network = format!("{PROJECT}_default");
    let channel = "SERVICE1_CHANNEL=service1:50051";
    let options = ["--network", &network, "--env", channel];
    let intruder = Container::run("intruder", &options, "mesh-service2");
    let noticed = wait_for("the intruder's calls", || {
        let log = compose(&["logs", "--no-color", "--no-log-prefix", "service1"]);
        let mut log = log.lines().map(Record::read);
        log.find(|line| line.has(&[("action", "tls"), ("status", "failure")]))
    });
    assert_eq!(noticed.text("error"), "the client speaks no TLS");
    let log = run("docker", &["logs", &intruder.0]);
    let mut log = log.lines().map(Record::read);
    assert!(!log.any(|line| line.has(&[("action", "replica"), ("status", "up")])));
}

/// A container that may use one core of several has one worker.
fn the_workers_follow_the_limit_of_cpu() {
    let cores = thread::available_parallelism().expect("a number");
    assert!(cores.get() > 1, "this needs a machine with several cores");
    let limited = Container::run("limited", &["--cpus", "1"], "mesh-service1");
    let format = "{{.State.Pid}}";
    let pid = run("docker", &["inspect", "--format", format, &limited.0]);
    let tasks = format!("/proc/{}/task", pid.trim());
    wait_for("its log", || {
        let log = run("docker", &["logs", &limited.0]);
        log.contains("listening").then_some(())
    });
    let tasks = fs::read_dir(tasks).expect("it runs").flatten();
    let names = tasks.filter_map(|task| fs::read_to_string(task.path().join("comm")).ok());
    let workers: Vec<_> = names.filter(|name| name.starts_with("worker")).collect();
    assert_eq!(workers.len(), 1, "{workers:?}");
}

#[test]
fn an_edit_is_built_and_variables_choose_the_ports() {
    let ports = [("SERVICE1_PORT", "18080"), ("SERVICE2_PORT", "18081")];
    let output = Command::new("docker")
        .args(["compose", "config", "--format", "json"])
        .envs(ports)
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .output()
        .expect("Docker is there");
    let file: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    for service in ["certs", "service1", "service2"] {
        assert_eq!(file["services"][service]["pull_policy"], "build");
    }
    for (service, (_, port)) in ["service1", "service2"].into_iter().zip(ports) {
        let published = file["services"][service]["ports"].as_array();
        let mut published = published.expect("it has ports").iter();
        assert!(published.any(|entry| entry["published"] == port), "{file}");
    }
}

// One test: there is one set of ports.
#[test]
fn the_pair_runs_in_containers() {
    let pair = Pair::up();

    for service in ["service1", "service2"] {
        assert_eq!(inspect(service, "{{.State.Health.Status}}"), "healthy");
        assert_eq!(inspect(service, "{{.Config.User}}"), "65532:65532");
        assert_eq!(inspect(service, "{{.HostConfig.ReadonlyRootfs}}"), "true");
        assert_eq!(inspect(service, "{{.HostConfig.CapDrop}}"), "[ALL]");
        assert_eq!(
            inspect(service, "{{.HostConfig.SecurityOpt}}"),
            "[no-new-privileges:true]"
        );
        assert_eq!(
            inspect(service, "{{.HostConfig.RestartPolicy.Name}}"),
            "on-failure"
        );
        assert_eq!(
            inspect(service, "{{.HostConfig.LogConfig}}"),
            "{json-file map[max-file:3 max-size:10m]}"
        );
        let image = run(
            "docker",
            &[
                "image",
                "inspect",
                "--format",
                "{{.Size}}",
                &format!("mesh-{service}"),
            ],
        );
        let size: u64 = image.trim().parse().expect("a number");
        assert!(size <= IMAGE_LIMIT, "{service}: {size} bytes");
    }

    let answer = http::get(port(8081), SAY_HELLO);
    assert_eq!((answer.status, answer.text()), (200, "\"Hello, TEST!\""));
    let id = answer.id();
    a_container_without_a_certificate_calls_nothing();
    operators_read_from_this_host_and_from_a_container();
    the_workers_follow_the_limit_of_cpu();
    wait_for("three lines", || {
        (log_of("service1", id).len() + log_of("service2", id).len() == 3).then_some(())
    });
    let line = &log_of("service1", id)[0];
    assert!(line.has(&[("action", "process_name"), ("processed_name", "TEST")]));
    let lines = log_of("service2", id);
    assert!(lines[0].has(&[("action", "say_hello"), ("hello", "Hello, TEST!")]));
    assert!(lines[1].has(&[("first_request_line", &format!("GET {SAY_HELLO} HTTP/1.1"))]));

    let answer = http::get(port(8080), "/api/v1/name?name=test");
    assert_eq!((answer.status, answer.text()), (200, r#"{"name":"TEST"}"#));

    // The compose file sets `RECENT_REQUESTS`: the form leads to the page of its request.
    let form = http::get(port(8081), "/");
    let page = form.header("location").expect("it leads to a page");
    let page = http::get(port(8081), page);
    let page = page.text();
    assert!(page.contains("Hello Gonzalo!"), "{page}");
    assert_eq!(page.matches(">name ").count(), 15);

    scale_up_and_down();

    // service1 goes and comes back: the look-up of its name fails meanwhile.
    compose(&["stop", "service1"]);
    assert_eq!(inspect("service1", "{{.State.ExitCode}}"), "0");
    let answer = http::get(port(8081), SAY_HELLO);
    assert_eq!(
        (answer.status, answer.header("retry-after")),
        (503, Some("1"))
    );
    compose(&["start", "service1"]);
    wait_for("the return of service1", || {
        (http::get(port(8081), SAY_HELLO).status == 200).then_some(())
    });

    let begin = Instant::now();
    compose(&["stop"]);
    assert_eq!(inspect("service2", "{{.State.ExitCode}}"), "0");
    drop(pair);
    assert!(
        begin.elapsed() < Duration::from_secs(12),
        "the drain is bounded"
    );
}
