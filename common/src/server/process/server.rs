//! [`Server`]: serves until it is told to stop, and drains.

use std::{
    future::Future,
    net::{SocketAddr, TcpListener},
    pin::pin,
};

use tokio::{sync::mpsc::UnboundedSender, task::JoinSet, time::timeout};
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use super::{
    accept::{Dispatcher, accept},
    admin::Admin,
    error::Error,
    renewal::drain_outdated,
    task::Task,
    threads::{LogLines, Threads},
};
use crate::{
    limits,
    server::{
        service::vitals::EventLoop,
        worker::{Accepted, WorkerSettings},
    },
};

/// A service whose ports are bound, and which does not accept connections yet.
///
/// It is for tests, and for programs that are more than a service. It reads no flags, takes no
/// signals, installs no subscriber and no panic hook, and never ends the process:
/// [`run`](crate::server::run) does all that around it.
///
/// ```
/// use axum::{Router, routing::get};
/// use common::{Config, server::{self, Listener}};
/// use tokio::sync::oneshot;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let config = Config { workers: 1.try_into()?, ..Config::default() };
/// let server = server::bind(&config, |_process| {
///     [Listener::http(0, Router::new().route("/", get(|| async { "Hello!" })))]
/// })?;
/// let port = server.addresses()[0].port();
/// assert_ne!(port, 0);
///
/// let (stop, stopped) = oneshot::channel::<()>();
/// let serving = tokio::spawn(server.serve(async { drop(stopped.await) }));
/// // Requests to the port go here.
/// stop.send(()).expect("it serves");
/// serving.await??;
/// # Ok(())
/// # }
/// ```
pub struct Server {
    pub(crate) settings: WorkerSettings,
    pub(crate) admin: Option<Admin>,
    pub(crate) threads: Threads,
    pub(crate) tasks: Vec<Task>,
    pub(crate) inboxes: Vec<UnboundedSender<Accepted>>,
    pub(crate) sockets: Vec<TcpListener>,
    pub(crate) addresses: Vec<SocketAddr>,
}

impl Server {
    /// The bound addresses, in the order of the listeners.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The address of the port for operators, if there is one.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.as_ref().map(|admin| admin.address)
    }

    /// Serves until `shutdown` completes, and then drains: it accepts for `drain_delay` and tells
    /// clients to go elsewhere, lets the requests in flight complete within `drain_timeout`, drops
    /// the rest, and returns.
    ///
    /// Dropping the future stops accepting at once; the threads drain on their own.
    ///
    /// # Errors
    ///
    /// If a worker or a task panics before the drain.
    pub async fn serve(mut self, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
        let WorkerSettings {
            process,
            drain_timeout,
            ..
        } = &self.settings;
        let draining = process.token().clone();
        for task in self.tasks {
            let (process, drain_timeout) = (process.clone(), *drain_timeout);
            let (name, panicked) = (task.name.to_owned(), Error::Task(task.name));
            let work = async move || {
                task.run(process, drain_timeout).await;
                Ok(())
            };
            let lines = LogLines::Unbuffered;
            self.threads.spawn(name, panicked, lines, work)?;
        }
        process.readiness().fulfil(); // which `bind` has required
        let vitals = process.readiness().vitals();
        let _watched = vitals.watch(EventLoop::Accepting);
        let mut accepting = JoinSet::new();
        for (index, socket) in self.sockets.into_iter().enumerate() {
            let open = vitals.open_port(socket.local_addr()?.port(), draining.clone());
            let accepted = accept(
                index,
                tokio::net::TcpListener::from_std(socket)?,
                self.settings.connections.clone(),
                Dispatcher::new(self.inboxes.clone()),
                draining.clone(),
            );
            accepting.spawn(async move {
                accepted.await;
                drop(open);
            });
        }
        let _renewing = self.settings.mesh_certificates.clone().map(|mesh| {
            let renewing = drain_outdated(mesh.tls, self.settings.connections.clone());
            AbortOnDropHandle::new(tokio::spawn(renewing))
        });
        drop(self.inboxes); // the workers end when accepting has ended

        let mut shutdown = pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => break,
                end = self.threads.next_end() => end?, // a task may end well
            }
        }
        self.settings.announce_drain().await;
        process.begin_drain();
        // At the limit of connections, accepting may have to wait. The drain does not wait for it.
        let _ = timeout(limits::LAST_ACCEPTED, accepting.join_all()).await;
        self.settings.drain();
        let bound = drain_timeout.saturating_add(limits::STUCK_WORKER);
        if timeout(bound, self.threads.wait()).await.is_ok() {
            info!(action = "stop", status = "success", "stopped");
        } else {
            warn!(
                action = "stop",
                status = "failure",
                "a thread is stuck; it is left behind"
            );
        }
        if let Some(admin) = self.admin {
            admin.close().await;
        }
        Ok(())
    }
}
