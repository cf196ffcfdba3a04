//! [`Builder`]: starts the threads of a service, and binds its ports.

use std::{
    future::Future,
    sync::{Arc, mpsc},
    time::SystemTime,
};

use tokio::sync::mpsc::unbounded_channel;
use tokio_util::sync::CancellationToken;

use super::{
    admin::Admin,
    bind::bind,
    error::Error,
    files::max_connections,
    server::Server,
    shared,
    task::Task,
    threads::{LogLines, Threads},
};
use crate::{
    config::settings::Config,
    ports,
    server::{
        service::{
            listener::{Listener, ListenerPort},
            process::Process,
            shared::{Shared, SharedValue},
            vitals::EventLoop,
        },
        worker::{self, Worker, WorkerSettings},
    },
    telemetry::metrics,
};

/// What a service is made of: its faces, and the tasks of its process.
///
/// | what | made | for |
/// |---|---|---|
/// | what `faces` captures | once, before | all threads share it, so it is `Send` and `Sync`: settings, a [`Channel`](crate::client::Channel) |
/// | what `faces` makes | once on each worker | the worker alone: routers, a [`Client`](crate::client::Client), a pool of database connections of a [share of the total](Process::pool_size) |
/// | a [task](Self::task) | once for the process | background work, on a thread of its own |
/// | what is [shared](Self::shared) | once, before `faces` | all threads share it, and its connections are on a thread of its own: what the process may have only once |
///
/// Each worker and task has a runtime of its own, and a connection belongs to the runtime that opened it. All
/// runtimes work until the last worker has drained and the last task has ended.
///
/// ```
/// use axum::{Router, routing::get};
/// use common::{Config, server::{Listener, Server}};
/// use std::sync::{Arc, atomic::{AtomicU32, Ordering::SeqCst}};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let swept = Arc::new(AtomicU32::new(0));
/// let faces = Server::builder(|_process| {
///     [Listener::http(0, Router::new().route("/", get(|| async { "Hello!" })))]
/// });
/// let counter = swept.clone();
/// let server = faces.task("sweeper", |process| async move {
///     process.draining().await;
///     counter.fetch_add(1, SeqCst); // a last time
/// });
/// server.bind(&Config::default())?.serve(std::future::ready(())).await?;
/// assert_eq!(swept.load(SeqCst), 1);
/// # Ok(())
/// # }
/// ```
pub struct Builder {
    faces: Arc<Faces>,
    tasks: Vec<Task>,
    shared: Vec<Arc<dyn SharedValue>>,
}

type Faces = dyn Fn(&Process) -> Vec<Listener> + Send + Sync;

