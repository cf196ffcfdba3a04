//! [`Admin`]: the port for operators. It has a thread, connections and permits of its own, so it
//! responds while the workers are busy and the other ports are full, and to the end of the drain.

use std::{
    net::{IpAddr, SocketAddr, TcpListener},
    sync::Arc,
};

use tokio::{
    sync::mpsc::{UnboundedSender, unbounded_channel},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    accept::{Dispatcher, accept},
    bind::bind,
    error::Error,
    threads::{LogLines, Threads},
};
use crate::server::worker::{self, Accepted};
use crate::{
    limits,
    server::{
        capacity::{connections::Connections, permits::Permits},
        service::{admin, status::Status},
        worker::{Worker, WorkerSettings},
    },
};

/// The port for operators, bound.
pub(crate) struct Admin {
    pub(crate) address: SocketAddr,
    socket: TcpListener,
    settings: WorkerSettings,
    inbox: UnboundedSender<Accepted>,
    threads: Threads,
}

impl Admin {
    /// Binds the port, and starts its thread. `settings` are those of the workers.
    pub(crate) fn bind(port: u16, settings: &WorkerSettings, host: IpAddr) -> Result<Self, Error> {
        let connections = Arc::new(Connections::new(limits::ADMIN_CONNECTIONS));
        let permits = Permits::new(limits::ADMIN_IN_FLIGHT, connections.clone());
        let status = Status::new(settings.process.clone(), settings.workers);
        let settings = WorkerSettings {
            workers: 1,
            drain_timeout: limits::ADMIN_DRAIN,
            connections,
            permits: Arc::new(permits),
            mesh_certificates: None,
            edge_certificates: None,
            ..settings.clone()
        };
        let (socket, address) = bind(host, port, "admin")?;
        let (inbox, accepted) = unbounded_channel();
        let mut threads = Threads::new(settings.process.clone(), settings.drain_timeout);
        let of_thread = settings.clone();
        let work = async move || {
            let port = admin::face(status, of_thread.deadline);
            worker::run(Worker::new(of_thread, vec![port]), accepted).await;
            Ok(())
        };
        threads.spawn("admin".into(), Error::Worker, LogLines::Buffered, work)?;
        Ok(Self {
            address,
            socket,
            settings,
            inbox,
            threads,
        })
    }

    /// Accepts connections, until [`Serving::end`] or until the value is dropped.
    pub(crate) fn serve(self) -> Result<Serving, Error> {
        let ending = CancellationToken::new();
        let accepting = tokio::spawn(accept(
            0,
            tokio::net::TcpListener::from_std(self.socket)?,
            self.settings.connections.clone(),
            Dispatcher::new(vec![self.inbox]),
            ending.clone(),
        ));
        Ok(Serving {
            ending,
            accepting,
            settings: self.settings,
            threads: self.threads,
        })
    }
}

/// The port for operators, which accepts connections.
pub(crate) struct Serving {
    ending: CancellationToken,
    accepting: JoinHandle<()>,
    settings: WorkerSettings,
    threads: Threads,
}

impl Serving {
    /// Ends with the process: the last thing that operators can see is that all has drained.
    pub(crate) async fn end(mut self) {
        self.ending.cancel();
        let _ = timeout(limits::LAST_ACCEPTED, &mut self.accepting).await;
        self.accepting.abort();
        self.settings.drain();
        let _ = timeout(2 * limits::ADMIN_DRAIN, self.threads.wait()).await;
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}
