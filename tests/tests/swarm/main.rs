//! The pair on a Docker Swarm of two nodes, as `deploy/swarm` has it, and what happens to it under
//! load. `make swarm` builds the images and runs this test, as root; `EVENT=…` selects the events that
//! have it in their name.
//!
//! The nodes are private engines on this machine, without a registry. Kernels without IPVS have
//! neither virtual IPs nor the ingress network, so the load goes to ports of the nodes.

mod lan;
mod node;

use std::{
    env,
    fmt::Write,
    net::TcpStream,
    path::Path,
    thread::{self, sleep},
    time::{Duration, Instant},
};

use lan::Lan;
use node::Node;
use tests::{
    certificates::Certificates,
    http,
    load::{Load, Plan, Samples},
    wait_within,
};

const SECOND: Duration = Duration::from_secs(1);

/// The longest wait for Swarm to carry something out.
const PATIENCE: Duration = Duration::from_mins(2);

/// Nobody listens there: Swarm asks this registry for each image, and gets its answer at once.
const IMAGES: &str = "127.0.0.1:1";

/// For each node: 25 connections with 20 requests a second each.
const LOAD: Plan = Plan {
    connections: 25,
    interval: Duration::from_millis(50),
    name: None,
    is_kept: true,
};

/// The stack on two nodes.
struct Swarm {
    manager: Node,
    worker: Node,
    // Dropped last: the nodes are on it.
    lan: Lan,
}

impl Swarm {
    fn start() -> Self {
        let lan = Lan::new(2);
        let (manager, worker) = thread::scope(|scope| {
            let worker = scope.spawn(|| prepare(2));
            (prepare(1), worker.join().expect("the engine starts"))
        });
        let swarm = Self {
            manager,
            worker,
            lan,
        };
        let address = swarm.manager.address.to_string();
        swarm.docker(&["swarm", "init", "--advertise-addr", &address]);
        let token = swarm.docker(&["swarm", "join-token", "--quiet", "worker"]);
        let manager = format!("{address}:2377");
        swarm
            .worker
            .docker(&["swarm", "join", "--token", token.trim(), &manager]);
        swarm.deploy();
        swarm
    }

    fn deploy(&self) {
        let stack = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/swarm");
        let file = |name: &str| stack.join(name).display().to_string();
        let certificates = Certificates::new();
        let root = certificates.root().display().to_string();
        self.manager.docker_with(
            &[("IMAGES", IMAGES), ("TAG", "1"), ("CERTIFICATES", &root)],
            &[
                "stack",
                "deploy",
                "--resolve-image",
                "never",
                "--compose-file",
                &file("stack.yml"),
                "--compose-file",
                &file("host-ports.yml"),
                "--compose-file",
                &file("../../tests/tests/swarm/admin-ports.yml"),
                "mesh",
            ],
        );
        self.wait_until_whole();
    }

    fn docker(&self, arguments: &[&str]) -> String {
        self.manager.docker(arguments)
    }

    /// Waits until all replicas run, and each edge calls all of service1's.
    fn wait_until_whole(&self) {
        wait_within(PATIENCE, "all replicas to run", || {
            let format = "{{.Name}} {{.Replicas}}";
            let services = self.docker(&["service", "ls", "--format", format]);
            let is_running = |line: &str| services.lines().any(|its| its.starts_with(line));
            (is_running("mesh_service1 3/3") && is_running("mesh_service2 2/2")).then_some(())
        });
        wait_within(PATIENCE, "each edge to call all replicas", || {
            let edges = [&self.manager, &self.worker];
            edges.iter().all(|node| calls_all(node)).then_some(())
        });
    }

    /// Sets off an update of a service to this tag of its image.
    fn update(&self, service: &str, tag: &str) {
        let image = format!("{IMAGES}/mesh-{service}:{tag}");
        let service = format!("mesh_{service}");
        self.docker(&[
            "service",
            "update",
            "--detach",
            "--no-resolve-image",
            "--image",
            &image,
            &service,
        ]);
    }

    /// Waits for the end of an update.
    fn wait_until_updated(&self, service: &str, state: &str) -> Duration {
        let begin = Instant::now();
        let service = format!("mesh_{service}");
        let format = "{{.UpdateStatus.State}}";
        wait_within(PATIENCE, state, || {
            let its = self.docker(&["service", "inspect", "--format", format, &service]);
            (its.trim() == state).then_some(())
        });
        begin.elapsed()
    }

