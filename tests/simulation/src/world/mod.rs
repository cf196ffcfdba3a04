//! [`World`]: the replicas, the clients and the network of a run, and what happens to them.

mod faults;

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use common::client::{Channel, Client, Config, RetryPolicy, Target};
use tokio::{
    task::JoinSet,
    time::{sleep, sleep_until},
};

use crate::{
    call::{Method, Plan},
    edge::Edge,
    lock,
    network::{Conditions, Name, Network},
    proto::DESCRIPTORS,
    random::Shared as Random,
    replica::{Kind, Replica},
    schedule::{FAULTY, Fault, Schedule},
    service::Health,
    trace::{Event, Trace},
    visit::{Taken, Visit},
};

/// The time after the last fault until which the clients may still pause: the longest back-off (30 s, give
/// or take a fifth), and 5 s.
pub const RECOVERY: Duration = Duration::from_secs(41);

/// The calls of all workers after that, all alike: those in which what was slow before is forgotten, and
/// those that show the shares of the replicas.
const LAST_CALLS: [usize; 2] = [500, 1_000];

/// A call that takes its time follows each of so many others, for each worker.
const WORK_EVERY: usize = 150;

/// The streams of each worker that are open and quiet.
const QUIET_STREAMS: usize = 12;

/// The calls a second of each worker while it recovers.
const QUIET: f64 = 1.0;

/// Requests of the edge take their time, but less than a drain still reads for.
const ON_THE_WAY: Conditions = Conditions {
    latency: Duration::from_millis(4),
    jitter: Duration::ZERO,
    bandwidth: 1_000_000_000,
    cuts: false,
};

/// The time that packets of a stranger take who is far away.
const FAR: Duration = Duration::from_millis(200);

/// The time from the begin of a roll of the edge to its drain.
const DRAIN_AFTER: Duration = Duration::from_millis(500);

/// The number of hosts with HTTP clients.
const VISITORS: usize = 20;

const PORT: u16 = 50_051;
const NAME: &str = "replicas";

/// The state of a run. Clones share it.
#[derive(Debug, Clone)]
pub struct World {
    trace: Trace,
    network: Network,
    random: Random,
    replicas: Arc<Vec<Replica>>,
    clients: Arc<Vec<ClientProcess>>,
    edge: Edge,
    visits: f64,
    has_dead_family: bool,
    /// What to count at the end.
    taken: Arc<Mutex<Vec<Taken>>>,
    calls: Arc<AtomicU64>,
    running: Arc<Mutex<JoinSet<()>>>,
    hosts: Arc<AtomicU64>,
}

#[derive(Debug)]
struct ClientProcess {
    host: IpAddr,
    workers: Mutex<Vec<Client>>,
    rate: f64,
}

/// The host of a replica, whose name may have addresses of both families.
fn replica_host(is_v6: bool, number: usize) -> IpAddr {
    if is_v6 {
        let number = u16::try_from(number).expect("few");
        IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 1, number])
    } else {
        host(1, number)
    }
}

fn host(kind: u8, number: usize) -> IpAddr {
    let number = u8::try_from(number).expect("few");
    IpAddr::from([10, 0, kind, number])
}

/// Where a replica is at first.
pub fn replica_address(is_v6: bool, number: usize) -> SocketAddr {
    SocketAddr::new(replica_host(is_v6, number + 1), PORT)
}

/// An address at which nobody listens.
fn stranger(number: usize) -> SocketAddr {
    SocketAddr::new(host(3, number), PORT)
}

/// The channel of a process on this host.
fn channel(network: &Network, host: IpAddr) -> Channel {
    let config = Config {
        network: Some(Arc::new(network.of_host(host))),
        // The longest response to a unary call, so that none breaks off after its begin.
        retries: RetryPolicy {
            read_ahead: 1_024 * 1_024,
            ..RetryPolicy::default()
        },
        ..Config::default()
    };
    let target: Target = format!("{NAME}:{PORT}").parse().expect("a target");
    Channel::plain(&target, DESCRIPTORS, &config, Duration::from_mins(1))
}

