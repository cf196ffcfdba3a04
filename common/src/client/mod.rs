//! The client: the stack that every outbound call passes, over a channel that is opened once
//! and reused.
//!
//! [`connect`] gives a [`Client`] to build generated gRPC clients on. Make one for each worker
//! and clone it for each call. Its stack, top to bottom, is the type [`Client`] itself:
//!
//! 1. [`TimingService`]: the call is in the `Server-Timing` of its request; on top, to measure
//!    what the handler waits for.
//! 2. [`DeadlineService`]: with nothing left no call is made, and no call outlives its deadline;
//!    above all the rest, as all attempts must fit in.
//! 3. [`RetryService`]: what failed and is safe to try again, is; above the choice of a replica,
//!    so that each attempt goes to the one that is best then. It makes each attempt so:
//!    - `balance`: of the replicas that are up, two are picked at random and the one that would
//!      cost less is taken. While there is none, the call waits for one, or fails fast.
//!    - `connection`: `request_id` and `grpc-timeout` go out, next to the wire, so that the timeout
//!      says what is left when the call leaves; whatever breaks the connection is `UNAVAILABLE`.
//!
//! Beside the calls, `replicas` looks the name up every few seconds, and a task for each `replica`
//! keeps a connection to it open, one for each worker.

mod backoff;
mod balance;
mod config;
mod connection;
mod context;
mod deadline;
mod failure;
mod load;
mod replica;
mod replicas;
mod retry;
mod target;
mod timing;

use std::time::Duration;

use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::sleep,
};
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

pub(crate) use self::connection::{KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT};
use self::{balance::Balance, connection::Connection};
pub use self::{
    config::Config,
    deadline::DeadlineService,
    retry::RetryService,
    target::{InvalidTarget, Target},
    timing::TimingService,
};
use crate::{Context, Deadline, RequestId};

/// How long one question of [`answered`] may take, and the pause before the next.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
const PROBE_PAUSE: Duration = Duration::from_millis(100);

/// The outbound stack.
pub type Client = TimingService<DeadlineService<RetryService>>;

/// A client for the service at `target`, whose replicas are looked up and connected from now on
/// and for as long as the runtime is there.
///
/// `idempotent` has the paths of the methods that can be called again when an attempt fails,
/// such as `/app.grpc.Service1/ProcessName`. `deadline` bounds a call that is made outside of
/// any request; one that is part of a request has that request's deadline. No call can forget
/// to have one.
///
/// # Panics
///
/// When it is called outside of a tokio runtime.
pub fn connect(
    target: &Target,
    idempotent: &'static [&'static str],
    config: &Config,
    deadline: Duration,
) -> Client {
    let balance = Balance::new(config.failfast);
    tokio::spawn(replicas::keep(target.clone(), balance.clone()));
    stack(balance, idempotent, config, deadline)
}

/// The same for what is at the other end of a connection that is there, such as a
/// [`tokio::io::duplex`]: for tests. When it breaks, it is not opened again.
///
/// # Panics
///
/// When it is called outside of a tokio runtime.
pub fn over(
    io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    idempotent: &'static [&'static str],
    config: &Config,
    deadline: Duration,
) -> Client {
    let balance = Balance::new(config.failfast);
    tokio::spawn(replica::keep_over(io, balance.clone()));
    stack(balance, idempotent, config, deadline)
}

fn stack(
    balance: Balance<Connection>,
    idempotent: &'static [&'static str],
    config: &Config,
    deadline: Duration,
) -> Client {
    TimingService::new(DeadlineService::new(
        RetryService::new(balance, idempotent, config.attempt_timeout),
        deadline,
    ))
}

/// Waits until the service behind a client has answered a call, of whatever kind the answer is,
/// but for one that says that it is not serving.
///
/// It asks `grpc.health.v1`; a service that does not know that has answered, too.
pub async fn answered(client: Client) {
    let mut health = HealthClient::new(client);
    loop {
        let probe = Context::new(RequestId::fresh(), Deadline::after(PROBE_TIMEOUT));
        let answer = probe
            .scope(health.check(HealthCheckRequest::default()))
            .await;
        match answer.map(|answer| answer.into_inner().status()) {
            Ok(tonic_health::pb::health_check_response::ServingStatus::NotServing) => {}
            Err(status) if matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded) => {}
            Ok(_) | Err(_) => return,
        }
        sleep(PROBE_PAUSE).await;
    }
}