    /// Spreads the replicas of service1 over the nodes. Swarm leaves them where they are until told.
    fn spread(&self) {
        self.docker(&["service", "update", "--detach", "--force", "mesh_service1"]);
        self.wait_until_updated("service1", "completed");
        self.wait_until_whole();
    }

    /// Loads the edge of each node meanwhile. A client whose edge is gone takes the other.
    fn under_load(&self, event: impl FnOnce()) -> [Samples; 2] {
        let (one, other) = (self.manager.edge(), self.worker.edge());
        let loads = [
            Load::start_on_any(vec![one, other], LOAD),
            Load::start_on_any(vec![other, one], LOAD),
        ];
        sleep(SECOND);
        event();
        sleep(SECOND);
        loads.map(Load::stop)
    }
}

/// Starts a node and gives it the images.
fn prepare(number: usize) -> Node {
    let node = Node::start(number);
    for service in ["mesh-service1", "mesh-service2"] {
        node.load_image(service);
        for tag in ["1", "2"] {
            node.docker(&["tag", service, &format!("{IMAGES}/{service}:{tag}")]);
        }
    }
    // An image that starts and never gets healthy.
    let container = node.docker(&["create", "mesh-service1"]);
    let check = r#"HEALTHCHECK --interval=1s --retries=3 CMD ["/service", "healthcheck", "--address", "127.0.0.1:1"]"#;
    let image = format!("{IMAGES}/mesh-service1:unhealthy");
    node.docker(&["commit", "--change", check, container.trim(), &image]);
    node.docker(&["rm", container.trim()]);
    node
}

/// Whether the edge of a node calls all three replicas.
fn calls_all(node: &Node) -> bool {
    if TcpStream::connect_timeout(&node.edge(), SECOND).is_err() {
        return false;
    }
    let before = http::picks(node.admin());
    for _ in 0..60 {
        http::get(node.edge(), "/api/v1/say-hello?name=test");
    }
    let after = http::picks(node.admin());
    let is_called = |(replica, picks): (&String, &f64)| before.get(replica) < Some(picks);
    after.len() == 3 && after.iter().all(is_called)
}

/// Checks that no request failed, and says of how many.
fn none_failed(samples: &[Samples]) -> String {
    for (samples, node) in samples.iter().zip(1..) {
        assert_eq!(
            samples.failures(),
            [],
            "of {} at node {node}",
            samples.count()
        );
    }
    let count: usize = samples.iter().map(Samples::count).sum();
    format!("0 of {count} failed")
}

fn a_rolling_update(swarm: &mut Swarm, service: &str) -> String {
    let mut took = Duration::ZERO;
    let samples = swarm.under_load(|| {
        swarm.update(service, "2");
        took = swarm.wait_until_updated(service, "completed");
    });
    format!("{}; {:.0} s", none_failed(&samples), took.as_secs_f64())
}

fn an_image_that_never_gets_healthy(swarm: &mut Swarm) -> String {
    let mut took = Duration::ZERO;
    let samples = swarm.under_load(|| {
        swarm.update("service1", "unhealthy");
        took = swarm.wait_until_updated("service1", "rollback_completed");
    });
    let format = "{{.Spec.TaskTemplate.ContainerSpec.Image}}";
    let image = swarm.docker(&["service", "inspect", "--format", format, "mesh_service1"]);
    assert_eq!(image.trim(), format!("{IMAGES}/mesh-service1:2"));
    swarm.wait_until_whole();
    format!(
        "{}; back after {:.0} s",
        none_failed(&samples),
        took.as_secs_f64()
    )
}

fn a_node_is_drained(swarm: &mut Swarm) -> String {
    let set = |availability| {
        swarm.docker(&["node", "update", "--availability", availability, "node2"]);
    };
    let samples = swarm.under_load(|| {
        set("drain");
        wait_within(PATIENCE, "the node to be empty", || {
            let running = swarm.worker.docker(&["ps", "--quiet"]);
            running.trim().is_empty().then_some(())
        });
        wait_within(PATIENCE, "three replicas on the other node", || {
            calls_all(&swarm.manager).then_some(())
        });
    });
    set("active");
    swarm.spread();
    none_failed(&samples)
}

