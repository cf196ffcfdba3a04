//! One replica: connected again whenever it is lost, and in the balance for as long as it is up.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use http::uri::Authority;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    select,
    sync::Notify,
    time::{sleep, timeout},
};
use tonic::{Code, Status};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tower::service_fn;
use tracing::{info, warn};

use super::{
    backoff::Backoff,
    balance::{Balance, Cost},
    connection::{Connection, RequestBody},
};
use crate::{Context, Deadline, RequestId, metrics::CountedReplica};

/// How long the first question on a connection may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// Between attempts to reach a replica that is down. gRPC's own figures are 1 s × 1.6 up to
/// 120 s, made for clients all over a network; these are neighbours, two that start together
/// find each other within milliseconds, and a restart takes a second.
const RECONNECT: Backoff = Backoff {
    base: Duration::from_millis(5),
    factor: 2.0,
    limit: Duration::from_secs(10),
    jitter: 0.2,
};

/// The longest pause while calls wait for a replica.
const RECONNECT_WHILE_WANTED: Duration = Duration::from_millis(500);

/// Something that is up until it is lost.
trait Losable: Cost {
    fn lost(&self) -> impl Future<Output = ()> + Send;
}

impl Losable for Connection {
    async fn lost(&self) {
        self.lost().await;
    }
}

/// Keeps a replica connected, and `balance` in step with that, for as long as it is polled.
/// `broken` is told when it is lost.
pub(super) async fn keep(
    address: SocketAddr,
    authority: Authority,
    balance: Balance<Connection>,
    broken: Arc<Notify>,
) {
    let counted = CountedReplica::new(address);
    let open = || {
        let (authority, replica) = (authority.clone(), counted.replica.clone());
        async move { Connection::open(address, authority, &replica, probe).await }
    };
    let told = |state: Result<(), Option<&io::Error>>| {
        counted
            .replica
            .is_up
            .store(state.is_ok(), Ordering::Relaxed);
        match state {
            Ok(()) => {
                info!(action = "replica", status = "up", replica = %address, "a replica is up");
            }
            Err(None) => {
                warn!(action = "replica", status = "down", replica = %address, "a replica is lost");
                broken.notify_one();
            }
            Err(Some(error)) => {
                warn!(action = "replica", status = "down", replica = %address, %error, "a replica can't be reached");
            }
        }
    };
    keep_up(open, balance, told).await;
}

/// Puts the connection that is there into `balance` for as long as it is there.
pub(super) async fn keep_over(
    io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    balance: Balance<Connection>,
) {
    let authority = Authority::from_static("in-memory");
    let uncounted = Arc::default();
    let open = Connection::over(io, authority, &uncounted, async |_| Ok(()));
    if let Ok(connection) = open.await {
        Up::new(connection, balance).replica.lost().await;
    }
}

/// The states of a replica: up, from when it was opened until it is lost, and down, where it is
/// opened again and again. `told` hears of each change, and of the first failure after one.
async fn keep_up<R: Losable, F: Future<Output = io::Result<R>>>(
    open: impl Fn() -> F,
    balance: Balance<R>,
    told: impl Fn(Result<(), Option<&io::Error>>),
) {
    let mut failures = 0;
    loop {
        match open().await {
            Ok(replica) => {
                failures = 0;
                let up = Up::new(replica, balance.clone());
                told(Ok(()));
                up.replica.lost().await;
                drop(up);
                told(Err(None));
            }
            Err(error) if failures == 0 => told(Err(Some(&error))),
            Err(_) => {}
        }
        failures += 1;
        let wanted = async {
            sleep(RECONNECT_WHILE_WANTED).await;
            balance.wanted().await;
        };
        select! {
            () = sleep(RECONNECT.pause(failures)) => {}
            () = wanted => {}
        }
    }
}

/// A replica that can be asked; it can't any more when this is dropped.
struct Up<R: Cost> {
    replica: Arc<R>,
    balance: Balance<R>,
}

impl<R: Cost> Up<R> {
    fn new(replica: R, balance: Balance<R>) -> Self {
        let replica = Arc::new(replica);
        balance.add(replica.clone());
        Self { replica, balance }
    }
}

