//! [`Replica`]: a simulated process that serves calls: our server, or a fake.

use std::{
    mem,
    net::SocketAddr,
    num::NonZeroUsize,
    sync::{Arc, Mutex},
    time::Duration,
};

use common::{
    Config,
    server::{Grpc, InMemory, Listener},
};
use tokio::time::sleep;

use crate::{
    fake::{self, Character},
    lock,
    network::Network,
    process::Process,
    proto::{DESCRIPTORS, simulated_server::SimulatedServer},
    random::Shared as Random,
    service::{Health, Service},
    trace::{Event, Trace},
};

/// The deadline of a call that carries none.
const LONGEST_CALL: Duration = Duration::from_mins(1);

/// What serves the calls of a replica.
#[derive(Debug, Clone)]
pub enum Kind {
    /// Our server, with so many places for requests in flight.
    Ours {
        /// The limit on requests in flight.
        max_in_flight: usize,
        /// The time in which clients go elsewhere before a drain.
        drain_delay: Duration,
    },
    /// A fake.
    Fake(Character),
}

/// A replica, whose process comes and goes. Clones share their state.
#[derive(Debug, Clone)]
pub struct Replica {
    number: usize,
    network: Network,
    random: Random,
    trace: Trace,
    health: Arc<Mutex<Health>>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    address: SocketAddr,
    kind: Kind,
    process: Process,
}

impl Replica {
    /// A replica that does not serve yet.
    pub fn new(
        number: usize,
        address: SocketAddr,
        kind: Kind,
        network: &Network,
        trace: &Trace,
        random: &Random,
    ) -> Self {
        Self {
            number,
            network: network.clone(),
            random: random.clone(),
            trace: trace.clone(),
            health: Arc::default(),
            state: Arc::new(Mutex::new(State {
                address,
                kind,
                process: Process::new(network),
            })),
        }
    }

    /// Where it listens, or listened last.
    pub fn address(&self) -> SocketAddr {
        lock(&self.state).address
    }

    /// Whether it is our server.
    pub fn is_ours(&self) -> bool {
        matches!(lock(&self.state).kind, Kind::Ours { .. })
    }

    /// Sets how its handlers are.
    pub fn set_health(&self, health: Health) {
        *lock(&self.health) = health;
    }

    /// Starts a process at the address.
    pub fn start(&self) {
        let state = lock(&self.state);
        let (number, address) = (self.number, state.address);
        let (random, trace) = (self.random.clone(), self.trace.clone());
        match state.kind.clone() {
            Kind::Ours {
                max_in_flight,
                drain_delay,
            } => {
                let config = Config {
                    max_in_flight: NonZeroUsize::new(max_in_flight).expect("not 0"),
                    drain_delay,
                    deadline: LONGEST_CALL,
                    ..Config::default()
                };
                let service = Service {
                    replica: number,
                    health: self.health.clone(),
                    random,
                    trace,
                };
                let face = Grpc::new(DESCRIPTORS).add_service(SimulatedServer::new(service));
                let service = InMemory::new(&config, |_| [Listener::grpc(address.port(), face)]);
                let service = service.expect("its face is valid");
                state.process.serve(address, service);
            }
            Kind::Fake(character) => {
                state.process.listen(address, move |socket, _| {
                    let (character, trace) = (character.clone(), trace.clone());
                    fake::serve(socket, number, character, random.fork(), trace)
                });
            }
        }
    }

    /// The process ends at once. Its kernel closes the connections.
    pub fn kill(&self) {
        let state = lock(&self.state);
        state.process.kill(state.address);
    }

    /// Drains as an orchestrator asks for it, and ends. A fake just ends.
    pub async fn drain(&self) {
        let (service, address, delay) = {
            let state = lock(&self.state);
            let delay = match state.kind {
                Kind::Ours { drain_delay, .. } => drain_delay,
                Kind::Fake(_) => Duration::ZERO,
            };
            (state.process.service(), state.address, delay)
        };
        if let Some(service) = service {
            let close_port = async {
                sleep(delay).await;
                self.network.stop_listening(address);
            };
            tokio::join!(service.drain(), close_port);
            let (connections, in_flight) = (service.connections(), service.in_flight());
            self.trace.note(Event::Does {
                replica: self.number,
                call: 0,
                what: format!("drained; {connections} connections, {in_flight} in flight"),
            });
        }
        self.kill();
    }

    /// What the process still has: connections and requests in flight.
    pub fn left(&self) -> (usize, usize) {
        lock(&self.state).process.left()
    }

    /// The process that runs now, apart from what the replica becomes.
    #[must_use]
    pub fn clone_of_process(&self) -> Self {
        let mut state = lock(&self.state);
        let old = State {
            address: state.address,
            kind: state.kind.clone(),
            process: mem::replace(&mut state.process, Process::new(&self.network)),
        };
        Self {
            state: Arc::new(Mutex::new(old)),
            ..self.clone()
        }
    }

    /// Moves to another address, for the next start.
    pub fn move_to(&self, address: SocketAddr) {
        lock(&self.state).address = address;
    }

    /// Becomes another kind, for the next start.
    pub fn become_kind(&self, kind: Kind) {
        lock(&self.state).kind = kind;
    }
}
