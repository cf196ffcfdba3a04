//! [`Server`]: the threads and sockets of a service, from its start to the end of its drain.

use std::{
    future::Future,
    net::{SocketAddr, TcpListener},
    pin::pin,
    sync::{Arc, mpsc},
    time::SystemTime,
};

use tokio::{
    sync::mpsc::{UnboundedSender, unbounded_channel},
    task::JoinSet,
    time::{sleep, timeout},
};
use tracing::{info, warn};

use super::{
    accept::{HandOut, accept},
    bind::bind,
    error::Error,
    lifetime::Limits,
    task::Task,
    threads::Threads,
    worker_thread::{self, Accepted, Settings},
};
use crate::{
    Config, limits,
    server::{
        capacity::{connections::Connections, open::Close, places::Places},
        faces::{
            listener::{Face, Listener, Port},
            process::Process,
            worker::Worker,
        },
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
/// let server = server::bind(&config, |_worker| {
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
    config: Config,
    process: Process,
    threads: Threads,
    tasks: Vec<Task>,
    connections: Arc<Connections>,
    inboxes: Vec<UnboundedSender<Accepted>>,
    sockets: Vec<TcpListener>,
    addresses: Vec<SocketAddr>,
}

/// What a service is made of: its faces, and the tasks of its process.
///
/// | what | made | for |
/// |---|---|---|
/// | what `faces` captures | once, before | all threads share it, so it is `Send` and `Sync`: settings, a pool of database connections, a [`Channel`](crate::client::Channel) |
/// | what `faces` makes | once on each worker | the worker alone: routers, a [`Client`](crate::client::Client) |
/// | a [task](Self::task) | once for the process | background work, on a thread of its own |
///
/// ```
/// use axum::{Router, routing::get};
/// use common::{Config, server::{Listener, Server}};
/// use std::sync::{Arc, atomic::{AtomicU32, Ordering::SeqCst}};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let swept = Arc::new(AtomicU32::new(0));
/// let faces = Server::builder(|_worker| {
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
}

type Faces = dyn Fn(&Worker) -> Vec<Listener> + Send + Sync;

impl Server {
    /// A service with these faces: see [`run`](crate::server::run).
    pub fn builder<L>(faces: impl Fn(&Worker) -> L + Send + Sync + 'static) -> Builder
    where
        L: IntoIterator<Item = Listener>,
    {
        Builder {
            faces: Arc::new(move |worker| faces(worker).into_iter().collect()),
            tasks: Vec::new(),
        }
    }

    /// The addresses that it listens on, in the order of its listeners.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Serves until `shutdown` completes, and then drains: it accepts for `drain_delay`, lets the
    /// requests in flight complete within `drain_timeout`, drops the rest, and returns.
    ///
    /// Dropping the future stops accepting at once; the threads drain on their own.
    ///
    /// # Errors
    ///
    /// If a worker or a task panics before the drain.
    pub async fn serve(mut self, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
        let draining = self.process.token().clone();
        let _drain_at_drop = draining.clone().drop_guard();
        for task in self.tasks {
            let (process, drain_timeout) = (self.process.clone(), self.config.drain_timeout);
            let (name, panicked) = (task.name.to_owned(), Error::Task(task.name));
            self.threads.spawn(
                name,
                panicked,
                move || Ok(task.run(process, drain_timeout)?),
            )?;
        }
        let mut accepting = JoinSet::new();
        for (index, socket) in self.sockets.into_iter().enumerate() {
            accepting.spawn(accept(
                index,
                tokio::net::TcpListener::from_std(socket)?,
                self.connections.clone(),
                HandOut::new(self.inboxes.clone()),
                draining.clone(),
            ));
        }
        drop(self.inboxes); // the workers end when accepting has ended

        let mut shutdown = pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => break,
                end = self.threads.next_end() => end?, // a task may end well
            }
        }
        info!(action = "drain", status = "success", "draining");
        self.process.readiness().drain();
        sleep(self.config.drain_delay).await;
        draining.cancel();
        // At the limit of connections, accepting may have to wait. The drain does not wait for it.
        let _ = timeout(limits::LAST_ACCEPTED, accepting.join_all()).await;
        self.connections.for_each(|open| open.close(Close::Drain));
        let bound = self
            .config
            .drain_timeout
            .saturating_add(limits::STUCK_WORKER);
        if timeout(bound, self.threads.wait()).await.is_ok() {
            info!(action = "stop", status = "success", "stopped");
        } else {
            warn!(
                action = "stop",
                status = "failure",
                "a thread is stuck; it is left behind"
            );
        }
        Ok(())
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

    /// Starts the workers, builds their faces, and binds the ports. Blocks until that is done.
    ///
    /// # Errors
    ///
    /// If a face is invalid, a port is taken, or a worker can't start.
    pub fn bind(self, config: &Config) -> Result<Server, Error> {
        if SystemTime::now() < SystemTime::UNIX_EPOCH {
            return Err(Error::Clock);
        }
        let process = Process::new();
        let connections = Arc::new(Connections::new(config.max_connections.get()));
        let settings = Settings {
            workers: config.workers.get(),
            deadline: config.deadline,
            drain_timeout: config.drain_timeout,
            lifetime: Limits {
                idle_timeout: config.idle_timeout,
                max_age: config.max_connection_age,
            },
            places: Arc::new(Places::new(config.max_in_flight.get(), connections.clone())),
            process: process.clone(),
        };
        let mut threads = Threads::new(process.clone());
        let (report, reports) = mpsc::channel();
        let mut inboxes = Vec::with_capacity(settings.workers);
        for number in 0..settings.workers {
            let (inbox, accepted) = unbounded_channel();
            inboxes.push(inbox);
            let (settings, faces, report) = (settings.clone(), self.faces.clone(), report.clone());
            threads.spawn(format!("worker-{number}"), Error::Worker, move || {
                // Only the receiver of another worker's error is gone by then.
                let report = move |ports| drop(report.send(ports));
                let build = || build_and_report(&*faces, &settings, report);
                Ok(worker_thread::run(&settings, build, accepted)?)
            })?;
        }
        drop(report);

        let built: Vec<_> = reports.iter().collect::<Result<_, _>>()?;
        if built.len() < settings.workers {
            return Err(Error::Worker); // one has panicked
        }
        if built.iter().any(|ports| *ports != built[0]) {
            return Err(Error::Differ);
        }
        let bound = built[0].iter().map(|port| bind(*port, config.host));
        let (sockets, addresses) = bound.collect::<Result<_, _>>()?;
        Ok(Server {
            config: config.clone(),
            process,
            threads,
            tasks: self.tasks,
            connections,
            inboxes,
            sockets,
            addresses,
        })
    }
}

/// Builds the faces of a worker, and reports their ports or the error.
fn build_and_report(
    faces: &Faces,
    settings: &Settings,
    report: impl FnOnce(Result<Vec<Port>, Error>),
) -> Option<Vec<Face>> {
    let listeners = faces(&Worker::new(settings.process.clone()));
    let ports = listeners.iter().map(Listener::port).collect();
    let face = |listener: Listener| listener.build(&settings.process, settings.deadline);
    match listeners.into_iter().map(face).collect() {
        Ok(faces) => {
            report(Ok(ports));
            Some(faces)
        }
        Err(error) => {
            report(Err(Error::Face(error)));
            None
        }
    }
}
