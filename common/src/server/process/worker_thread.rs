//! [`run`]: runs a worker, a thread with its own runtime, routers, channels and log buffer.

use std::{
    io,
    net::TcpStream,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use tokio::{runtime, sync::mpsc::UnboundedReceiver, time::timeout};
use tokio_util::task::TaskTracker;
use tracing::warn;

use crate::{
    server::{capacity::connections::ConnectionPermit, worker::Worker},
    telemetry::logging,
};

/// A connection on its way from the accepting thread to a worker.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) stream: TcpStream,
    /// The index of the listener and of its port.
    pub(crate) listener: usize,
    /// Counts, by its clones, the open connections of this worker and listener.
    pub(crate) counter: Arc<()>,
    pub(crate) permit: ConnectionPermit,
}

/// Serves the connections from `accepted` until that channel closes. Then lets the requests in
/// flight complete within the drain timeout, and drops the rest.
///
/// `build` makes the worker in its runtime. Without one, the thread ends at once.
pub(crate) fn run(
    build: impl FnOnce() -> Option<Worker>,
    accepted: UnboundedReceiver<Accepted>,
) -> io::Result<()> {
    logging::buffer_this_thread();
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .on_thread_park(logging::flush)
        .build()?;
    runtime.block_on(async {
        if let Some(worker) = build() {
            serve(Arc::new(worker), accepted).await;
        }
    });
    // Does not wait for a name look-up, which may still block a thread.
    runtime.shutdown_background();
    logging::flush();
    Ok(())
}

async fn serve(worker: Arc<Worker>, mut accepted: UnboundedReceiver<Accepted>) {
    let connections = TaskTracker::new();
    let counters = worker.capacity.counters.clone();
    while let Some(accepted) = accepted.recv().await {
        counters.connections.fetch_add(1, Relaxed);
        let (worker, counters) = (worker.clone(), counters.clone());
        connections.spawn(async move {
            serve_connection(&worker, accepted).await;
            counters.connections.fetch_sub(1, Relaxed);
        });
    }
    connections.close();
    if timeout(worker.settings.drain_timeout, connections.wait())
        .await
        .is_err()
    {
        warn!(
            action = "drain",
            status = "failure",
            connections = connections.len(),
            requests = counters.in_flight.load(Relaxed),
            "requests are still in flight after the drain timeout; they are dropped"
        );
    }
    worker.capacity.note_stop();
}

async fn serve_connection(worker: &Worker, accepted: Accepted) {
    let Accepted {
        stream,
        listener,
        counter: _counter,
        permit,
    } = accepted;
    match tokio::net::TcpStream::from_std(stream) {
        Ok(stream) => {
            worker
                .serve_tcp(listener, permit.handle.clone(), stream)
                .await;
        }
        Err(error) => warn!(action = "accept", status = "failure", %error, "a connection is lost"),
    }
}
