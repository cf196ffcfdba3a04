//! One worker: a thread with a runtime, routers, channels and a log buffer of its own.

use std::{
    cell::{Cell, RefCell},
    future::Future,
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

use super::{
    connection,
    connections::{Connection, Open},
    drive::Drive,
    face::Face,
    inbound,
    lifetime::{HEADER_TIMEOUT, Limits},
    places::{Places, Share},
    readiness::Readiness,
    shed::Capacity,
    socket::Socket,
    streams::Stack,
};
use crate::{logging, methods::Methods, metrics};

/// A worker, as those see it who build its routers.
#[derive(Debug)]
pub struct Worker {
    readiness: Readiness,
    /// What its gRPC services declare.
    methods: RefCell<Methods>,
}

impl Worker {
    /// Holds the process back from being ready until `condition` is there, on this worker too.
    ///
    /// Call it while the routers are being built.
    pub fn ready_when(&self, condition: impl Future<Output = ()> + Send + 'static) {
        self.readiness.require();
        let readiness = self.readiness.clone();
        tokio::spawn(async move {
            condition.await;
            readiness.fulfil();
        });
    }

    pub(super) fn readiness(&self) -> &Readiness {
        &self.readiness
    }

    pub(super) fn declare(&self, methods: Methods) {
        self.methods.borrow_mut().extend(methods);
    }

    pub(super) fn into_methods(self) -> Methods {
        self.methods.into_inner()
    }
}

/// A connection on its way from the accepting thread to a worker.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) stream: TcpStream,
    /// Which of the listeners took it, and so which of the routers serves it.
    pub(super) listener: usize,
    /// Counts the open connections of this worker and listener.
    pub(super) open: Arc<()>,
    pub(super) connection: Connection,
}

/// What a worker is told.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    /// How many workers there are.
    pub(super) workers: usize,
    pub(super) deadline: Duration,
    pub(super) drain_timeout: Duration,
    pub(super) lifetime: Limits,
    /// The places of the process for requests in flight.
    pub(super) places: Arc<Places>,
    pub(super) readiness: Readiness,
}

thread_local! {
    static STOPPING: Cell<bool> = const { Cell::new(false) };
}

/// Whether this worker is past its drain and drops what is left.
pub(super) fn is_stopping() -> bool {
    STOPPING.get()
}

/// Serves the connections that come over `accepted` until that is closed, lets the requests in
/// flight finish within the drain timeout, and drops the rest.
pub(super) fn run<const N: usize>(
    settings: &Settings,
    build: impl FnOnce(Worker) -> [Face; N],
    accepted: UnboundedReceiver<Accepted>,
) -> io::Result<()> {
    logging::buffer_this_thread();
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .on_thread_park(logging::flush)
        .build()?;
    runtime.block_on(async {
        let worker = Worker {
            readiness: settings.readiness.clone(),
            methods: RefCell::default(),
        };
        let faces = build(worker);
        settings.readiness.fulfil();
        serve(settings, faces, accepted).await;
    });
    STOPPING.set(true);
    // A look-up of a name may still run on a thread of its own; nobody waits for it.
    runtime.shutdown_background();
    logging::flush();
    Ok(())
}

async fn serve<const N: usize>(
    settings: &Settings,
    faces: [Face; N],
    mut accepted: UnboundedReceiver<Accepted>,
) {
    let connections = TaskTracker::new();
    let share = Share::new(settings.places.clone(), settings.workers);
    let capacity = Capacity::new(share, settings.drain_timeout);
    let counters = metrics::of_this_thread();
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
    capacity.drain();
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

async fn serve_connection(settings: Settings, face: Face, capacity: Capacity, accepted: Accepted) {
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
    serve_socket(
        face,
        capacity,
        open,
        stream,
        settings.deadline,
        settings.lifetime,
    )
    .await;
}

/// Serves what comes over a socket, whose peer may take nothing for as long as the deadline.
pub(super) async fn serve_socket<S>(
    face: Face,
    capacity: Capacity,
    open: Arc<Open>,
    socket: S,
    deadline: Duration,
    lifetime: Limits,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let builder = connection::builder(face.protocol, capacity.max_in_flight());
    let deadlines = face.deadlines.clone();
    let share = capacity.share();
    let service = inbound(face, open.clone(), capacity);
    let socket = Socket::new(socket, open.clone(), HEADER_TIMEOUT, deadline);
    let served = builder
        .serve_connection(
            TokioIo::new(socket),
            Stack::new(service, deadlines, open.clone()),
        )
        .into_owned();
    if let Err(error) = Drive::new(served, open.clone(), share, lifetime).await {
        debug!(
            action = "connection",
            status = "failure",
            peer = %open.address,
            %error,
            "a connection broke"
        );
    }
}
