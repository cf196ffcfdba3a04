//! [`run`]: runs a worker, a thread with its own runtime, routers, channels and log buffer.

use std::{
    io,
    net::TcpStream,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    runtime,
    sync::mpsc::UnboundedReceiver,
    time::timeout,
};
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::{
    limits,
    request::dialect::Dialect,
    server::{
        capacity::{
            Capacity,
            cause::{self, Cause},
            connections::ConnectionPermit,
            long_lived::LongLived,
            open::Open,
            permits::Permits,
        },
        connection::{
            error,
            handshake::{Certificates, handshake},
            hyper,
            lifetime::{Lifetime, Limits},
            serve::ServeConnection,
            socket::Socket,
            streams::{HyperService, StreamExecutor},
        },
        service::{listener::ServedPort, process::Process},
        stack::inbound,
    },
    telemetry::logging,
};

/// A connection on its way from the accepting thread to a worker.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) stream: TcpStream,
    /// The index of the listener and of its face.
    pub(crate) listener: usize,
    /// Counts the open connections of this worker and listener.
    pub(crate) open: Arc<()>,
    pub(crate) connection: ConnectionPermit,
}

#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) workers: usize,
    pub(crate) deadline: Duration,
    pub(crate) drain_timeout: Duration,
    pub(crate) lifetime: Limits,
    /// The places of the process for requests in flight.
    pub(crate) places: Arc<Permits>,
    pub(crate) process: Process,
    /// The certificates of the gRPC ports and of the HTTP ports, if they speak TLS.
    pub(crate) mesh_certificates: Option<Certificates>,
    pub(crate) edge_certificates: Option<Certificates>,
}

impl Settings {
    fn certificates(&self, port: &dyn Dialect) -> Option<&Certificates> {
        if port.serves_mesh() {
            self.mesh_certificates.as_ref()
        } else {
            self.edge_certificates.as_ref()
        }
    }
}

/// Serves the connections from `accepted` until that channel closes. Then lets the requests in
/// flight complete within the drain timeout, and drops the rest.
///
/// `build` makes the faces in the runtime of the worker. Without faces, the worker ends at once.
pub(crate) fn run(
    settings: &Settings,
    build: impl FnOnce() -> Option<Vec<ServedPort>>,
    accepted: UnboundedReceiver<Accepted>,
) -> io::Result<()> {
    logging::buffer_this_thread();
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .on_thread_park(logging::flush)
        .build()?;
    runtime.block_on(async {
        if let Some(faces) = build() {
            serve(settings, &faces, accepted).await;
        }
    });
    // Does not wait for a name look-up, which may still block a thread.
    cause::with_cause(Cause::Stop, || runtime.shutdown_background());
    logging::flush();
    Ok(())
}

async fn serve(
    settings: &Settings,
    faces: &[ServedPort],
    mut accepted: UnboundedReceiver<Accepted>,
) {
    let connections = TaskTracker::new();
    let capacity = Capacity::new(
        settings.places.clone(),
        settings.workers,
        LongLived::new(settings.process.token().clone(), settings.drain_timeout),
    );
    let capacity = Arc::new(capacity);
    let counters = capacity.counters.clone();
    while let Some(accepted) = accepted.recv().await {
        let face = faces[accepted.listener].clone();
        counters.connections.fetch_add(1, Ordering::Relaxed);
        let connection = serve_connection(settings.clone(), face, capacity.clone(), accepted);
        let counters = counters.clone();
        connections.spawn(async move {
            connection.await;
            counters.connections.fetch_sub(1, Ordering::Relaxed);
        });
    }
    connections.close();
    if timeout(settings.drain_timeout, connections.wait())
        .await
        .is_err()
    {
        warn!(
            action = "drain",
            status = "failure",
            connections = connections.len(),
            requests = counters.in_flight.load(Ordering::Relaxed),
            "requests are still in flight after the drain timeout; they are dropped"
        );
    }
}

async fn serve_connection(
    settings: Settings,
    face: ServedPort,
    capacity: Arc<Capacity>,
    accepted: Accepted,
) {
    let Accepted {
        stream,
        connection,
        listener: _,
        open: _open,
    } = accepted;
    let open = connection.open.clone();
    let stream = match tokio::net::TcpStream::from_std(stream) {
        Ok(stream) => stream,
        Err(error) => {
            warn!(action = "accept", status = "failure", %error, "a connection is lost");
            return;
        }
    };
    let (deadline, lifetime) = (settings.deadline, &settings.lifetime);
    let Some(certificates) = settings.certificates(face.dialect) else {
        return serve_socket(face, capacity, open, stream, deadline, lifetime).await;
    };
    // Beside the rest, which is far larger than a connection that waits for its handshake.
    let stream = Box::pin(handshake(certificates, stream, &open)).await;
    if let Some(stream) = stream {
        Box::pin(serve_socket(
            face, capacity, open, stream, deadline, lifetime,
        ))
        .await;
    }
}

/// Serves a connection. A write fails once the peer has read nothing for the time of `deadline`.
pub(crate) async fn serve_socket<S>(
    face: ServedPort,
    capacity: Arc<Capacity>,
    open: Arc<Open>,
    socket: S,
    deadline: Duration,
    lifetime: &Limits,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let keep_alive = lifetime.keep_alive.clone();
    let lifetime = Lifetime::new(lifetime, face.dialect, &open);
    let streams = StreamExecutor::new(open.clone());
    let max_in_flight = capacity.share.max_in_flight();
    let builder = hyper::builder(face.dialect, max_in_flight, streams.clone());
    if face.dialect.serves_mesh() {
        open.held.note_keeps_places();
    }
    let service = inbound(face, open.clone(), capacity, keep_alive);
    let socket = Socket::new(socket, open.clone(), limits::HEADER_TIMEOUT, deadline);
    let served = builder
        .serve_connection(
            TokioIo::new(socket),
            HyperService::new(service, open.clone(), &streams),
        )
        .into_owned();
    if let Err(error) = ServeConnection::new(served, open.clone(), lifetime).await {
        if let Some((code, reason)) = error::sent_by_h2(&*error) {
            return error::note(&open, code, reason);
        }
        debug!(
            action = "connection",
            status = "failure",
            peer = %open.address,
            %error,
            "a connection broke"
        );
    }
}
