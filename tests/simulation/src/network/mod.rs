//! [`Network`]: hosts, the ways between them, their listeners and their names, in simulated time.
//!
//! It differs from TCP in what neither stack can see: there are no packets that are lost and sent again
//! one by one, a way that lets nothing pass delays what is sent until it does, and a reset overtakes what
//! is on its way.

mod path;
mod pipe;
mod socket;

use std::{
    collections::BTreeMap,
    fmt, io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use common::client::{BoxConnection, BoxFuture};
use tokio::time::{sleep, sleep_until};

pub use self::{
    path::Conditions,
    socket::{Socket, Written},
};
use self::{
    path::Path,
    socket::{Wires, connection},
};
use crate::{lock, random::Shared as Random};

/// The longest time after which a host sends again what was lost.
const SENDS_AGAIN_AFTER: Duration = Duration::from_secs(2);

/// What a name says when it is looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Name {
    /// These addresses.
    Is(Vec<SocketAddr>),
    /// That it does not exist.
    Fails,
    /// Nothing.
    Hangs,
}

/// Takes the connections to an address, each with the address of its client.
pub type Listen = Arc<dyn Fn(Socket, IpAddr) + Send + Sync>;

/// The network. Clones share their state.
#[derive(Clone)]
pub struct Network {
    state: Arc<Mutex<State>>,
    random: Random,
}

#[derive(Default)]
struct State {
    paths: BTreeMap<(IpAddr, IpAddr), Path>,
    listeners: BTreeMap<SocketAddr, Listen>,
    names: BTreeMap<String, Name>,
    /// Each with the address of its server.
    connections: Vec<(SocketAddr, Wires)>,
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Network").finish_non_exhaustive()
    }
}

impl Network {
    /// A network without hosts.
    pub fn new(random: Random) -> Self {
        Self {
            state: Arc::default(),
            random,
        }
    }

    /// The way from one host to another.
    fn path(&self, from: IpAddr, to: IpAddr) -> Path {
        let mut state = lock(&self.state);
        state.paths.entry((from, to)).or_default().clone()
    }

    /// Sets the conditions in both directions between two hosts.
    pub fn set_conditions(&self, one: IpAddr, other: IpAddr, conditions: Conditions) {
        self.path(one, other).set(conditions);
        self.path(other, one).set(conditions);
    }

    /// Lets nothing pass from one host to the other.
    pub fn block(&self, from: IpAddr, to: IpAddr) {
        self.path(from, to).block();
    }

    /// Lets packets pass again.
    pub fn unblock(&self, from: IpAddr, to: IpAddr) {
        let again_after = SENDS_AGAIN_AFTER.mul_f64(self.random.fraction());
        self.path(from, to).unblock(again_after);
    }

    /// Listens at an address, in place of any that listened before.
    pub fn listen(&self, address: SocketAddr, listen: Listen) {
        lock(&self.state).listeners.insert(address, listen);
    }

    /// Refuses further connections to an address. The open ones stay.
    pub fn stop_listening(&self, address: SocketAddr) {
        lock(&self.state).listeners.remove(&address);
    }

    /// Resets the connections to an address.
    pub fn reset(&self, address: SocketAddr, error: io::ErrorKind) {
        let state = lock(&self.state);
        for (server, wires) in &state.connections {
            if *server == address {
                wires.reset(error);
            }
        }
    }

    /// The host of an address is gone, and nobody is told: whoever is connected notices nothing until
    /// [`come_back`](Self::come_back).
    pub fn vanish(&self, address: SocketAddr) {
        let mut state = lock(&self.state);
        state.listeners.remove(&address);
        for (server, wires) in &state.connections {
            if *server == address {
                wires.vanish();
            }
        }
    }

    /// The host is back without its connections, and resets them.
    pub fn come_back(&self, address: SocketAddr) {
        let state = lock(&self.state);
        for (server, wires) in &state.connections {
            if *server == address && wires.has_vanished() {
                wires.reset(io::ErrorKind::ConnectionReset);
            }
        }
    }

    /// Sets what a name says.
    pub fn set_name(&self, host: &str, name: Name) {
        lock(&self.state).names.insert(host.to_owned(), name);
    }

    /// The network as a host with this address sees it.
    pub fn of_host(&self, host: IpAddr) -> Host {
        Host {
            network: self.clone(),
            address: host,
        }
    }
}

/// The network as one host sees it.
#[derive(Debug, Clone)]
pub struct Host {
    network: Network,
    address: IpAddr,
}

impl Host {
    /// Opens a connection.
    ///
    /// # Errors
    ///
    /// If nobody listens at the address.
    pub async fn open(&self, address: SocketAddr) -> io::Result<Socket> {
        let there = self.network.path(self.address, address.ip());
        let back = self.network.path(address.ip(), self.address);
        for path in [&there, &back] {
            sleep_until(path.arrival(64, self.network.random.fraction())).await;
            if path.is_blocked() {
                sleep(Duration::from_mins(2)).await;
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
        let (socket, listen) = {
            let mut state = lock(&self.network.state);
            let Some(listen) = state.listeners.get(&address).cloned() else {
                return Err(io::ErrorKind::ConnectionRefused.into());
            };
            let (ours, theirs, wires) = connection(there, back, &self.network.random);
            state.connections.push((address, wires));
            ((ours, theirs), listen)
        };
        let (ours, theirs) = socket;
        listen(theirs, self.address);
        Ok(ours)
    }
}

impl common::client::Network for Host {
    fn look_up<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, Vec<SocketAddr>> {
        Box::pin(async move {
            sleep(Duration::from_millis(1)).await;
            let name = lock(&self.network.state).names.get(host).cloned();
            match name {
                Some(Name::Is(mut addresses)) => {
                    for address in &mut addresses {
                        address.set_port(port);
                    }
                    Ok(addresses)
                }
                Some(Name::Hangs) => {
                    sleep(Duration::from_mins(2)).await;
                    Err(io::ErrorKind::TimedOut.into())
                }
                Some(Name::Fails) | None => Err(io::Error::other("no such name")),
            }
        })
    }

    fn connect(&self, address: SocketAddr) -> BoxFuture<'_, BoxConnection> {
        Box::pin(async move { Ok(Box::new(self.open(address).await?) as BoxConnection) })
    }
}
