//! The replicas behind a name: looked up again and again, each kept connected by a task of its
//! own, so that no call waits for a connection and none goes to a replica that is down.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use http::uri::Authority;
use tokio::{
    net::lookup_host,
    select,
    sync::Notify,
    task::AbortHandle,
    time::{sleep, timeout},
};
use tonic::{Code, Status};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tower::service_fn;
use tracing::{info, warn};

use super::{
    Target,
    backoff::Backoff,
    balance::{Balance, Cost},
    connection::Connection,
};
use crate::{Context, Deadline, RequestId, metrics::CountedReplica};

/// When a name is looked up again: this long after the pause, or as soon as a connection breaks.
const LOOKUP_INTERVAL: Duration = Duration::from_millis(4_500);

/// The pause between two look-ups, however many connections break.
const LOOKUP_PAUSE: Duration = Duration::from_millis(500);

/// How long the first question on a connection may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// Between attempts to reach a replica that is down. gRPC's own figures are 1 s × 1.6 up to
/// 120 s, made for clients all over a network; these are neighbours, and a restart takes a
/// second.
const RECONNECT: Backoff = Backoff {
    base: Duration::from_millis(100),
    factor: 1.6,
    limit: Duration::from_secs(10),
    jitter: 0.2,
};

/// The longest pause while calls wait for a replica.
const RECONNECT_WHILE_WANTED: Duration = Duration::from_millis(500);

impl Cost for Connection {
    fn cost(&self) -> f64 {
        self.cost()
    }
}

/// Keeps `balance` in step with the replicas of `target`, for as long as it is polled.
pub(super) async fn keep(target: Target, balance: Balance<Connection>) {
    let mut names: Vec<_> = target.authorities().iter().map(Name::new).collect();
    let mut replicas = HashMap::<SocketAddr, AbortOnDrop>::new();
    let broken = Arc::new(Notify::new());
    loop {
        for name in &mut names {
            name.look_up().await;
        }
        let found: HashMap<SocketAddr, Authority> = names.iter().flat_map(Name::found).collect();
        replicas.retain(|address, _| found.contains_key(address));
        for (address, authority) in found {
            replicas.entry(address).or_insert_with(|| {
                let replica = keep_connected(address, authority, balance.clone(), broken.clone());
                AbortOnDrop(tokio::spawn(replica).abort_handle())
            });
        }
        sleep(LOOKUP_PAUSE).await;
        select! {
            () = sleep(LOOKUP_INTERVAL) => {}
            () = broken.notified() => {}
        }
    }
}

/// A name, and what it stood for when it was last looked up with success.
struct Name<'a> {
    authority: &'a Authority,
    addresses: Vec<SocketAddr>,
    failed: bool,
}

impl<'a> Name<'a> {
    fn new(authority: &'a Authority) -> Self {
        Self {
            authority,
            addresses: Vec::new(),
            failed: false,
        }
    }

    /// Looks it up; a failure leaves all as it was.
    async fn look_up(&mut self) {
        match self.addresses().await {
            Ok(addresses) => {
                self.addresses = addresses;
                self.failed = false;
            }
            Err(error) if !self.failed => {
                self.failed = true;
                warn!(
                    action = "look_up",
                    status = "failure",
                    target = %self.authority,
                    %error,
                    "the name can't be looked up; what is known of it is kept"
                );
            }
            Err(_) => {}
        }
    }

    /// One family: the two addresses of a name such as `localhost` are one replica.
    async fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        let all: Vec<_> = lookup_host(self.authority.as_str()).await?.collect();
        let (v4, v6): (Vec<_>, Vec<_>) = all.into_iter().partition(SocketAddr::is_ipv4);
        let addresses = if v4.is_empty() { v6 } else { v4 };
        if addresses.is_empty() {
            return Err(io::Error::other("the name has no address"));
        }
        Ok(addresses)
    }

    fn found(&self) -> impl Iterator<Item = (SocketAddr, Authority)> {
        let addresses = self.addresses.iter();
        addresses.map(|address| (*address, self.authority.clone()))
    }
}

/// A task that ends when it is not wanted any more.
struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A connection that can be asked; it can't any more when this is dropped.
struct Up<'a> {
    connection: Arc<Connection>,
    balance: &'a Balance<Connection>,
}

impl<'a> Up<'a> {
    fn new(connection: Connection, balance: &'a Balance<Connection>) -> Self {
        let connection = Arc::new(connection);
        balance.add(connection.clone());
        Self {
            connection,
            balance,
        }
    }
}

impl Drop for Up<'_> {
    fn drop(&mut self) {
        self.balance.remove(&self.connection);
    }
}

/// Connects to a replica, again whenever it is lost.
async fn keep_connected(
    address: SocketAddr,
    authority: Authority,
    balance: Balance<Connection>,
    broken: Arc<Notify>,
) {
    let counted = CountedReplica::new(address);
    let mut failures = 0;
    loop {
        match Connection::open(address, authority.clone(), &counted.replica, probe).await {
            Ok(connection) => {
                failures = 0;
                info!(action = "replica", status = "up", replica = %address, "a replica is up");
                let up = Up::new(connection, &balance);
                counted.replica.is_up.store(true, Ordering::Relaxed);
                up.connection.lost().await;
                counted.replica.is_up.store(false, Ordering::Relaxed);
                drop(up);
                warn!(action = "replica", status = "down", replica = %address, "a replica is lost");
                broken.notify_one();
            }
            Err(error) if failures == 0 => {
                warn!(action = "replica", status = "down", replica = %address, %error, "a replica can't be reached");
            }
            Err(_) => {}
        }
        failures += 1;
        let pause = RECONNECT.pause(failures);
        let wanted = async {
            sleep(RECONNECT_WHILE_WANTED).await;
            balance.wanted().await;
        };
        select! {
            () = sleep(pause) => {}
            () = wanted => {}
        }
    }
}

/// Asks a replica whether it serves. One that does not know `grpc.health.v1` has answered, too.
async fn probe(connection: Connection) -> Result<(), Status> {
    let mut health = HealthClient::new(service_fn(async |request: http::Request<_>| {
        let request = request.map(http_body_util::Either::Right);
        let answer = connection.call(request, None).await;
        answer.map_err(|failure| failure.status)
    }));
    let context = Context::new(RequestId::fresh(), Deadline::after(PROBE_TIMEOUT));
    let question = context.scope(health.check(HealthCheckRequest::default()));
    match timeout(PROBE_TIMEOUT, question).await {
        Ok(Ok(answer)) if answer.get_ref().status() == ServingStatus::NotServing => {
            Err(Status::unavailable("it is not serving"))
        }
        Ok(Err(status)) if matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded) => {
            Err(status)
        }
        Ok(_) => Ok(()),
        Err(_) => Err(Status::unavailable("it does not answer")),
    }
}
