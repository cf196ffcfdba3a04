//! The task that keeps a replica connected, and reports each change to the balancer.

use std::{
    future::pending,
    io, mem,
    net::SocketAddr,
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::{
    select,
    sync::watch,
    time::{Instant, sleep},
};
use tracing::{info, warn};

use crate::{
    backoff::Backoff,
    client::{
        choice::{
            balancer::{Balancer, Membership},
            replica_set::Candidate,
        },
        ejection::state::Event,
        replicas::replica::{Connected, Replica},
        wire::{activity::Closed, connection::Connection, origin::Origin},
    },
    limits,
    tls::is_of_other_name,
    transport::Io,
};

/// The pauses between attempts to connect a replica. gRPC's defaults (1 s × 1.6, up to 120 s) suit
/// clients all over a network. These replicas are near: two services that start together find each
/// other within milliseconds, and a restart takes a second.
const RECONNECT: Backoff = Backoff {
    base: Duration::from_millis(5),
    factor: 2.0,
    limit: Duration::from_secs(10),
    jitter: 0.2,
};

/// The longest pause while calls wait for a replica.
const RECONNECT_WHILE_WANTED: Duration = Duration::from_millis(500);

/// The pauses before attempts to connect a replica that is suspected. Their callers come from one
/// event, such as a pause of the replica, so they are spread.
const BESIDE: Backoff = Backoff {
    base: Duration::from_millis(200),
    factor: 2.0,
    limit: Duration::from_secs(2),
    jitter: 0.5,
};

/// A connection that ends earlier counts as a failure to connect: the pauses keep growing.
const SETTLED_AFTER: Duration = Duration::from_secs(1);

/// The names that have an address. Empty once the address has left them.
pub(crate) type Origins = Arc<[Origin]>;

/// How a replica is connected.
pub(crate) trait Connect<R: Candidate>: Clone + Send + Sync + 'static {
    /// Opens a connection to the replica, under one of its names.
    fn connect(
        &self,
        membership: &Membership<R>,
        origin: Origin,
    ) -> impl Future<Output = io::Result<R>> + Send;
}

/// Connects replicas over the network, and checks their health.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Connector;

impl Connect<Replica> for Connector {
    async fn connect(
        &self,
        membership: &Membership<Replica>,
        origin: Origin,
    ) -> io::Result<Replica> {
        let connection =
            Connection::open_and_check(membership.address, origin, Arc::default()).await?;
        Ok(Replica::new(membership, connection))
    }
}

/// Keeps a replica connected while polled, under one of its names. While it has none, it is not
/// connected again. Notifies `ended` of the end of each connection.
pub(crate) async fn keep_connected<R: Connected>(
    address: SocketAddr,
    origins: watch::Receiver<Origins>,
    balancer: Balancer<R>,
    ended: watch::Sender<()>,
    connector: impl Connect<R>,
) {
    let membership = balancer.join(address);
    let connect = async || {
        let mut origins = origins.clone();
        let origins = origins.wait_for(|origins| !origins.is_empty()).await;
        let Ok(origins) = origins.map(|origins| origins.clone()) else {
            return pending().await; // this task ends
        };
        let (last, others) = origins.split_last().expect("they are not empty");
        for origin in others {
            match connector.connect(&membership, origin.clone()).await {
                Err(error) if is_of_other_name(&error) => {}
                outcome => return outcome,
            }
        }
        connector.connect(&membership, last.clone()).await
    };
    let report = |change| {
        if let Change::Ended(_) = change {
            ended.send_replace(());
        }
        report(address, change);
    };
    keep(&membership, connect, report).await;
}

/// Keeps an open connection in `balancer` until its end, as the replica at `address`.
pub(crate) async fn keep_open_connection(
    io: impl Io + 'static,
    address: SocketAddr,
    origin: Origin,
    balancer: Balancer<Replica>,
) {
    let membership = balancer.join(address);
    if let Ok(connection) = Connection::with_io(io, origin, Arc::default()).await {
        let replica = Arc::new(Replica::new(&membership, connection));
        balancer.connect(address, replica.clone());
        replica.ended().await;
    }
}

/// A change that a keeper reports.
enum Change {
    Connected,
    /// Another connection has taken the place of one that is silent.
    Replaced,
    Ended(Closed),
    Unreachable(io::Error),
}