impl World {
    /// Builds the world of a schedule, and starts its replicas and clients.
    pub fn start(schedule: &Schedule, seed: u64, trace: &Trace) -> Self {
        let random = Random::new(seed ^ 0x5eed);
        let network = Network::new(random.clone());
        let replicas = schedule.replicas.iter().enumerate().map(|(number, kind)| {
            let address = replica_address(schedule.has_dead_family, number);
            Replica::new(number, address, kind.clone(), &network, trace, &random)
        });
        let replicas: Vec<_> = replicas.collect();
        replicas.iter().for_each(Replica::start);
        let clients = schedule
            .clients
            .iter()
            .enumerate()
            .map(|(number, (workers, rate))| {
                let host = host(2, number + 1);
                let channel = channel(&network, host);
                let workers = (0..*workers).map(|_| channel.connect()).collect();
                ClientProcess {
                    host,
                    workers: Mutex::new(workers),
                    rate: *rate,
                }
            });
        let edge = SocketAddr::new(host(2, 9), 80);
        let world = Self {
            trace: trace.clone(),
            network: network.clone(),
            random: random.clone(),
            hosts: Arc::new(AtomicU64::new(replicas.len() as u64)),
            replicas: Arc::new(replicas),
            clients: Arc::new(clients.collect()),
            edge: Edge::new(&network, edge, channel(&network, edge.ip()), schedule.edge),
            has_dead_family: schedule.has_dead_family,
            visits: schedule.visits,
            calls: Arc::default(),
            running: Arc::default(),
            taken: Arc::default(),
        };
        world.publish_name();
        world.edge.start();
        world
    }

    fn addresses(&self) -> Vec<SocketAddr> {
        let mut addresses: Vec<_> = self.replicas.iter().map(Replica::address).collect();
        if self.has_dead_family {
            addresses.extend((2..4).map(stranger));
        }
        addresses
    }

    /// The hosts that call the replicas.
    fn callers(&self) -> impl Iterator<Item = IpAddr> {
        let clients = self.clients.iter().map(|client| client.host);
        clients.chain([self.edge.address.ip()])
    }

    /// The workers of all clients.
    fn workers(&self) -> Vec<Client> {
        let clients = self.clients.iter();
        clients
            .flat_map(|client| lock(&client.workers).clone())
            .collect()
    }

    fn publish_name(&self) {
        self.network.set_name(NAME, Name::Is(self.addresses()));
    }

    fn next_call(&self) -> u64 {
        self.calls.fetch_add(1, Relaxed) + 1
    }

    fn spawn(&self, plan: Plan, client: Client) {
        let trace = self.trace.clone();
        let mut running = lock(&self.running);
        while running.try_join_next().is_some() {}
        running.spawn(async move {
            plan.run(client, trace).await;
        });
    }

    /// Runs the schedule, and the time after it. Returns when nothing runs any more.
    pub async fn run(self, faults: Vec<Fault>) {
        let begin = tokio::time::Instant::now();
        let mut loads = JoinSet::new();
        for client in 0..self.clients.len() {
            let workers = lock(&self.clients[client].workers).len();
            for worker in 0..workers {
                loads.spawn(self.clone().load(client, worker));
            }
        }
        loads.spawn(self.clone().visit());
        let mut happening = JoinSet::new();
        for fault in faults {
            let world = self.clone();
            happening.spawn(async move {
                sleep_until(begin + fault.at).await;
                world.trace.note(Event::Fault(fault.to_string()));
                world.happen(&fault).await;
            });
        }
        sleep_until(begin + FAULTY).await;
        while happening.join_next().await.is_some() {}
        self.heal();
        self.trace.note(Event::Healed);
        sleep(RECOVERY).await;
        loads.abort_all();
        self.fill_all_but_one().await;
        self.trace.note(Event::Settled);
        self.equal_calls(LAST_CALLS[0]).await;
        self.trace.note(Event::Even);
        self.equal_calls(LAST_CALLS[1]).await;
        self.stop().await;
    }

    /// Calls at random times, until it is dropped.
    async fn load(self, client: usize, worker: usize) {
        let mut random = self.random.fork();
        let begin = self.trace.now();
        loop {
            let is_faulty = self.trace.since(begin) < FAULTY;
            let rate = if is_faulty {
                self.clients[client].rate
            } else {
                QUIET
            };
            let pause = -(1.0 - random.f64()).ln() / rate;
            sleep(Duration::from_secs_f64(pause)).await;
            let mut plan = Plan::draw(self.next_call(), &mut random);
            plan.client = Some(client);
            let plan = if is_faulty { plan } else { plan.well_behaved() };
            let caller = lock(&self.clients[client].workers)[worker].clone();
            self.spawn(plan, caller);
        }
    }