fn the_link_between_the_nodes_is_cut(swarm: &mut Swarm) -> String {
    let mut whole = Duration::ZERO;
    let samples = swarm.under_load(|| {
        swarm.lan.cut(true);
        sleep(20 * SECOND);
        // Swarm gives the node up meanwhile, and starts its replicas again on the other.
        wait_within(PATIENCE, "the node to be down", || {
            let format = ["--format", "{{.Status}}", "--filter", "name=node2"];
            let nodes = swarm.docker(&[&["node", "ls"], &format[..]].concat());
            (nodes.trim() == "Down").then_some(())
        });
        swarm.lan.cut(false);
        let begin = Instant::now();
        wait_within(PATIENCE, "both edges to call all replicas", || {
            let edges = [&swarm.manager, &swarm.worker];
            edges.iter().all(|node| calls_all(node)).then_some(())
        });
        whole = begin.elapsed();
    });
    swarm.spread();
    format!(
        "{}; all replicas used after {:.1} s",
        none_failed(&samples),
        whole.as_secs_f64()
    )
}

fn the_engine_and_the_containers_of_a_node_are_killed(swarm: &mut Swarm) -> String {
    let (one, other) = (swarm.manager.edge(), swarm.worker.edge());
    let near = Load::start(one, LOAD);
    let far = Load::start_on_any(vec![other, one], LOAD);
    sleep(SECOND);
    swarm.worker.kill();
    wait_within(PATIENCE, "three replicas on the other node", || {
        let format = ["--format", "{{.Names}}", "--filter", "health=healthy"];
        let running = swarm.docker(&[&["ps"], &format[..]].concat());
        let replicas = running.lines().filter(|name| name.contains("service1"));
        (replicas.count() == 3).then_some(())
    });
    wait_within(PATIENCE, "the other edge to call them", || {
        calls_all(&swarm.manager).then_some(())
    });
    sleep(SECOND);
    let (near, far) = (near.stop(), far.stop());
    let near = none_failed(&[near]);
    let failed: usize = far.failures().iter().map(|failure| failure.1).sum();
    assert!(failed <= LOAD.connections, "{:?}", far.failures());
    format!(
        "at the edge that stays: {near}; of the clients of the other: {failed} of {} failed",
        far.count()
    )
}

type Row = (&'static str, &'static str, fn(&mut Swarm) -> String);

const ROWS: [Row; 6] = [
    ("a rolling update of service1", "0 failed", |swarm| {
        a_rolling_update(swarm, "service1")
    }),
    ("a rolling update of service2", "0 failed", |swarm| {
        a_rolling_update(swarm, "service2")
    }),
    (
        "an image that never gets healthy",
        "the update rolls back, 0 failed",
        an_image_that_never_gets_healthy,
    ),
    ("a node is drained", "0 failed", a_node_is_drained),
    (
        "the link between the nodes is cut for 20 s",
        "0 failed; all replicas used again within 15 s",
        the_link_between_the_nodes_is_cut,
    ),
    (
        "the engine and the containers of a node are killed",
        "0 failed at the other edge; at its own, at most those in flight",
        the_engine_and_the_containers_of_a_node_are_killed,
    ),
];

// One test: there is one swarm.
#[test]
fn the_stack_loses_no_request() {
    let filter = env::var("EVENT").unwrap_or_default();
    let events = ROWS.iter().filter(|row| row.0.contains(&filter));
    assert!(
        events.clone().count() > 0,
        "no event has {filter:?} in its name"
    );
    let begin = Instant::now();
    let mut swarm = Swarm::start();
    println!(
        "two nodes, five replicas: {:.0} s",
        begin.elapsed().as_secs_f64()
    );
    let mut table = String::from("| event, under load | must show | shown |\n|---|---|---|\n");
    for (event, promise, show) in events {
        let begin = Instant::now();
        let shown = show(&mut swarm);
        println!("{event}: {shown} ({:.0} s)", begin.elapsed().as_secs_f64());
        let _ = writeln!(table, "| {event} | {promise} | {shown} |");
    }
    println!("\n{table}");
}