impl<R: Cost> Drop for Up<R> {
    fn drop(&mut self) {
        self.balance.remove(&self.replica);
    }
}

/// Asks a replica whether it serves. One that does not know `grpc.health.v1` has answered, too.
async fn probe(connection: Connection) -> Result<(), Status> {
    let mut health = HealthClient::new(service_fn(async |request: http::Request<_>| {
        let request = request.map(RequestBody::Stream);
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

#[cfg(test)]
mod tests {
    use std::{
        cell::{Cell, RefCell},
        collections::VecDeque,
    };

    use proptest::{collection::vec, prelude::*};
    use tokio::{
        runtime,
        time::{Instant, sleep_until},
    };

    use super::*;

    const FAILFAST: Duration = Duration::from_secs(3);

    /// What comes of opening a connection, after that many milliseconds.
    #[derive(Debug, Clone, Copy)]
    enum Outcome {
        Fails(u64),
        /// And is lost after that many more.
        Opens(u64, u64),
    }

    fn outcome() -> impl Strategy<Value = Outcome> {
        prop_oneof![
            (0..2_000_u64).prop_map(Outcome::Fails),
            (0..1_000_u64, 0..20_000_u64).prop_map(|(opens, lost)| Outcome::Opens(opens, lost)),
        ]
    }

    struct Fake {
        lost: Option<Instant>,
    }

    impl Cost for Fake {
        fn cost(&self) -> f64 {
            1.0
        }
    }

    impl Losable for Fake {
        async fn lost(&self) {
            match self.lost {
                Some(lost) => sleep_until(lost).await,
                None => std::future::pending().await,
            }
        }
    }

    proptest! {
        /// Whatever happens to a replica: it is asked only while it is up, and once it can be
        /// opened for good it is up within the longest pause, within a second where a call wants
        /// it, and stays so.
        #[test]
        fn a_replica_never_gets_stuck(script in vec(outcome(), 0..8), is_wanted: bool) {
            let runtime = runtime::Builder::new_current_thread()
                .enable_time()
                .start_paused(true)
                .build()
                .unwrap();
            runtime.block_on(async {
                let balance = Balance::new(FAILFAST);
                let script = RefCell::new(VecDeque::from(script));
                let recovered = Cell::new(false);
                // Since when nothing has happened to a replica that is down.
                let down_since = Cell::new(Instant::now());
                let open = async || {
                    down_since.set(Instant::now());
                    let next = script.borrow_mut().pop_front();
                    match next {
                        Some(Outcome::Fails(millis)) => {
                            sleep(Duration::from_millis(millis)).await;
                            Err(io::Error::other("the script has it"))
                        }
                        Some(Outcome::Opens(opens, lost)) => {
                            sleep(Duration::from_millis(opens)).await;
                            let lost = Instant::now() + Duration::from_millis(lost);
                            Ok(Fake { lost: Some(lost) })
                        }
                        None => {
                            recovered.set(true);
                            Ok(Fake { lost: None })
                        }
                    }
                };
                // Two seconds are the script's own.
                let longest = if is_wanted { RECONNECT_WHILE_WANTED } else { RECONNECT.limit * 6 / 5 };
                let longest = longest + Duration::from_millis(2_050);
                let replica = keep_up(open, balance.clone(), |_| {});
                let watch = async {
                    while !recovered.get() {
                        sleep(Duration::from_millis(20)).await;
                        if let Some(up) = balance.pick_now() {
                            assert!(up.lost.is_none_or(|lost| lost >= Instant::now()));
                            down_since.set(Instant::now());
                            continue;
                        }
                        if is_wanted {
                            let _ = timeout(Duration::from_millis(1), balance.pick()).await;
                        }
                        assert!(down_since.get().elapsed() < longest, "stuck");
                    }
                    for _ in 0..100 {
                        sleep(Duration::from_secs(1)).await;
                        assert!(balance.pick_now().is_some(), "it is up and stays so");
                    }
                };
                select! {
                    () = replica => unreachable!("it goes on for ever"),
                    () = watch => {}
                }
            });
        }
    }
}
