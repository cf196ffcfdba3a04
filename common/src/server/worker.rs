//! [`Worker`]: serves connections with routers and a capacity of its own; [`run`]: runs it to the end of
//! its last connection; and [`WorkerSettings`], which all workers of a process share.

use std::{
    net,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::{
    net::TcpStream,
    sync::mpsc::UnboundedReceiver,
    task::JoinSet,
    time::{sleep, timeout},
};
use tracing::{info, warn};

use super::{
    capacity::{
        connections::{ConnectionPermit, Connections},
        handle::{Close, ConnectionHandle},
        long_lived::LongLived,
        permits::Permits,
        worker_capacity::WorkerCapacity,
    },
    connection::{
        handshake::{Certificates, handshake},
        lifetime::ConnectionLimits,
        serve::serve,
        state::ConnectionState,
    },
    layers::{access::PortSettings, client_address::Forwarding},
    service::{
        invalid::InvalidFace,
        listener::{Listener, ServedPort},
        process::Process,
    },
    stack::{inbound, with_layers},
};
use crate::{config::settings::Config, request::dialect::Dialect, tls::Peer, transport::Transport};

/// What the workers of a process share.
#[derive(Debug, Clone)]
pub(crate) struct WorkerSettings {
    pub(crate) workers: usize,
    /// The longest that a request may take, if nothing else is declared for it.
    pub(crate) deadline: Duration,
    pub(crate) drain_timeout: Duration,
    /// Whether gRPC ports serve reflection.
    pub(crate) reflection: bool,
    pub(crate) limits: ConnectionLimits,
    pub(crate) connections: Arc<Connections>,
    pub(crate) permits: Arc<Permits>,
    pub(crate) process: Process,
    /// Whose word on the address of a client counts, if anybody's.
    pub(crate) forwarding: Option<Arc<Forwarding>>,
    /// Whether HTTP responses have `Server-Timing`.
    pub(crate) shows_timings: bool,
    /// The share of the access lines of 4xx that are logged.
    pub(crate) client_error_lines: f64,
    /// The certificates of the gRPC ports, if they speak TLS.
    pub(crate) mesh_certificates: Option<Certificates>,
    /// The certificates of the HTTP ports, if they speak TLS.
    pub(crate) edge_certificates: Option<Certificates>,
}

impl WorkerSettings {
    /// The settings of a new process with at most this number of connections.
    pub(crate) fn new(config: &Config, max_connections: usize) -> Self {
        let connections = Arc::new(Connections::new(max_connections));
        let permits = Permits::new(config.max_in_flight.get(), connections.clone());
        Self {
            workers: config.workers.get(),
            deadline: config.deadline,
            drain_timeout: config.drain_timeout,
            reflection: config.reflection,
            limits: ConnectionLimits::of(config),
            connections,
            permits: Arc::new(permits),
            process: Process::new(),
            forwarding: config.trusted_proxies.clone().map(|trusted| {
                let header = config.forwarded_header.clone();
                Arc::new(Forwarding { trusted, header })
            }),
            shows_timings: config.server_timing,
            client_error_lines: config.client_error_lines,
            mesh_certificates: config.mesh_tls.clone().map(|tls| Certificates {
                tls,
                allowed: config.mesh_allowed_peers.clone(),
            }),
            edge_certificates: config
                .edge_tls
                .clone()
                .map(|tls| Certificates { tls, allowed: None }),
        }
    }

    /// Builds the ports of one worker.
    pub(crate) fn build(
        &self,
        listeners: impl IntoIterator<Item = Listener>,
    ) -> Result<Vec<ServedPort>, InvalidFace> {
        let listeners = listeners.into_iter();
        let ports = listeners.map(|mut listener| {
            let layers = listener.take_layers();
            if !self.reflection {
                listener = listener.without_reflection();
            }
            let port = listener.build(&self.process, self.deadline)?;
            let settings = PortSettings {
                forwarding: self.forwarding.clone(),
                speaks_tls: self.certificates(port.dialect).is_some(),
                shows_timings: self.shows_timings || port.dialect.serves_mesh(),
                client_error_lines: self.client_error_lines,
            };
            Ok(with_layers(ServedPort { settings, ..port }, layers))
        });
        ports.collect()
    }

    fn certificates(&self, port: &dyn Dialect) -> Option<&Certificates> {
        if port.serves_mesh() {
            self.mesh_certificates.as_ref()
        } else {
            self.edge_certificates.as_ref()
        }
    }

    /// Announces the drain to health checks and to clients, and waits for the time in which they go
    /// elsewhere.
    pub(crate) async fn announce_drain(&self) {
        let delay = self.limits.drain_delay;
        self.process.readiness().drain();
        if !delay.is_zero() {
            self.connections.say_goodbye();
        }
        info!(action = "drain", status = "success", "draining");
        sleep(delay).await;
    }

    /// Drains all connections.
    pub(crate) fn drain(&self) {
        self.connections
            .for_each(|handle| handle.close(Close::Drain));
    }
}

/// Serves connections with routers and a capacity of its own.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) settings: WorkerSettings,
    pub(crate) ports: Vec<ServedPort>,
    pub(crate) capacity: Arc<WorkerCapacity>,
}

