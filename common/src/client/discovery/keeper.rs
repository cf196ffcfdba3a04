//! [`keep_replicas`]: the task of a worker that connects to its subset of the replicas.
//!
//! Changes are soft. A connection to an address that has left is used, and never opened again, until
//! there is one to an address that has not left.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::Arc,
};

use tokio::{
    select,
    sync::watch,
    time::{Instant, sleep_until},
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    family::Family,
    names::{Addresses, Names},
    reconnect::{Connect, Connector, Origins, keep_connected},
    subset::Subset,
};
use crate::client::{
    choice::balancer::Balancer,
    ejection::state::State,
    replicas::replica::{Connected, Replica},
};

/// Keeps a worker's subset of the replicas in its balancer while polled.
pub(crate) async fn keep_replicas(names: Arc<Names>, subset: Subset, balancer: Balancer<Replica>) {
    keep(names, subset, balancer, Connector).await;
}

async fn keep<R: Connected + 'static>(
    names: Arc<Names>,
    subset: Subset,
    balancer: Balancer<R>,
    connector: impl Connect<R>,
) {
    let looking_up = names.clone();
    let looking_up = tokio::spawn(async move { looking_up.keep_looking_up().await });
    let _looking_up = AbortOnDropHandle::new(looking_up);
    let mut found = names.found.subscribe();
    let mut workers = subset.workers.subscribe();
    let mut keepers = Keepers {
        families: names.all.iter().map(|_| Family::default()).collect(),
        all: HashMap::new(),
        names: names.clone(),
        balancer: balancer.clone(),
        connector,
    };
    loop {
        let addresses = found.borrow_and_update().clone();
        workers.mark_unchanged();
        let again = keepers.change(&addresses, &subset);
        let again = async {
            match again {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        select! {
            _ = found.changed() => {}
            _ = workers.changed() => {}
            () = balancer.reachability_changed() => {}
            () = again => {}
        }
    }
}

/// The keepers of a worker: a task for each replica.
struct Keepers<R: Connected, C> {
    names: Arc<Names>,
    /// By name.
    families: Vec<Family>,
    all: HashMap<SocketAddr, Keeper>,
    balancer: Balancer<R>,
    connector: C,
}

struct Keeper {
    /// The names that have the address or, once it has left, those that had it.
    names: Vec<usize>,
    /// Those names, as the task of the replica connects them.
    origins: watch::Sender<Origins>,
    _task: AbortOnDropHandle<()>,
}

impl<R: Connected + 'static, C: Connect<R>> Keepers<R, C> {
    /// Starts and ends keepers, as addresses come and go and can be reached. Returns when to do so again
    /// if nothing changes.
    fn change(&mut self, found: &[Addresses], subset: &Subset) -> Option<Instant> {
        let states = self.balancer.states();
        let state =
            |address: &SocketAddr| states.get(address).copied().unwrap_or(State::Connecting);
        let now = Instant::now();
        let mut again = None;
        let mut owners = HashMap::<SocketAddr, Vec<usize>>::new();
        for (index, addresses) in found.iter().enumerate() {
            let (chosen, until) = self.families[index].choose(addresses, state, now);
            again = again.into_iter().chain(until).min();
            for address in chosen {
                owners.entry(*address).or_default().push(index);
            }
        }
        let is_unreachable = |address: &SocketAddr| state(address) == State::Unreachable;
        let chosen = owners.keys().copied().collect();
        let wanted = self.names.ranks.subset(subset, chosen, is_unreachable);

        let is_connected = |address: &SocketAddr| state(address).is_connected();
        let connected = wanted.iter().filter(|address| is_connected(address));
        let served: HashSet<_> = connected.flat_map(|address| &owners[address]).collect();
        // An address that its names still have gives way to others of the worker's subset.
        let is_needed = |address: &SocketAddr, keeper: &Keeper| {
            let has_left = !owners.contains_key(address);
            let is_last = keeper.names.iter().any(|name| !served.contains(name));
            has_left && is_connected(address) && is_last
        };
        let still_wanted: HashSet<_> = wanted.iter().collect();
        self.all.retain(|address, keeper| {
            still_wanted.contains(address) || {
                keeper.set_origins(Origins::default());
                is_needed(address, keeper)
            }
        });
        for address in &wanted {
            let names = owners.remove(address).expect("it is chosen");
            self.keep(*address, names);
        }
        again
    }

    /// Keeps a replica connected, under these names.
    fn keep(&mut self, address: SocketAddr, names: Vec<usize>) {
        let origins = || {
            let origins = names
                .iter()
                .map(|name| self.names.all[*name].origin.clone());
            origins.collect::<Origins>()
        };
        if let Some(keeper) = self.all.get_mut(&address) {
            if keeper.names != names || keeper.origins.borrow().is_empty() {
                keeper.set_origins(origins());
                keeper.names = names;
            }
            return;
        }
        let (origins, of_keeper) = watch::channel(origins());
        let task = keep_connected(
            address,
            of_keeper,
            self.balancer.clone(),
            self.names.ended.clone(),
            self.connector.clone(),
        );
        let keeper = Keeper {
            names,
            origins,
            _task: AbortOnDropHandle::new(tokio::spawn(task)),
        };
        self.all.insert(address, keeper);
    }
}

impl Keeper {
    fn set_origins(&self, origins: Origins) {
        self.origins.send_replace(origins);
    }
}

#[cfg(test)]
mod tests {
    use std::{io, sync::Mutex, time::Duration};

    use tokio::time::sleep;

    use super::*;
    use crate::{
        client::{
            choice::{
                balancer::{ChannelCounts, Membership},
                replica_set::Candidate,
            },
            config::Config,
            discovery::names::fake::Answers,
            wire::{activity::Closed, origin::Origin},
        },
        sync::lock,
    };

    const SECOND: Duration = Duration::from_secs(1);

    /// A network without sockets. Clones share their state.
    #[derive(Debug, Clone, Default)]
    struct Network(Arc<Mutex<State>>);

    #[derive(Debug, Default)]
    struct State {
        /// Any other address refuses.
        hosts: HashMap<SocketAddr, Host>,
        dials: Vec<(SocketAddr, String)>,
        open: Vec<(SocketAddr, watch::Sender<bool>)>,
    }

    #[derive(Debug, Clone, Copy)]
    enum Host {
        Listens,
        DropsPackets,
    }

    impl Network {
        fn listen(&self, addresses: &[SocketAddr]) {
            let listen = |address: &SocketAddr| (*address, Host::Listens);
            lock(&self.0).hosts.extend(addresses.iter().map(listen));
        }

        fn drop_packets(&self, address: SocketAddr) {
            lock(&self.0).hosts.insert(address, Host::DropsPackets);
        }

        /// The address refuses from now on, and its connections end.
        fn end(&self, address: SocketAddr) {
            let mut state = lock(&self.0);
            state.hosts.remove(&address);
            for (_, ended) in state.open.iter().filter(|(open, _)| *open == address) {
                ended.send_replace(true);
            }
        }

        /// The addresses of the open connections.
        fn open(&self) -> Vec<SocketAddr> {
            let mut state = lock(&self.0);
            state.open.retain(|(_, ended)| ended.receiver_count() > 0);
            let mut open: Vec<_> = state.open.iter().map(|(address, _)| *address).collect();
            open.sort();
            open
        }

        /// The dials to an address so far, by the name of the replica.
        fn dials(&self, address: SocketAddr) -> Vec<String> {
            let state = lock(&self.0);
            let dials = state
                .dials
                .iter()
                .filter(|(dialled, _)| *dialled == address);
            dials.map(|(_, name)| name.clone()).collect()
        }
    }

    #[derive(Debug)]
    struct Fake {
        ended: watch::Receiver<bool>,
    }

    impl Candidate for Fake {
        fn cost(&self) -> f64 {
            1.0
        }

        fn cost_of_joining(&self) -> Option<f64> {
            None
        }
    }

    impl Connected for Fake {
        async fn ended(&self) -> Closed {
            let _ = self.ended.clone().wait_for(|ended| *ended).await;
            Closed::Lost
        }
    }

    impl Connect<Fake> for Network {
        async fn connect(&self, membership: &Membership<Fake>, origin: Origin) -> io::Result<Fake> {
            let address = membership.address;
            let host = {
                let mut state = lock(&self.0);
                let name = origin.authority.host().to_owned();
                state.dials.push((address, name));
                state.hosts.get(&address).copied()
            };
            match host {
                None => Err(io::ErrorKind::ConnectionRefused.into()),
                Some(Host::DropsPackets) => {
                    sleep(SECOND).await;
                    Err(io::ErrorKind::TimedOut.into())
                }
                Some(Host::Listens) => {
                    let (ended, of_replica) = watch::channel(false);
                    lock(&self.0).open.push((address, ended));
                    Ok(Fake { ended: of_replica })
                }
            }
        }
    }

    /// A worker that calls a service.
    struct Worker {
        answers: Answers,
        network: Network,
        _task: AbortOnDropHandle<()>,
    }

    impl Worker {
        fn start(target: &str) -> Self {
            let (answers, network) = (Answers::default(), Network::default());
            let target = target.parse().expect("a target");
            let config = Config {
                network: Some(Arc::new(answers.clone())),
                ..Config::default()
            };
            let names = Names::new(&target, &config, None);
            let subset = Subset::join(0, &watch::Sender::new(0));
            let balancer = Balancer::<Fake>::new(SECOND, ChannelCounts::default(), Arc::default());
            let task = keep(Arc::new(names), subset, balancer, network.clone());
            Self {
                answers,
                network,
                _task: AbortOnDropHandle::new(tokio::spawn(task)),
            }
        }
    }

    /// Until a name is looked up again, and what it changes is done.
    async fn looked_up() {
        sleep(6 * SECOND).await;
    }

    fn v4(number: u8) -> SocketAddr {
        ([10, 0, 0, number], 1).into()
    }

    fn v6(number: u16) -> SocketAddr {
        ([0xfd00, 0, 0, 0, 0, 0, 0, number], 1).into()
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_moves_keeps_its_connections_until_one_to_a_new_address_is_up() {
        let worker = Worker::start("a:1");
        let (old, new) = ([v4(1), v4(2), v4(3)], [v4(4), v4(5)]);
        worker.network.listen(&old);
        worker.answers.set("a", &old);
        sleep(SECOND).await;
        assert_eq!(worker.network.open(), old);
        worker.answers.set("a", &new);
        looked_up().await;
        assert_eq!(worker.network.open(), old, "no new address is up");
        worker.network.end(old[0]);
        worker.network.listen(&old);
        sleep(30 * SECOND).await;
        assert_eq!(worker.network.open(), old[1..]);
        assert_eq!(
            worker.network.dials(old[0]).len(),
            1,
            "it is never dialled again"
        );
        worker.network.listen(&new[..1]);
        sleep(30 * SECOND).await;
        assert_eq!(worker.network.open(), new[..1]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_comes_back_is_dialled_again() {
        let worker = Worker::start("a:1");
        worker.network.listen(&[v4(1)]);
        worker.answers.set("a", &[v4(1)]);
        sleep(SECOND).await;
        worker.answers.set("a", &[v4(2)]);
        looked_up().await;
        worker.answers.set("a", &[v4(1)]);
        looked_up().await;
        assert_eq!(
            worker.network.dials(v4(1)).len(),
            1,
            "it is still connected"
        );
        worker.network.end(v4(1));
        worker.network.listen(&[v4(1)]);
        sleep(SECOND).await;
        assert_eq!(worker.network.open(), [v4(1)]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_leaves_while_others_are_up_is_closed() {
        let worker = Worker::start("a:1");
        worker.network.listen(&[v4(1), v4(2)]);
        worker.answers.set("a", &[v4(1), v4(2)]);
        sleep(SECOND).await;
        worker.answers.set("a", &[v4(2), v4(3)]);
        looked_up().await;
        assert_eq!(worker.network.open(), [v4(2)]);
    }

    #[tokio::test(start_paused = true)]
    async fn one_name_does_not_stand_in_for_another() {
        let worker = Worker::start("a:1,b:1");
        worker.network.listen(&[v4(1), v4(2)]);
        worker.answers.set("a", &[v4(1)]);
        worker.answers.set("b", &[v4(2)]);
        sleep(SECOND).await;
        worker.answers.set("a", &[v4(3)]);
        looked_up().await;
        assert_eq!(worker.network.open(), [v4(1), v4(2)]);
        worker.network.listen(&[v4(3)]);
        looked_up().await;
        assert_eq!(worker.network.open(), [v4(2), v4(3)]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_other_family_is_tried_at_once_where_the_first_refuses() {
        let worker = Worker::start("a:1");
        worker.network.listen(&[v6(1)]);
        worker.answers.set("a", &[v4(1), v6(1)]);
        sleep(Duration::from_millis(20)).await;
        assert_eq!(worker.network.open(), [v6(1)]);
        worker.network.listen(&[v4(1)]);
        sleep(30 * SECOND).await;
        assert_eq!(worker.network.open(), [v6(1)], "it works, and stays");
        worker.network.end(v6(1));
        sleep(SECOND).await;
        assert_eq!(worker.network.open(), [v4(1)]);
        worker.network.listen(&[v6(1)]);
        sleep(30 * SECOND).await;
        assert_eq!(worker.network.open(), [v4(1)]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_other_family_is_tried_after_250_ms_where_the_first_is_silent() {
        let worker = Worker::start("a:1");
        worker.network.drop_packets(v4(1));
        worker.network.listen(&[v6(1), v6(2)]);
        worker.answers.set("a", &[v4(1), v6(1), v6(2)]);
        sleep(Duration::from_millis(245)).await;
        assert_eq!(worker.network.open(), []);
        sleep(Duration::from_millis(20)).await;
        assert_eq!(worker.network.open(), [v6(1), v6(2)]);
        worker.network.listen(&[v4(1)]);
        sleep(30 * SECOND).await;
        assert_eq!(worker.network.dials(v4(1)).len(), 1, "one family at a time");
    }

    #[tokio::test(start_paused = true)]
    async fn while_the_first_family_works_the_other_is_not_tried() {
        let worker = Worker::start("a:1");
        worker.network.listen(&[v4(1), v6(1)]);
        worker.answers.set("a", &[v4(1), v4(2), v6(1)]);
        sleep(30 * SECOND).await;
        assert_eq!(worker.network.open(), [v4(1)]);
        assert!(worker.network.dials(v6(1)).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_of_two_names_is_one_replica_under_a_name_that_it_has() {
        let worker = Worker::start("a:1,b:1");
        worker.network.listen(&[v4(1), v4(2)]);
        worker.answers.set("a", &[v4(1)]);
        worker.answers.set("b", &[v4(1)]);
        sleep(SECOND).await;
        assert_eq!(worker.network.open(), [v4(1)]);
        assert_eq!(worker.network.dials(v4(1)), ["a"]);
        worker.answers.set("a", &[v4(2)]);
        looked_up().await;
        assert_eq!(worker.network.open(), [v4(1), v4(2)]);
        worker.network.end(v4(1));
        worker.network.listen(&[v4(1)]);
        sleep(SECOND).await;
        assert_eq!(worker.network.dials(v4(1)), ["a", "b"]);
    }
}
