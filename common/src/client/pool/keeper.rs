//! The keeper of a replica: a task that connects it whenever it is not connected, and reports to
//! the balance.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    select,
    sync::watch,
    time::{Instant, sleep},
};
use tracing::{info, warn};

use super::{
    backoff::Backoff,
    balance::{Balance, Membership},
    replica::{Connected, Replica},
    state::{End, Event},
};
use crate::client::wire::{Closed, Connection, Head};

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

/// A connection that ends earlier counts as a failure to connect: the pauses keep growing.
const SETTLED_AFTER: Duration = Duration::from_secs(1);

/// Keeps a replica connected while polled. Notifies `ended` of the end of each connection.
pub(super) async fn keep_connected(
    address: SocketAddr,
    head: Head,
    balance: Balance<Replica>,
    ended: watch::Sender<()>,
) {
    let membership = balance.join(address);
    let connect = async || {
        let connection = Connection::open(address, head.clone()).await?;
        Replica::ask(&membership, connection).await
    };
    let report = |change| {
        if let Change::Ended(_) = change {
            ended.send_replace(());
        }
        report(address, change);
    };
    keep(&membership, connect, report).await;
}

/// Keeps an open connection in `balance` until its end, as the replica at `address`.
pub(in crate::client) async fn keep_io(
    io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    address: SocketAddr,
    head: Head,
    balance: Balance<Replica>,
) {
    let membership = balance.join(address);
    if let Ok(connection) = Connection::with_io(io, head).await {
        let replica = Arc::new(Replica::new(&membership, connection));
        balance.connect(address, replica.clone());
        replica.ended().await;
    }
}

/// A change that a keeper reports.
enum Change {
    Connected,
    Ended(End),
    Unreachable(io::Error),
}

/// Connects the replica again and again, and reports each change.
async fn keep<R: Connected, F: Future<Output = io::Result<R>>>(
    membership: &Membership<R>,
    connect: impl Fn() -> F,
    report: impl Fn(Change),
) {
    let (balance, address) = (&membership.balance, membership.address);
    let mut failures = 0;
    loop {
        match connect().await {
            Ok(replica) => {
                let begin = Instant::now();
                let replica = Arc::new(replica);
                replica.show();
                balance.connect(address, replica.clone());
                report(Change::Connected);
                let end = replica.ended().await;
                balance.close(address, &replica);
                if let Some(error) = error_of(end) {
                    membership.metrics.set_last_error(error);
                }
                report(Change::Ended(end));
                if begin.elapsed() >= SETTLED_AFTER {
                    failures = 0;
                }
            }
            Err(error) => {
                membership.metrics.set_last_error(error.to_string());
                if !balance.is_unreachable(address) {
                    report(Change::Unreachable(error));
                }
                balance.apply(address, Event::ConnectFailed);
            }
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

/// What was wrong with a replica whose connection has ended.
fn error_of(end: End) -> Option<&'static str> {
    match end {
        End::Closed(Closed::Lost) => Some("the connection was lost"),
        End::Silent => Some("it was silent"),
        End::Closed(Closed::GoingAway | Closed::Outdated) | End::NotServing => None,
    }
}

fn report(address: SocketAddr, change: Change) {
    match change {
        Change::Connected => info!(
            action = "replica", status = "up", replica = %address,
            "a replica is up"
        ),
        Change::Ended(End::Closed(Closed::GoingAway)) => info!(
            action = "replica", status = "draining", replica = %address,
            "a replica is going away; it gets no new calls"
        ),
        Change::Ended(End::Closed(Closed::Outdated)) => info!(
            action = "replica", status = "draining", replica = %address,
            "the trusted authorities have changed; the connection to a replica is opened again"
        ),
        Change::Ended(End::NotServing) => info!(
            action = "replica", status = "draining", replica = %address,
            "a replica says that it does not serve; it gets no new calls"
        ),
        Change::Ended(End::Closed(Closed::Lost)) => warn!(
            action = "replica", status = "down", replica = %address,
            "the connection to a replica is lost"
        ),
        Change::Ended(End::Silent) => warn!(
            action = "replica", status = "down", replica = %address,
            "a replica is silent; its connection is dropped"
        ),
        Change::Unreachable(error) => warn!(
            action = "replica", status = "down", replica = %address, %error,
            "a replica can't be reached"
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, collections::VecDeque};

    use proptest::{collection::vec, prelude::*};
    use tokio::{
        runtime,
        time::{sleep_until, timeout},
    };

    use super::*;
    use crate::client::pool::{balance::Waiting, members::Candidate};

    /// The outcome of an attempt to connect, after this many milliseconds.
    #[derive(Debug, Clone, Copy)]
    enum Outcome {
        Fails(u64),
        /// The connection ends after this many more milliseconds.
        Connects(u64, u64, End),
    }

    fn outcome() -> impl Strategy<Value = Outcome> {
        let end = prop_oneof![
            Just(End::Closed(Closed::GoingAway)),
            Just(End::Closed(Closed::Lost)),
            Just(End::Silent),
            Just(End::NotServing),
        ];
        prop_oneof![
            (0..2_000_u64).prop_map(Outcome::Fails),
            (0..1_000_u64, 0..20_000_u64, end)
                .prop_map(|(connects, lasts, end)| Outcome::Connects(connects, lasts, end)),
        ]
    }

    struct Fake {
        end: Option<(Instant, End)>,
    }

    impl Candidate for Fake {
        fn cost(&self) -> f64 {
            1.0
        }
    }

    impl Connected for Fake {
        async fn ended(&self) -> End {
            let Some((at, end)) = self.end else {
                std::future::pending().await
            };
            sleep_until(at).await;
            end
        }
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
        let balance = Balance::<Fake>::new(Duration::from_secs(3), Waiting::default());
        let membership = balance.join(([127, 0, 0, 1], 1).into());
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
                    })
                }
                None => Ok(Fake { end: None }),
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
                match balance.pick_now(&[]).map(|replica| replica.end) {
                    Some(None) => break,
                    Some(Some((end, _))) => {
                        assert!(end >= Instant::now());
                        *quiet_since.borrow_mut() = Instant::now();
                    }
                    None if is_wanted => {
                        let _ = timeout(Duration::from_millis(1), balance.pick(&[])).await;
                    }
                    None => {}
                }
                assert!(quiet_since.borrow().elapsed() < longest, "stuck");
            }
            sleep(Duration::from_secs(100)).await;
            assert!(balance.pick_now(&[]).is_some(), "it stays connected");
        };
        select! {
            () = keep(&membership, connect, |_| {}) => unreachable!(),
            () = watch => {}
        }
    }
}
