//! [`Process`]: what a simulated process has: its service, and the tasks of its connections.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
};

use common::server::InMemory;
use tokio::task::AbortHandle;

use crate::{
    lock,
    network::{Network, Socket},
};

/// A process, which comes and goes. Clones share their state.
#[derive(Debug, Clone)]
pub(crate) struct Process {
    network: Network,
    /// That of our server, while it runs.
    service: Arc<Mutex<Option<InMemory>>>,
    tasks: Arc<Mutex<Vec<AbortHandle>>>,
}

impl Process {
    /// A process that does not run yet.
    pub(crate) fn new(network: &Network) -> Self {
        Self {
            network: network.clone(),
            service: Arc::default(),
            tasks: Arc::default(),
        }
    }

    /// Runs a service at an address.
    pub(crate) fn serve(&self, address: SocketAddr, service: InMemory) {
        *lock(&self.service) = Some(service.clone());
        self.listen(address, move |socket, client| {
            service.serve(0, client, socket)
        });
    }

    /// Serves each connection to an address.
    pub(crate) fn listen<F>(
        &self,
        address: SocketAddr,
        serve: impl Fn(Socket, IpAddr) -> F + Send + Sync + 'static,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let tasks = self.tasks.clone();
        let listen = Arc::new(move |socket, client| {
            let task = tokio::spawn(serve(socket, client));
            let mut tasks = lock(&tasks);
            tasks.retain(|task| !task.is_finished());
            tasks.push(task.abort_handle());
        });
        self.network.listen(address, listen);
    }

    /// Ends at once. The kernel closes the connections.
    pub(crate) fn kill(&self, address: SocketAddr) {
        self.network.stop_listening(address);
        *lock(&self.service) = None;
        for task in std::mem::take(&mut *lock(&self.tasks)) {
            task.abort();
        }
    }

    /// The service, if it is our server that runs.
    pub(crate) fn service(&self) -> Option<InMemory> {
        lock(&self.service).clone()
    }

    /// What the service still has: connections and requests in flight.
    pub(crate) fn left(&self) -> (usize, usize) {
        let service = self.service();
        service.map_or((0, 0), |it| (it.connections(), it.in_flight()))
    }
}
