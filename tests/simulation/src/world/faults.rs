//! What happens to a [`World`]: its faults, and what operators and strangers do.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use common::client::{Channel, Client, Config, Target};
use tokio::time::sleep;

use super::{
    DRAIN_AFTER, FAR, NAME, ON_THE_WAY, PORT, VISITORS, World, host, replica_host, stranger,
};
use crate::{
    call::{Method, Plan},
    clock, lock,
    network::{Conditions, Name},
    proto::DESCRIPTORS,
    replica::Replica,
    schedule::{Fault, What},
    service::Health,
    trace::Event,
    visit::Visit,
};

impl World {
    pub(super) fn set_conditions(&self, replica: usize, conditions: Conditions) {
        let address = self.replicas[replica].address().ip();
        for host in self.callers() {
            self.network.set_conditions(host, address, conditions);
        }
    }

    fn set_edge_conditions(&self, conditions: Conditions) {
        for visitor in 1..=VISITORS {
            let (visitor, edge) = (host(5, visitor), self.edge.address.ip());
            self.network.set_conditions(visitor, edge, conditions);
        }
    }

    fn set_blocked(&self, address: SocketAddr, is_blocked: bool, there: bool, back: bool) {
        for host in self.callers() {
            let ways = [(host, address.ip(), there), (address.ip(), host, back)];
            for (from, to, _) in ways.into_iter().filter(|(_, _, is_meant)| *is_meant) {
                if is_blocked {
                    self.network.block(from, to);
                } else {
                    self.network.unblock(from, to);
                }
            }
        }
    }

    pub(super) async fn happen(&self, fault: &Fault) {
        let lasts = sleep(fault.lasts);
        match fault.what {
            What::Conditions(replica, conditions) => {
                self.set_conditions(replica, conditions);
                lasts.await;
                self.set_conditions(replica, Conditions::default());
            }
            What::Block(replica, there, back) => {
                let address = self.replicas[replica].address();
                self.set_blocked(address, true, there, back);
                lasts.await;
                self.set_blocked(address, false, there, back);
            }
            What::Reset(replica, error) => {
                let address = self.replicas[replica].address();
                self.network.reset(address, error);
            }
            What::Vanish(replica) => {
                let replica = &self.replicas[replica];
                let address = replica.address();
                self.network.vanish(address);
                replica.kill();
                lasts.await;
                self.network.come_back(address);
                replica.start();
            }
            What::Kill(replica) => {
                self.replicas[replica].kill();
                lasts.await;
                self.replicas[replica].start();
            }
            What::Roll(replica, moves) => self.roll(&self.replicas[replica], moves, lasts).await,
            What::Health(replica, health) => {
                self.replicas[replica].set_health(health);
                lasts.await;
                self.replicas[replica].set_health(Health::default());
            }
            What::Overload(code, pushback) => {
                self.overload(Health {
                    fails: (1.0, Some(code)),
                    pushback: Some(pushback),
                    ..Health::default()
                });
                lasts.await;
                self.overload(Health::default());
            }
            What::NameFails => self.name_is(Name::Fails, lasts).await,
            What::NameHangs => self.name_is(Name::Hangs, lasts).await,
            What::NameEmpty => self.name_is(Name::Is(Vec::new()), lasts).await,
            What::NameFlaps(replica) => {
                for _ in 0..3 {
                    let mut addresses = self.addresses();
                    addresses.remove(replica);
                    self.name_is(Name::Is(addresses), sleep(fault.lasts / 6))
                        .await;
                    sleep(fault.lasts / 6).await;
                }
            }
            What::NameHasStranger => {
                let mut addresses = self.addresses();
                addresses.push(stranger(1));
                self.name_is(Name::Is(addresses), lasts).await;
            }
            What::NameMoves => {
                let addresses = (1..3).map(stranger).collect();
                self.name_is(Name::Is(addresses), lasts).await;
            }
            What::Burst(client, calls) => {
                let mut random = self.random.fork();
                let workers = lock(&self.clients[client].workers).clone();
                for number in 0..calls {
                    let plan = Plan::draw(self.next_call(), &mut random);
                    let worker = workers[number as usize % workers.len()].clone();
                    self.spawn(plan, worker);
                }
            }
            What::EdgeConditions(conditions) => {
                self.set_edge_conditions(conditions);
                lasts.await;
                self.set_edge_conditions(Conditions::default());
            }
            What::EdgeReset => {
                let error = io::ErrorKind::ConnectionReset;
                self.network.reset(self.edge.address, error);
            }
            What::EdgeKill => {
                self.edge.kill();
                lasts.await;
                self.edge.start();
            }
            What::EdgeRoll => self.roll_edge().await,
            What::ClockSteps(seconds) => clock::step(seconds),
            What::Impatience(replica, calls) => self.be_impatient(replica, calls).await,
            What::Hog(replica, calls) => self.hog(replica, calls, fault.lasts).await,
        }
    }