impl Worker {
    pub(crate) fn new(settings: WorkerSettings, ports: Vec<ServedPort>) -> Self {
        let draining = settings.process.token().clone();
        let long_lived = LongLived::new(draining, settings.drain_timeout);
        let permits = settings.permits.clone();
        let capacity = WorkerCapacity::new(permits, settings.workers, long_lived);
        Self {
            settings,
            ports,
            capacity: Arc::new(capacity),
        }
    }

    /// Serves a TCP connection to its end, over TLS if there are certificates for the port.
    pub(crate) async fn serve_tcp(
        &self,
        port: usize,
        handle: Arc<ConnectionHandle>,
        socket: TcpStream,
    ) {
        let dialect = self.ports[port].dialect;
        let Some(certificates) = self.settings.certificates(dialect) else {
            let socket = Transport::Tcp(socket);
            return self.serve(port, handle, None, socket).await;
        };
        // On the heap, because what follows is far larger than a connection that waits for its handshake.
        let shaken = Box::pin(handshake(certificates, socket, &handle)).await;
        if let Some((socket, peer)) = shaken {
            Box::pin(self.serve(port, handle, peer, socket)).await;
        }
    }

    /// Serves a connection to its end. `peer` is the one that mutual TLS has shown.
    pub(crate) async fn serve(
        &self,
        port: usize,
        handle: Arc<ConnectionHandle>,
        peer: Option<Peer>,
        socket: Transport,
    ) {
        let (port, limits) = (&self.ports[port], &self.settings.limits);
        let connection = Arc::new(ConnectionState::new(handle, self.capacity.clone(), peer));
        let service = inbound(port.clone(), connection.clone(), limits.keep_alive.clone());
        serve(socket, port.dialect, limits, connection, service).await;
    }
}

/// A connection on its way from the accepting thread to a worker.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) stream: net::TcpStream,
    /// The index of the listener and of its port.
    pub(crate) listener: usize,
    /// Counts, by its clones, the open connections of this worker and listener.
    pub(crate) counter: Arc<()>,
    pub(crate) permit: ConnectionPermit,
}

/// Serves the connections from `accepted` until that channel closes. Then lets the requests in
/// flight complete within the drain timeout, and drops the rest.
pub(crate) async fn run(worker: Worker, mut accepted: UnboundedReceiver<Accepted>) {
    let (worker, mut connections) = (Arc::new(worker), JoinSet::new());
    let counters = worker.capacity.counters.clone();
    loop {
        let accepted = tokio::select! {
            accepted = accepted.recv() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let Some(accepted) = accepted else { break };
        counters.connections.fetch_add(1, Relaxed);
        let (worker, counters) = (worker.clone(), counters.clone());
        connections.spawn(async move {
            serve_connection(&worker, accepted).await;
            counters.connections.fetch_sub(1, Relaxed);
        });
    }
    let all_ended = async { while connections.join_next().await.is_some() {} };
    let is_in_time = timeout(worker.settings.drain_timeout, all_ended).await;
    worker.capacity.note_stop();
    if is_in_time.is_err() {
        warn!(
            action = "drain",
            status = "failure",
            connections = connections.len(),
            requests = counters.in_flight.load(Relaxed),
            "requests are still in flight after the drain timeout; they are dropped"
        );
        connections.shutdown().await;
    }
}

async fn serve_connection(worker: &Worker, accepted: Accepted) {
    let Accepted {
        stream,
        listener,
        counter: _counter,
        permit,
    } = accepted;
    match TcpStream::from_std(stream) {
        Ok(stream) => {
            worker
                .serve_tcp(listener, permit.handle.clone(), stream)
                .await;
        }
        Err(error) => warn!(action = "accept", status = "failure", %error, "a connection is lost"),
    }
}