    /// Lets HTTP clients come at random times, until it is dropped.
    async fn visit(self) {
        let mut random = self.random.fork();
        loop {
            let pause = -(1.0 - random.f64()).ln() / self.visits;
            sleep(Duration::from_secs_f64(pause.min(1_000.0))).await;
            let visit = Visit::draw(&mut random, || self.next_call());
            if !visit.is_long() || self.trace.now() < FAULTY {
                self.begin_visit(visit, random.usize(1..=VISITORS));
            }
        }
    }

    async fn equal_calls(&self, count: usize) {
        let workers = self.workers();
        for number in 0..count {
            let worker = number % workers.len();
            let mut plan = Plan::simple(Method::Get, self.next_call());
            plan.worker = Some(worker);
            self.spawn(plan, workers[worker].clone());
            if number % WORK_EVERY < workers.len() {
                self.spawn(self.work(worker), workers[worker].clone());
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// A call that takes its time, on any replica.
    fn work(&self, worker: usize) -> Plan {
        let mut plan = Plan::simple(Method::Work, self.next_call());
        plan.order.delay_ms = 300;
        plan.worker = Some(worker);
        plan
    }

    /// Lets a replica start while the others have streams that are open and quiet.
    async fn fill_all_but_one(&self) {
        let workers = self.workers();
        self.replicas[0].kill();
        sleep(Duration::from_secs(1)).await;
        for (number, worker) in workers.iter().enumerate() {
            for _ in 0..QUIET_STREAMS {
                let mut plan = Plan::simple(Method::List, self.next_call());
                (plan.order.replies, plan.order.pause_ms) = (2, 40_000);
                plan.deadline = Duration::from_mins(1);
                self.spawn(plan, worker.clone());
            }
            // Until it is known how long they take.
            for _ in 0..QUIET_STREAMS {
                self.spawn(self.work(number), worker.clone());
            }
        }
        sleep(Duration::from_secs(1)).await;
        self.replicas[0].start();
        // The longest pause before the next connection, and until it is as usual as the others.
        sleep(Duration::from_secs(15)).await;
    }

    /// Ends all that runs, and checks that nothing is left.
    async fn stop(&self) {
        sleep(Duration::from_secs(20)).await;
        let running = {
            let mut running = lock(&self.running);
            while running.try_join_next().is_some() {}
            running.len()
        };
        if running > 0 {
            self.trace.violation(format!("{running} calls never ended"));
        }
        for (number, replica) in self.replicas.iter().enumerate() {
            let (_, in_flight) = replica.left();
            if in_flight > 0 {
                let what = format!("replica {number} has {in_flight} requests in flight");
                self.trace.violation(what);
            }
        }
        if let (_, in_flight @ 1..) = self.edge.left() {
            let what = format!("the edge has {in_flight} requests in flight");
            self.trace.violation(what);
        }
        for client in self.clients.iter() {
            lock(&client.workers).clear();
        }
        self.edge.kill();
        for Taken { calls, written } in lock(&self.taken).drain(..) {
            let bytes = written.bytes();
            self.trace.note(Event::Taken { calls, bytes });
        }
        sleep(Duration::from_secs(20)).await;
        for (number, replica) in self.replicas.iter().enumerate() {
            let (connections, _) = replica.left();
            if connections > 0 {
                let what =
                    format!("replica {number} has {connections} connections without a client");
                self.trace.violation(what);
            }
            replica.kill();
        }
        sleep(Duration::from_secs(1)).await;
        // That of the run, which waits here.
        let tasks = tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks();
        if tasks > 0 {
            self.trace.violation(format!("{tasks} tasks are left"));
        }
    }

    /// Ends what is still wrong. Fakes become our server.
    fn heal(&self) {
        for (number, replica) in self.replicas.iter().enumerate() {
            self.set_conditions(number, Conditions::default());
            replica.set_health(Health::default());
            replica.kill();
            replica.become_kind(Kind::Ours {
                max_in_flight: 2_048,
                drain_delay: Duration::ZERO,
            });
            replica.start();
        }
        self.publish_name();
    }
}