    async fn name_is(&self, name: Name, lasts: impl Future<Output = ()>) {
        self.network.set_name(NAME, name);
        lasts.await;
        self.publish_name();
    }

    async fn roll(&self, replica: &Replica, moves: bool, lasts: impl Future<Output = ()>) {
        if moves {
            // As an orchestrator does: the new one is there before the old one is told to go.
            let old = replica.clone_of_process();
            let number = self.hosts.fetch_add(1, Relaxed) + 1;
            let number = usize::try_from(number).expect("few");
            replica.move_to(SocketAddr::new(
                replica_host(self.has_dead_family, number),
                PORT,
            ));
            replica.start();
            self.publish_name();
            old.drain().await;
        } else {
            replica.drain().await;
            lasts.await;
            replica.start();
        }
    }

    /// Sets how the handlers of all replicas are.
    fn overload(&self, health: Health) {
        self.replicas.iter().for_each(|it| it.set_health(health));
    }

    async fn roll_edge(&self) {
        self.set_edge_conditions(ON_THE_WAY);
        self.visit_until_drain();
        sleep(DRAIN_AFTER).await;
        self.trace.note(Event::Drains);
        self.edge.drain().await;
        self.edge.start();
        self.set_edge_conditions(Conditions::default());
    }

    /// Lets HTTP clients come whose second requests are sent just before a drain.
    fn visit_until_drain(&self) {
        for visitor in 1..=VISITORS {
            let early = Duration::from_millis(8).mul_f64(self.random.fraction());
            // It connects, and its first request has a response.
            let pause = DRAIN_AFTER.saturating_sub(4 * ON_THE_WAY.latency + early);
            self.begin_visit(
                Visit::with_pause(self.next_call(), self.next_call(), pause),
                visitor,
            );
        }
    }

    pub(super) fn begin_visit(&self, visit: Visit, visitor: usize) {
        let host = self.network.of_host(host(5, visitor));
        let (visit, taken) = (
            visit.run(host, self.edge.address, self.trace.clone()),
            self.taken.clone(),
        );
        lock(&self.running).spawn(async move {
            let of_visit = visit.await;
            lock(&taken).extend(of_visit);
        });
    }

    /// A stranger far away makes many calls, and gives them up before the responses come.
    async fn be_impatient(&self, replica: usize, calls: u32) {
        let (address, home) = (self.replicas[replica].address(), host(4, 2));
        let conditions = Conditions {
            latency: FAR,
            ..Conditions::default()
        };
        self.network.set_conditions(home, address.ip(), conditions);
        let client = self.stranger(home, address);
        // A fake looks at all its streams again and again.
        let most = if self.replicas[replica].is_ours() {
            calls
        } else {
            calls.min(200)
        };
        for _ in 0..most {
            let mut plan = Plan::simple(Method::Get, self.next_call());
            plan.gives_up = Some(FAR / 2);
            plan.is_of_stranger = true;
            self.spawn(plan, client.clone());
            sleep(Duration::from_secs(1) / calls).await;
        }
        sleep(Duration::from_secs(2)).await;
    }

    /// A client that calls one replica only.
    fn stranger(&self, home: IpAddr, replica: SocketAddr) -> Client {
        let config = Config {
            network: Some(Arc::new(self.network.of_host(home))),
            ..Config::default()
        };
        let target: Target = replica.to_string().parse().expect("a target");
        Channel::plain(&target, DESCRIPTORS, &config, Duration::from_mins(1)).connect()
    }

    /// A stranger fills the places of a replica with slow calls.
    async fn hog(&self, replica: usize, calls: u32, lasts: Duration) {
        let client = self.stranger(host(4, 1), self.replicas[replica].address());
        for _ in 0..calls {
            let mut plan = Plan::simple(Method::Put, self.next_call());
            plan.order.delay_ms = u32::try_from(lasts.as_millis()).expect("short");
            plan.deadline = lasts;
            plan.is_of_stranger = true;
            self.spawn(plan, client.clone());
        }
        sleep(lasts).await;
    }
}
