//! One worker: a thread with a runtime, routers, channels and a log buffer of its own.

use std::{
    cell::{Cell, RefCell},
    future::Future,
    io,
    net::{SocketAddr, TcpStream},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use hyper_util::{rt::TokioIo, server::graceful::GracefulShutdown};
use tokio::{
    runtime,
    sync::{OwnedSemaphorePermit, mpsc::UnboundedReceiver},
    time::timeout,
};
use tracing::{debug, warn};

use super::{
    connection::{self, HEADER_READ_TIMEOUT, Stack},
    face::Face,
    inbound,
    readiness::Readiness,
    shed::Capacity,
    socket::Socket,
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
    pub(super) peer: SocketAddr,
    /// Which of the listeners took it, and so which of the routers serves it.
    pub(super) listener: usize,
    /// Counts the open connections of this worker and listener.
    pub(super) open: Arc<()>,
    /// Its place among the connections that the process may have.
    pub(super) place: OwnedSemaphorePermit,
}

/// What a worker is told.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) deadline: Duration,
    pub(super) drain_timeout: Duration,
    /// The requests that a worker may have in flight.
    pub(super) max_in_flight: usize,
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
    let builder = connection::builder();
    let graceful = GracefulShutdown::new();
    let capacity = Capacity::new(settings.max_in_flight, settings.drain_timeout);
    let counters = metrics::of_this_thread();
    while let Some(Accepted {
        stream,
        peer,
        listener,
        open,
        place,
    }) = accepted.recv().await
    {
        let stream = match tokio::net::TcpStream::from_std(stream) {
            Ok(stream) => stream,
            Err(error) => {
                warn!(action = "accept", status = "failure", %error, "a connection is lost");
                continue;
            }
        };
        let face = faces[listener].clone();
        let deadlines = face.deadlines.clone();
        let service = inbound(face, peer, capacity.clone());
        let connection = builder.serve_connection(
            TokioIo::new(Socket::new(stream, HEADER_READ_TIMEOUT, settings.deadline)),
            Stack::new(service, deadlines),
        );
        let connection = graceful.watch(connection.into_owned());
        counters.connections.fetch_add(1, Ordering::Relaxed);
        let counters = counters.clone();
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                debug!(action = "connection", status = "failure", %peer, %error, "a connection broke");
            }
            drop((open, place));
            counters.connections.fetch_sub(1, Ordering::Relaxed);
        });
    }
    capacity.drain();
    let left = graceful.count();
    if timeout(settings.drain_timeout, graceful.shutdown())
        .await
        .is_err()
    {
        warn!(
            action = "drain",
            status = "failure",
            connections = left,
            "requests are still in flight after the drain timeout; they are dropped"
        );
    }
}
