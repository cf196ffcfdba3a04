//! [`run`]: runs a service as the only thing that its process does.

use std::process::ExitCode;

use tokio::runtime::{self, Handle};
use tracing::{info, warn};

use super::{builder::Builder, error::Error, files::raise_file_limit, server::Server, signals};
use crate::{
    calls::CALLS,
    config::{about::about, settings::Config},
    server::service::{listener::Listener, process::Process},
    telemetry,
    tls::plain_calls,
};

/// The exit code for faces that can't be served, as for a bad flag.
const EXIT_INVALID: u8 = 2;

/// Runs a service until SIGTERM, SIGINT or SIGHUP, then drains it. This is all that a `main` does
/// once it has its configuration.
///
/// `faces` is called once on each worker, in the runtime of the worker. It returns the listeners
/// of the service, the same ports on each worker. It may open channels and spawn tasks.
/// [`Builder`] tells what is shared, and adds tasks that the process does once.
///
/// Around the [`Server`], `run` does these duties of the process:
///
/// - It installs the [log](crate::telemetry::logging::init) and its panic hook. `service` is the name in each
///   line.
/// - It [raises the limit of open files](raise_file_limit).
/// - It declines transparent huge pages, whatever the system's setting: with mimalloc, an idle service
///   would take twice the memory.
/// - It handles the three signals. A second one, half a second or more after the first, ends the
///   process at once. SIGINT or SIGHUP that is ignored when the process starts stays ignored.
/// - It bounds the calls to other services in flight: see [`Config::max_calls`](field@Config::max_calls).
/// - It writes what is left of the log, and one line on stderr if the service could not start or
///   did not end well.
///
/// `run` starts the runtimes: call it from a plain `fn main`, without `#[tokio::main]`. What needs a runtime,
/// such as a pool of connections, is made in `faces`, or is [shared](crate::server::Shared).
///
/// The exit code is 0 after a drain, 2 if a face is invalid, calls would be plain text although the
/// service has mutual TLS, a target says `http://` although calls are mutual TLS, or `run` is called in a runtime, and 1 if the service can't start for
/// another reason or ends before a drain.
///
/// ```no_run
/// use axum::{Router, routing::get};
/// use common::{Config, server::{self, Listener}};
///
/// fn main() -> std::process::ExitCode {
///     server::run("hello", &Config::default(), |_process| {
///         [Listener::http(8082, Router::new().route("/", get(|| async { "Hello!" })))]
///     })
/// }
/// ```
pub fn run<L>(
    service: &'static str,
    config: &Config,
    faces: impl Fn(&Process) -> L + Send + Sync + 'static,
) -> ExitCode
where
    L: IntoIterator<Item = Listener>,
{
    Server::builder(faces).run(service, config)
}

/// Starts the workers of a service and binds its ports: see [`Server`].
///
/// # Errors
///
/// If a face is invalid, a port is taken, or a worker can't start.
pub fn bind<L>(
    config: &Config,
    faces: impl Fn(&Process) -> L + Send + Sync + 'static,
) -> Result<Server, Error>
where
    L: IntoIterator<Item = Listener>,
{
    Server::builder(faces).bind(config)
}

impl Builder {
    /// Runs the service as the only thing that its process does: see
    /// [`run`](crate::server::run).
    pub fn run(self, service: &'static str, config: &Config) -> ExitCode {
        if Handle::try_current().is_ok() {
            return exit_code(service, &Error::InRuntime);
        }
        // Before more, as what is in memory already stays there. Fails only on kernels without them.
        let _ = rustix::thread::disable_transparent_huge_pages(true);
        let (version, log) = (&about().version, config.log.clone());
        telemetry::start(service, version, log, config.max_followed_traces);
        let links = about().links.join(", ");
        if !links.is_empty() {
            warn!(
                action = "start",
                status = "ignored",
                variables = links,
                "variables that Kubernetes sets for a Service are no settings; enableServiceLinks: false in \
                 the pod leaves them out"
            );
        }
        if let Err(error) = raise_file_limit() {
            warn!(action = "start", status = "failure", %error, "the limit of open files stays");
        }
        CALLS.set_limit(config.max_calls());
        let ended = self.serve_until_signal(config);
        telemetry::finish();
        ended.map_or_else(|error| exit_code(service, &error), |()| ExitCode::SUCCESS)
    }

    fn serve_until_signal(self, config: &Config) -> Result<(), Error> {
        let signal = signals::watch()?;
        let Some(server) = self.start(config, signal.clone())? else {
            info!(
                action = "stop",
                status = "success",
                "stopped before the start"
            );
            return Ok(());
        };
        // Here, as faces may make channels, too.
        if let (Some(_), Some(target)) = (&config.mesh_tls, plain_calls::channel_without_tls()) {
            return Err(Error::PlainCalls(target));
        }
        if let Some(target) = plain_calls::http_with_tls() {
            return Err(Error::HttpWithTls(target));
        }
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(server.serve(signal.cancelled_owned()))
    }
}

/// Says why the service ended.
fn exit_code(service: &str, error: &Error) -> ExitCode {
    eprintln!("{service}: {error}");
    if error.is_of_configuration() {
        ExitCode::from(EXIT_INVALID)
    } else {
        ExitCode::FAILURE
    }
}