/// Connects the replica again and again, and reports each change.
async fn keep<R: Connected, F: Future<Output = io::Result<R>>>(
    membership: &Membership<R>,
    connect: impl Fn() -> F,
    report: impl Fn(Change),
) {
    let (balancer, address) = (&membership.balancer, membership.address);
    let mut failures = 0;
    loop {
        match connect().await {
            Ok(replica) => {
                let begin = Instant::now();
                report(Change::Connected);
                let why = stay_connected(membership, replica, &connect, &report).await;
                if let Some(error) = error_of(why) {
                    membership.metrics.set_last_error(error);
                }
                report(Change::Ended(why));
                if begin.elapsed() >= SETTLED_AFTER {
                    failures = 0;
                }
            }
            Err(error) => {
                membership.metrics.set_last_error(error.to_string());
                if balancer.apply(address, Event::ConnectFailed) {
                    report(Change::Unreachable(error));
                }
            }
        }
        failures += 1;
        let wanted = async {
            sleep(RECONNECT_WHILE_WANTED).await;
            balancer.wanted().await;
        };
        select! {
            () = sleep(RECONNECT.pause(failures)) => {}
            () = wanted => {}
        }
    }
}

/// Keeps a connected replica in the balancer until it takes no new calls. If it is silent for long,
/// another connection takes its place, as long as few others have calls left.
async fn stay_connected<R: Connected, F: Future<Output = io::Result<R>>>(
    membership: &Membership<R>,
    replica: R,
    connect: &impl Fn() -> F,
    report: &impl Fn(Change),
) -> Closed {
    let (balancer, address) = (&membership.balancer, membership.address);
    let mut replica = Arc::new(replica);
    // Those that still have calls.
    let mut replaced = Vec::<Weak<R>>::new();
    loop {
        replica.show();
        balancer.connect(address, replica.clone());
        replaced.retain(|silent| silent.strong_count() > 0);
        let may_replace = replaced.len() + 1 < limits::MAX_REPLICA_CONNECTIONS;
        let another = select! {
            biased;
            why = replica.ended() => {
                balancer.close(address, &replica);
                return why;
            }
            another = connect_beside(&*replica, connect), if may_replace => another,
            () = replica.grow() => unreachable!("it goes on until the replica is gone"),
        };
        report(Change::Replaced);
        let silent = mem::replace(&mut replica, Arc::new(another));
        silent.replace();
        replaced.push(Arc::downgrade(&silent));
    }
}

/// Tries other connections to a replica that is suspected, until one answers.
async fn connect_beside<R: Connected, F: Future<Output = io::Result<R>>>(
    replica: &R,
    connect: &impl Fn() -> F,
) -> R {
    let mut failures = 0;
    loop {
        replica.suspected().await;
        let another = async {
            sleep(BESIDE.pause(failures)).await;
            connect().await
        };
        select! {
            biased;
            () = replica.responded() => failures = 0,
            another = another => match another {
                Ok(another) => return another,
                Err(_) => failures += 1,
            },
        }
    }
}

/// What was wrong with a replica whose connection has ended.
fn error_of(why: Closed) -> Option<&'static str> {
    match why {
        Closed::Lost => Some("the connection was lost"),
        Closed::Silent => Some("it was silent"),
        Closed::GoingAway | Closed::Outdated | Closed::NotServing | Closed::Replaced => None,
    }
}

