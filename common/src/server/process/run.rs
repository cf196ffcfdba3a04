//! [`run`]: runs the process, from its start to the end of its drain.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    sync::Arc,
    thread,
    time::{Duration, SystemTime},
};

use axum::{Router, body::Body};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    net::{TcpListener, TcpSocket},
    runtime,
    sync::mpsc::{self, UnboundedReceiver, UnboundedSender},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tower::util::MapRequestLayer;
use tracing::{info, warn};

use super::{
    accept::{HandOut, accept},
    lifetime::Limits,
    signals,
    worker_thread::{self, Accepted, Settings},
};
use crate::{
    Config, limits, logging,
    protocol::Protocol,
    server::{
        capacity::{connections::Connections, open::Close, places::Places},
        faces::{
            health, healthcheck,
            listener::{Face, Listener},
            readiness::Readiness,
            route,
            worker::Worker,
        },
    },
};

/// The reason why a service could not start, or ended without a drain.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("cannot listen on {address}: {source}; choose another host or port")]
    Listen {
        address: SocketAddr,
        source: io::Error,
    },
    #[error("cannot start: the clock is before 1970, and responses need a date; set the clock")]
    Clock,
    #[error("cannot start: {0}")]
    System(#[from] io::Error),
    #[error("a worker ended before the drain")]
    Worker,
}

/// Runs a service until SIGTERM, SIGINT or SIGHUP, then drains it. With the subcommand
/// `healthcheck`, it instead asks the first HTTP port of the running service whether the service is
/// ready.
///
/// Each worker calls `faces` once, which returns a router for each of the `listeners`, in their
/// order. `faces` may open channels and spawn tasks: it runs in the runtime of the worker.
///
/// The exit code is 0 after a drain. It is 1, with a line on stderr, if the service can't start or
/// a worker ends. A second signal ends the process at once.
pub fn run<const N: usize>(
    service: &'static str,
    config: &Config,
    listeners: [Listener; N],
    faces: impl Fn(&Worker) -> [Router; N] + Send + Sync + 'static,
) -> ExitCode {
    if let Some(crate::config::Action::Healthcheck) = config.action {
        let mut listeners = listeners.iter();
        let http = listeners.find(|listener| listener.protocol == Protocol::Http);
        return healthcheck::run(config.host, http.map(|listener| listener.port));
    }
    logging::init(service, config.log.clone());
    if let Err(error) = raise_file_limit() {
        warn!(action = "start", status = "failure", %error, "the limit of open files stays");
    }
    let ended = start_and_drain(config, listeners, &Arc::new(faces));
    logging::stdout::finish();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{service}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Raises the limit of open files, and so of connections, as far as the system allows. The usual
/// limit of 1,024 is for programs that use `select`.
///
/// # Errors
///
/// If the system refuses its own maximum.
pub fn raise_file_limit() -> io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    Ok(setrlimit(Resource::Nofile, raised)?)
}

fn start_and_drain<const N: usize, F>(
    config: &Config,
    listeners: [Listener; N],
    faces: &Arc<F>,
) -> Result<(), StartError>
where
    F: Fn(&Worker) -> [Router; N] + Send + Sync + 'static,
{
    if SystemTime::now() < SystemTime::UNIX_EPOCH {
        return Err(StartError::Clock);
    }
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut signal = signals::watch()?;
        let mut sockets = Vec::with_capacity(N);
        for listener in listeners {
            sockets.push(bind(listener, config.host)?);
        }

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
            readiness: Readiness::new(config.workers.get()),
        };
        let (ended, mut workers) = mpsc::unbounded_channel();
        let inboxes = (0..config.workers.get())
            .map(|number| {
                let faces = faces.clone();
                let deadline = config.deadline;
                let build = move |worker: Worker| {
                    let routers = faces(&worker);
                    add_health_routes(routers, listeners, worker, deadline)
                };
                spawn_worker(number, settings.clone(), build, ended.clone())
            })
            .collect::<io::Result<Vec<_>>>()?;

        // The inboxes of the workers close when accepting ends.
        let mut accepting = JoinSet::new();
        let draining = CancellationToken::new();
        for (index, socket) in sockets.into_iter().enumerate() {
            let hand_out = HandOut::new(inboxes.clone());
            accepting.spawn(accept(
                index,
                socket,
                connections.clone(),
                hand_out,
                draining.clone(),
            ));
        }
        drop(inboxes);

        tokio::select! {
            _ = &mut signal => {}
            _ = workers.recv() => return Err(StartError::Worker),
        }
        info!(action = "drain", status = "success", "draining");
        settings.readiness.drain();
        sleep(config.drain_delay).await;
        draining.cancel();
        // At the limit of connections, accepting may have to wait. The drain does not wait for it.
        let _ = timeout(limits::LAST_ACCEPTED, accepting.join_all()).await;
        connections.for_each(|open| open.close(Close::Drain));
        wait_for_end(&mut workers, config).await;
        Ok(())
    })
}

fn bind(listener: Listener, host: IpAddr) -> Result<TcpListener, StartError> {
    let address = SocketAddr::new(host, listener.port);
    let socket = listen(address).map_err(|source| StartError::Listen { address, source })?;
    info!(
        action = "listen",
        status = "success",
        protocol = match listener.protocol {
            Protocol::Http => "http",
            Protocol::Grpc => "grpc",
        },
        address = %socket.local_addr()?,
        "listening"
    );
    Ok(socket)
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // Connections that the predecessor of the service has left must not block the port.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(limits::BACKLOG)
}

/// Makes faces of these routers, and adds the routes that all services have.
fn add_health_routes<const N: usize>(
    routers: [Router; N],
    listeners: [Listener; N],
    worker: Worker,
    deadline: Duration,
) -> [Face; N] {
    let readiness = worker.readiness().clone();
    let methods = worker.into_methods();
    let mut listeners = listeners.into_iter();
    routers.map(|router| {
        let listener = listeners.next().expect("a listener for each router");
        let router = match listener.protocol {
            Protocol::Grpc => router,
            Protocol::Http => router
                .merge(health::routes(readiness.clone()))
                .route_layer(MapRequestLayer::new(route::note::<Body>))
                .with_state(()),
        };
        listener.face(router, deadline, &methods)
    })
}

/// Starts a worker that serves the connections sent to it.
fn spawn_worker<const N: usize>(
    number: usize,
    settings: Settings,
    build: impl FnOnce(Worker) -> [Face; N] + Send + 'static,
    ended: UnboundedSender<()>,
) -> io::Result<UnboundedSender<Accepted>> {
    let (inbox, accepted) = mpsc::unbounded_channel();
    thread::Builder::new()
        .name(format!("worker-{number}"))
        .spawn(move || {
            let run = AssertUnwindSafe(|| worker_thread::run(&settings, build, accepted));
            // The panic hook has already logged a panic.
            if let Ok(Err(error)) = catch_unwind(run) {
                warn!(action = "worker", status = "failure", %error, "a worker can't run");
            }
            let _ = ended.send(());
        })?;
    Ok(inbox)
}

/// Waits for the workers to end, except for a stuck one.
async fn wait_for_end(workers: &mut UnboundedReceiver<()>, config: &Config) {
    let ended = async {
        for _ in 0..config.workers.get() {
            workers.recv().await;
        }
    };
    let bound = config.drain_timeout.saturating_add(limits::STUCK_WORKER);
    if timeout(bound, ended).await.is_ok() {
        info!(action = "stop", status = "success", "stopped");
    } else {
        warn!(
            action = "stop",
            status = "failure",
            "a worker is stuck; it is left behind"
        );
    }
}
