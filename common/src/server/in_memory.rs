//! [`InMemory`]: a service without sockets and threads, for tests.

use std::{net::IpAddr, sync::Arc};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};
use tokio_util::task::TaskTracker;

use super::{
    capacity::{
        Capacity, connections::Connections, long_lived::LongLived, open::Close, permits::Permits,
    },
    connection::lifetime::Limits,
    process::{server::announce_drain, worker_thread::serve_socket},
    service::{
        invalid::InvalidFace,
        listener::{Listener, ServedPort},
        process::Process,
    },
};
use crate::config::settings::Config;

/// A service in memory: the stacks, the limits and the drain of a [`Server`](super::Server) with one
/// worker, over connections that the caller opens. It has neither sockets nor threads, so it runs in a
/// runtime whose clock is paused. Clones share their state.
///
/// ```
/// use axum::{Router, routing::get};
/// use common::{Config, server::{InMemory, Listener}};
/// use tokio::io::{AsyncReadExt, AsyncWriteExt};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let router = Router::new().route("/", get(|| async { "Hello!" }));
/// let service = InMemory::new(&Config::default(), |_process| [Listener::http(0, router)])?;
///
/// let (mut ours, theirs) = tokio::io::duplex(64 * 1_024);
/// let connection = tokio::spawn(service.serve(0, [10, 0, 0, 1].into(), theirs));
/// ours.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await?;
/// service.drain().await; // the request was sent before, so it gets its response
/// let mut response = String::new();
/// ours.read_to_string(&mut response).await?;
/// assert!(response.ends_with("\r\n\r\nHello!"));
/// connection.await?;
/// assert_eq!(service.connections(), 0);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct InMemory {
    config: Config,
    process: Process,
    faces: Vec<ServedPort>,
    capacity: Arc<Capacity>,
    connections: Arc<Connections>,
    open: TaskTracker,
}

impl InMemory {
    /// Builds the faces of the service, without serving them. Certificates and ports are left out.
    ///
    /// # Errors
    ///
    /// If a face is invalid.
    pub fn new<L>(config: &Config, faces: impl FnOnce(&Process) -> L) -> Result<Self, InvalidFace>
    where
        L: IntoIterator<Item = Listener>,
    {
        let process = Process::new();
        let listeners = faces(&process).into_iter();
        let faces = listeners.map(|listener| listener.build(&process, config.deadline));
        let connections = Arc::new(Connections::new(config.max_connections.get()));
        let places = Permits::new(config.max_in_flight.get(), connections.clone());
        let long_lived = LongLived::new(process.token().clone(), config.drain_timeout);
        Ok(Self {
            faces: faces.collect::<Result<_, _>>()?,
            capacity: Arc::new(Capacity::new(Arc::new(places), 1, long_lived)),
            config: config.clone(),
            process,
            connections,
            open: TaskTracker::new(),
        })
    }

    /// Serves a connection of a client with this address to its end. `listener` counts those of the
    /// service from 0.
    ///
    /// # Panics
    ///
    /// If there is no such listener.
    pub fn serve<S>(
        &self,
        listener: usize,
        client: IpAddr,
        io: S,
    ) -> impl Future<Output = ()> + Send + use<S>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let face = self.faces[listener].clone();
        let (connections, capacity) = (self.connections.clone(), self.capacity.clone());
        let (deadline, lifetime) = (self.config.deadline, Limits::of(&self.config));
        self.open.track_future(async move {
            let connection = connections.admit(client).await;
            let open = connection.open.clone();
            serve_socket(face, capacity, open, io, deadline, &lifetime).await;
        })
    }

    /// Drains as [`Server::serve`](super::Server::serve) does, and returns when the last connection has
    /// ended, or `drain_timeout` has passed. Connections that are open then are left to the caller.
    pub async fn drain(&self) {
        announce_drain(&self.process, &self.connections, self.config.drain_delay).await;
        self.process.token().cancel();
        self.connections.for_each(|open| open.close(Close::Drain));
        self.open.close();
        let _ = timeout(self.config.drain_timeout, self.open.wait()).await;
    }

    /// The number of connections that are being served.
    pub fn connections(&self) -> usize {
        self.open.len()
    }

    /// The number of requests that hold a place of `max_in_flight`.
    pub fn in_flight(&self) -> usize {
        self.capacity.share.in_flight()
    }
}