fn report(address: SocketAddr, change: Change) {
    match change {
        Change::Connected => info!(
            action = "replica", status = "up", replica = %address,
            "a replica is up"
        ),
        Change::Replaced => warn!(
            action = "replica", status = "late", replica = %address,
            "a replica is silent; another connection to it takes its calls"
        ),
        Change::Ended(Closed::GoingAway) => info!(
            action = "replica", status = "draining", replica = %address,
            "a replica is going away; it gets no new calls"
        ),
        Change::Ended(Closed::Outdated) => info!(
            action = "replica", status = "draining", replica = %address,
            "the trusted authorities have changed; the connection to a replica is opened again"
        ),
        Change::Ended(Closed::NotServing) => info!(
            action = "replica", status = "draining", replica = %address,
            "a replica says that it does not serve; it gets no new calls"
        ),
        Change::Ended(Closed::Lost | Closed::Replaced) => warn!(
            action = "replica", status = "down", replica = %address,
            "the connection to a replica is lost"
        ),
        Change::Ended(Closed::Silent) => warn!(
            action = "replica", status = "down", replica = %address,
            "a replica is silent; its connection is broken off"
        ),
        Change::Unreachable(error) => warn!(
            action = "replica", status = "down", replica = %address, %error,
            "a replica can't be reached"
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        cell::{Cell, RefCell},
        collections::VecDeque,
        sync::atomic::{AtomicBool, Ordering::Relaxed},
    };

    use proptest::{collection::vec, prelude::*};
    use tokio::{
        runtime,
        time::{sleep_until, timeout},
    };

    use super::*;
    use crate::client::choice::{balancer::ChannelCounts, replica_set::Candidate};

    /// The outcome of an attempt to connect, after this many milliseconds.
    #[derive(Debug, Clone, Copy)]
    enum Outcome {
        Fails(u64),
        /// The connection ends after this many more milliseconds.
        Connects(u64, u64, Closed),
    }

    fn outcome() -> impl Strategy<Value = Outcome> {
        let end = prop_oneof![
            Just(Closed::GoingAway),
            Just(Closed::Lost),
            Just(Closed::Silent),
            Just(Closed::NotServing),
        ];
        prop_oneof![
            (0..2_000_u64).prop_map(Outcome::Fails),
            (0..1_000_u64, 0..20_000_u64, end)
                .prop_map(|(connects, lasts, end)| Outcome::Connects(connects, lasts, end)),
        ]
    }

    #[derive(Default)]
    struct Fake {
        end: Option<(Instant, Closed)>,
        suspected: Option<Instant>,
        responds: Option<Instant>,
        is_replaced: AtomicBool,
    }

    async fn at(time: Option<Instant>) {
        match time {
            Some(time) => sleep_until(time).await,
            None => pending().await,
        }
    }

    impl Candidate for Fake {
        fn cost(&self) -> f64 {
            1.0
        }

        fn cost_of_joining(&self) -> Option<f64> {
            None
        }
    }

    impl Connected for Fake {
        async fn ended(&self) -> Closed {
            let Some((at, end)) = self.end else {
                pending().await
            };
            sleep_until(at).await;
            end
        }

        async fn suspected(&self) {
            at(self.suspected).await;
            if self.responds.is_some_and(|time| time <= Instant::now()) {
                pending::<()>().await;
            }
        }

        async fn responded(&self) {
            at(self.responds).await;
        }

        fn replace(&self) {
            self.is_replaced.store(true, Relaxed);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_beside_a_silent_one_takes_its_place() {
        let balancer = Balancer::<Fake>::new(
            Duration::from_secs(3),
            ChannelCounts::default(),
            Arc::default(),
        );
        let membership = balancer.join(([127, 0, 0, 1], 1).into());
        let begin = Instant::now();
        let silent = Fake {
            suspected: Some(begin + Duration::from_secs(1)),
            ..Fake::default()
        };
        let script = RefCell::new(VecDeque::from([
            Ok(silent),
            Err(io::Error::other("it does not respond")),
            Ok(Fake::default()),
        ]));
        let connect = async || script.borrow_mut().pop_front().expect("one more");
        let keeping = keep(&membership, connect, |_| {});
        let look = async {
            sleep(Duration::from_millis(500)).await;
            let silent = balancer.pick_now(&[], false).expect("it is connected");
            sleep(Duration::from_secs(3)).await;
            let another = balancer.pick_now(&[], false).expect("another is connected");
            assert!(!Arc::ptr_eq(&silent, &another));
            assert!(silent.is_replaced.load(Relaxed) && !another.is_replaced.load(Relaxed));
        };
        select! {
            () = keeping => unreachable!(),
            () = look => {}
        }
        assert!(script.borrow().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn no_connection_takes_the_place_of_one_that_responds_after_all() {
        let balancer = Balancer::<Fake>::new(
            Duration::from_secs(3),
            ChannelCounts::default(),
            Arc::default(),
        );
        let membership = balancer.join(([127, 0, 0, 1], 1).into());
        let begin = Instant::now();
        let paused = Fake {
            suspected: Some(begin + Duration::from_secs(1)),
            responds: Some(begin + Duration::from_secs(4)),
            ..Fake::default()
        };
        let first = RefCell::new(Some(paused));
        let attempts = Cell::new(0);
        let connect = async || {
            attempts.set(attempts.get() + 1);
            let first = first.borrow_mut().take();
            match first {
                Some(first) => Ok(first),
                None => pending().await,
            }
        };
        let keeping = keep(&membership, connect, |_| {});
        assert!(timeout(Duration::from_secs(10), keeping).await.is_err());
        assert_eq!(attempts.get(), 2, "one connection beside it is tried");
        assert!(
            !balancer
                .pick_now(&[], false)
                .expect("it stays")
                .is_replaced
                .load(Relaxed)
        );
    }

    proptest! {
        /// Whatever happens to a replica, it gets calls only while it is connected. Once it can be
        /// connected for good, it is connected within the longest pause, or within a second if a
        /// call wants it, and stays connected.
        #[test]
        fn a_replica_never_gets_stuck(script in vec(outcome(), 0..8), is_wanted: bool) {
            let runtime = runtime::Builder::new_current_thread()
                .enable_time()
                .start_paused(true)
                .build()
                .unwrap();
            runtime.block_on(follow(script.into(), is_wanted));
        }
    }

    async fn follow(script: VecDeque<Outcome>, is_wanted: bool) {
        let balancer = Balancer::<Fake>::new(
            Duration::from_secs(3),
            ChannelCounts::default(),
            Arc::default(),
        );
        let membership = balancer.join(([127, 0, 0, 1], 1).into());
        let script = RefCell::new(script);
        // The time since which nothing has happened to the replica, unless it is connected.
        let quiet_since = RefCell::new(Instant::now());
        let connect = async || {
            *quiet_since.borrow_mut() = Instant::now();
            let next = script.borrow_mut().pop_front();
            match next {
                Some(Outcome::Fails(millis)) => {
                    sleep(Duration::from_millis(millis)).await;
                    Err(io::Error::other("the script has it"))
                }
                Some(Outcome::Connects(connects, lasts, end)) => {
                    sleep(Duration::from_millis(connects)).await;
                    let at = Instant::now() + Duration::from_millis(lasts);
                    Ok(Fake {
                        end: Some((at, end)),
                        ..Fake::default()
                    })
                }
                None => Ok(Fake::default()),
            }
        };
        let longest = if is_wanted {
            RECONNECT_WHILE_WANTED
        } else {
            RECONNECT.limit * 6 / 5
        };
        // An outcome of the script takes up to two seconds.
        let longest = longest + Duration::from_millis(2_050);
        let watch = async {
            loop {
                sleep(Duration::from_millis(20)).await;
                match balancer.pick_now(&[], false).map(|replica| replica.end) {
                    Some(None) => break,
                    Some(Some((end, _))) => {
                        assert!(end >= Instant::now());
                        *quiet_since.borrow_mut() = Instant::now();
                    }
                    None if is_wanted => {
                        let _ = timeout(Duration::from_millis(1), balancer.pick(&[], false)).await;
                    }
                    None => {}
                }
                assert!(quiet_since.borrow().elapsed() < longest, "stuck");
            }
            sleep(Duration::from_secs(100)).await;
            assert!(
                balancer.pick_now(&[], false).is_some(),
                "it stays connected"
            );
        };
        select! {
            () = keep(&membership, connect, |_| {}) => unreachable!(),
            () = watch => {}
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_pauses_before_a_new_connection_grow_until_one_has_lasted() {
        let balancer = Balancer::<Fake>::new(
            Duration::from_secs(3),
            ChannelCounts::default(),
            Arc::default(),
        );
        let membership = balancer.join(([127, 0, 0, 1], 1).into());
        let failure = None;
        let (short, long) = (SETTLED_AFTER / 2, SETTLED_AFTER);
        let script = [[failure; 4], [Some(short), failure, Some(long), failure]].concat();
        let script = RefCell::new(VecDeque::from(script));
        let ended = RefCell::new(Instant::now());
        let pauses = RefCell::new(Vec::new());
        let connect = async || {
            let now = Instant::now();
            pauses
                .borrow_mut()
                .push((now - *ended.borrow()).as_millis());
            let lasts = script.borrow_mut().pop_front();
            let Some(lasts) = lasts else {
                return pending().await;
            };
            let end = now + lasts.unwrap_or_default();
            *ended.borrow_mut() = end;
            lasts.ok_or_else(|| io::Error::other("refused"))?;
            Ok(Fake {
                end: Some((end, Closed::Lost)),
                ..Fake::default()
            })
        };
        let keeping = keep(&membership, connect, |_| {});
        assert!(timeout(Duration::from_mins(1), keeping).await.is_err());
        let pauses = pauses.into_inner();
        let expected = [0, 5, 10, 20, 40, 80, 160, 5, 10];
        assert_eq!(pauses.len(), expected.len());
        for (pause, expected) in pauses.iter().zip(expected) {
            // With the jitter, and to the next millisecond of the timer.
            let range = expected * 4 / 5..=expected * 6 / 5 + 1;
            assert!(range.contains(pause), "{pauses:?}");
        }
    }

    /// How many connections a replica has had that is silent on each for long. The calls of each
    /// are kept, or have ended.
    async fn silent_connections(keeps_calls: bool) -> usize {
        let balancer = Balancer::<Fake>::new(
            Duration::from_secs(3),
            ChannelCounts::default(),
            Arc::default(),
        );
        let membership = balancer.join(([127, 0, 0, 1], 1).into());
        let connections = Cell::new(0);
        let connect = async || {
            connections.set(connections.get() + 1);
            Ok(Fake {
                suspected: Some(Instant::now()),
                ..Fake::default()
            })
        };
        let calls = async {
            let mut calls = Vec::new();
            for _ in 0..100 {
                sleep(Duration::from_millis(50)).await;
                calls.extend(balancer.pick_now(&[], false));
                if !keeps_calls {
                    calls.clear();
                }
            }
        };
        select! {
            () = keep(&membership, connect, |_| {}) => unreachable!(),
            () = calls => connections.get(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn few_silent_connections_to_a_replica_may_have_calls() {
        assert_eq!(
            silent_connections(true).await,
            limits::MAX_REPLICA_CONNECTIONS
        );
        assert!(silent_connections(false).await > 2 * limits::MAX_REPLICA_CONNECTIONS);
    }
}