impl Server {
    /// A service with these faces: see [`run`](crate::server::run).
    pub fn builder<L>(faces: impl Fn(&Process) -> L + Send + Sync + 'static) -> Builder
    where
        L: IntoIterator<Item = Listener>,
    {
        Builder {
            faces: Arc::new(move |process| faces(process).into_iter().collect()),
            tasks: Vec::new(),
            shared: Vec::new(),
        }
    }
}

impl Builder {
    /// Adds a task: work that the process does once, beside its requests, such as removing what
    /// has expired. It begins with [`Server::serve`], on a thread with its own runtime, so it may
    /// compute or block for long. `name` is for the log.
    ///
    /// A task may end when it likes. When the process drains, [`Process::draining`] completes, and
    /// the task has `drain_timeout` to end. A panic ends the service.
    #[must_use]
    pub fn task<F>(
        mut self,
        name: &'static str,
        work: impl FnOnce(Process) -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + 'static,
    {
        self.tasks.push(Task::new(name, work));
        self
    }

    /// Adds a value that all threads share: see [`Shared`]. [`bind`](Self::bind) makes it, before it calls
    /// `faces` and after those that were added before, so `faces` and tasks may capture a clone of `shared`.
    #[must_use]
    pub fn shared<T>(mut self, shared: &Shared<T>) -> Self
    where
        T: Clone + Send + Sync + 'static,
    {
        self.shared.push(shared.recipe());
        self
    }

    /// Makes what is [shared](Self::shared), starts the workers, builds their faces, and binds the ports.
    /// Blocks until that is done.
    ///
    /// # Errors
    ///
    /// If a face is invalid, a port is taken, or a worker can't start.
    pub fn bind(self, config: &Config) -> Result<Server, Error> {
        let server = self.start(config, CancellationToken::new())?;
        Ok(server.expect("nobody stops it"))
    }

    /// The same, until `stop`: then it returns none. Making what is shared may take for ever.
    pub(crate) fn start(
        self,
        config: &Config,
        stop: CancellationToken,
    ) -> Result<Option<Server>, Error> {
        if SystemTime::now() < SystemTime::UNIX_EPOCH {
            return Err(Error::Clock);
        }
        let max_connections = max_connections(config);
        metrics::set_limits(config.max_in_flight.get(), max_connections);
        let settings = WorkerSettings::new(config, max_connections);
        let process = &settings.process;
        process.readiness().require(); // until it serves
        let admin = config
            .admin_port
            .map(|port| Admin::open(port, &settings, config))
            .transpose()?;
        let mut threads = Threads::new(settings.process.clone(), settings.drain_timeout);
        if !shared::make(self.shared, process, &mut threads, stop)? {
            return Ok(None);
        }
        let (report, reports) = mpsc::channel();
        let mut inboxes = Vec::with_capacity(settings.workers);
        for number in 0..settings.workers {
            let (inbox, accepted) = unbounded_channel();
            inboxes.push(inbox);
            let (settings, faces, report) = (settings.clone(), self.faces.clone(), report.clone());
            let work = async move || {
                // Fails only if `bind` has already returned another worker's error.
                let report = move |ports| drop(report.send(ports));
                let vitals = settings.process.readiness().vitals().clone();
                if let Some(worker) = build_and_report(&*faces, number, settings, report) {
                    let _watched = vitals.watch(EventLoop::Worker);
                    worker::run(worker, accepted).await;
                }
                Ok(())
            };
            let name = format!("worker-{number}");
            threads.spawn(name, Error::Worker, LogLines::Buffered, work)?;
        }
        drop(report);

        let built: Vec<_> = reports.iter().collect::<Result<_, _>>()?;
        if built.len() < settings.workers {
            return Err(Error::Worker); // one has panicked
        }
        if built.iter().any(|ports| *ports != built[0]) {
            return Err(Error::Differ);
        }
        let bound = built[0]
            .iter()
            .map(|port| bind(config.host, port.number, port.dialect.name()));
        let (sockets, addresses): (_, Vec<_>) = bound.collect::<Result<_, _>>()?;
        let first = |serves_mesh, speaks_tls| {
            let mut ports = built[0].iter().zip(&addresses);
            let (_, address) = ports.find(|(port, _)| port.dialect.serves_mesh() == serves_mesh)?;
            Some(ports::Port {
                number: address.port(),
                speaks_tls,
            })
        };
        settings.process.ports().note_bound(ports::Bound {
            http: first(false, config.edge_tls.is_some()),
            grpc: first(true, config.mesh_tls.is_some()),
            admin: admin.as_ref().map(|admin| admin.address),
        });
        Ok(Some(Server {
            admin,
            settings,
            threads,
            tasks: self.tasks,
            inboxes,
            sockets,
            addresses,
        }))
    }
}

/// Builds a worker, and reports its ports or the error.
fn build_and_report(
    faces: &Faces,
    number: usize,
    settings: WorkerSettings,
    report: impl FnOnce(Result<Vec<ListenerPort>, Error>),
) -> Option<Worker> {
    let process = settings.process.of_worker(number, settings.workers);
    let listeners = faces(&process);
    let ports = listeners.iter().map(Listener::port).collect();
    match settings.build(listeners) {
        Ok(served) => {
            report(Ok(ports));
            Some(Worker::new(settings, served))
        }
        Err(error) => {
            report(Err(Error::Face(error)));
            None
        }
    }
}
