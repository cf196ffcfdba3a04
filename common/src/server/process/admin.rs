//! [`Admin`]: the port for operators. It has a thread, connections and permits of its own, so it
//! responds before the other ports are open, while the workers are busy and the other ports are full, and to
//! the end of the drain.

use std::{net::SocketAddr, sync::Arc};

use tokio::{
    sync::mpsc::{UnboundedSender, unbounded_channel},
    time::{sleep, timeout},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    accept::{Dispatcher, accept},
    bind::bind,
    error::Error,
    threads::{LogLines, Threads},
};
use crate::{
    config::settings::Config,
    limits,
    server::{
        capacity::{connections::Connections, permits::Permits},
        service::{admin, status::Status},
        worker::{self, Accepted, Worker, WorkerSettings},
    },
};

/// The port for operators, open. Dropping the value closes it.
pub(crate) struct Admin {
    pub(crate) address: SocketAddr,
    open: DropGuard,
    threads: Threads,
}

impl Admin {
    /// Opens the port, on a thread of its own. `settings` are those of the workers.
    pub(crate) fn open(
        port: u16,
        settings: &WorkerSettings,
        config: &Config,
    ) -> Result<Self, Error> {
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
        let (socket, address) = bind(config.admin_host, port, "admin")?;
        let closing = CancellationToken::new();
        let open = closing.clone().drop_guard();
        let mut threads = Threads::new(settings.process.clone(), settings.drain_timeout);
        let names = config.admin_names.clone().unwrap_or_default();
        let work = async move || {
            let (inbox, accepted) = unbounded_channel();
            let port = admin::face(status, names, settings.deadline);
            let socket = tokio::net::TcpListener::from_std(socket)?;
            tokio::spawn(serve(socket, inbox, settings.clone(), closing));
            worker::run(Worker::new(settings, vec![port]), accepted).await;
            Ok(())
        };
        threads.spawn("admin".into(), Error::Worker, LogLines::Buffered, work)?;
        Ok(Self {
            address,
            open,
            threads,
        })
    }

    /// Closes the port with the process: the last thing that operators can see is that all has drained.
    pub(crate) async fn close(mut self) {
        drop(self.open);
        let _ = timeout(2 * limits::ADMIN_DRAIN, self.threads.wait()).await;
    }
}

/// Accepts connections until `closing`, and then drains them.
async fn serve(
    socket: tokio::net::TcpListener,
    inbox: UnboundedSender<Accepted>,
    settings: WorkerSettings,
    closing: CancellationToken,
) {
    let (connections, dispatcher) = (settings.connections.clone(), Dispatcher::new(vec![inbox]));
    let late = async {
        closing.cancelled().await;
        sleep(limits::LAST_ACCEPTED).await;
    };
    tokio::select! {
        () = accept(0, socket, connections, dispatcher, closing.clone()) => {}
        () = late => {} // at the limit of connections, accepting may have to wait
    }
    settings.drain();
}
