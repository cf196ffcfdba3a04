//! [`Names`]: the addresses of a service, looked up once for the whole process.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
};

use futures_util::future::join_all;
use http::uri::Authority;
use tokio::{
    net::lookup_host,
    select, sync,
    sync::watch,
    time::{Instant, sleep_until, timeout},
};
use tracing::warn;

use super::subset::Ranks;
use crate::{
    client::{config::Config, target::Target, wire::origin::Origin},
    limits,
    sync::lock,
    telemetry::metrics,
    tls::{ClientTls, SpiffeId, Tls},
};

/// The addresses of a name, sorted: those of IPv4 first.
pub(crate) type Addresses = Arc<[SocketAddr]>;

/// The names of a service and their addresses, for the whole process.
#[derive(Debug)]
pub(crate) struct Names {
    /// In the order of the target.
    pub(crate) all: Vec<Name>,
    /// The addresses of each name: none until the name is looked up.
    pub(crate) found: watch::Sender<Vec<Addresses>>,
    /// Notified when a connection of any worker has ended.
    pub(crate) ended: watch::Sender<()>,
    /// What operators see of the look-ups.
    pub(crate) metrics: Arc<metrics::TargetMetrics>,
    pub(crate) ranks: Ranks,
    /// The worker that has the lock looks the names up, for all workers.
    turn: sync::Mutex<()>,
}

#[derive(Debug)]
pub(crate) struct Name {
    pub(crate) origin: Origin,
    last: Mutex<Last>,
}

/// The last look-up of a name.
#[derive(Debug, Default)]
struct Last {
    ended: Option<Instant>,
    has_failed: bool,
}

impl Names {
    pub(crate) fn new(target: &Target, config: &Config, tls: Option<&Tls>) -> Self {
        let authorities = target.authorities();
        let found = authorities
            .iter()
            .map(|name| Vec::from_iter(ip_address(name)));
        let found: Vec<_> = found.collect();
        let all = authorities.iter().map(|name| Name {
            origin: Origin {
                authority: name.clone(),
                request_id_names: config.request_id_names,
                tls: tls.cloned().map(|tls| ClientTls {
                    tls,
                    expected: None,
                }),
                network: config.network.clone(),
            },
            last: Mutex::default(),
        });
        Self {
            all: all.collect(),
            found: watch::Sender::new(found.iter().map(|it| it[..].into()).collect()),
            ended: watch::Sender::new(()),
            metrics: metrics::TargetMetrics::new(
                authorities.iter().map(ToString::to_string).zip(found),
            ),
            ranks: Ranks::new(),
            turn: sync::Mutex::new(()),
        }
    }

    /// Expects this peer under each name. Returns whether there is TLS to show who the peer is.
    pub(crate) fn expect(&mut self, peer: &SpiffeId) -> bool {
        self.all.iter_mut().all(|name| {
            let tls = name.origin.tls.as_mut();
            tls.map(|tls| tls.expected = Some(peer.clone())).is_some()
        })
    }

    /// Looks up all names while polled, or waits while another worker does.
    pub(crate) async fn keep_looking_up(&self) {
        let _turn = self.turn.lock().await;
        let names = (0..self.all.len()).filter(|index| {
            let name = &self.all[*index].origin.authority;
            ip_address(name).is_none()
        });
        // Each on its own, so that a slow look-up delays no other.
        join_all(names.map(|index| self.keep_looking_up_one(index))).await;
    }

    /// Looks up a name every 5 s, as soon as a connection has ended, and every 0.5 s until it has
    /// addresses.
    async fn keep_looking_up_one(&self, index: usize) {
        let mut ended = self.ended.subscribe();
        loop {
            let last = lock(&self.all[index].last).ended;
            if let Some(last) = last {
                sleep_until(last + limits::LOOKUP_PAUSE).await;
                if !self.found.borrow()[index].is_empty() {
                    select! {
                        () = sleep_until(last + limits::LOOKUP_INTERVAL) => {}
                        _ = ended.changed() => {}
                    }
                }
            }
            self.look_up(index).await;
        }
    }

    /// Looks up a name. If that fails, or finds nothing, the last addresses stay.
    async fn look_up(&self, index: usize) {
        let origin = &self.all[index].origin;
        let name = &origin.authority;
        let found = timeout(limits::LOOKUP_TIMEOUT, addresses_of(origin)).await;
        let found = found.unwrap_or_else(|elapsed| Err(elapsed.into()));
        let found = found.and_then(|mut addresses| {
            addresses.sort_unstable();
            addresses.dedup();
            let has_some = !addresses.is_empty();
            let none = || io::Error::other("the name has no address");
            has_some.then_some(addresses).ok_or_else(none)
        });
        let outcome = found.as_deref().map_err(ToString::to_string);
        self.metrics.looked_up(index, outcome);
        let last = Last {
            ended: Some(Instant::now()),
            has_failed: found.is_err(),
        };
        let before = std::mem::replace(&mut *lock(&self.all[index].last), last);
        match found {
            Ok(addresses) => {
                self.found.send_if_modified(|found| {
                    let is_new = *found[index] != *addresses;
                    found[index] = addresses.into();
                    is_new
                });
            }
            Err(error) if !before.has_failed => warn!(
                action = "look_up",
                status = "failure",
                authority = %name,
                %error,
                "the name can't be looked up; its last addresses are kept"
            ),
            Err(_) => {}
        }
    }
}

/// Looks a name up in its network.
async fn addresses_of(name: &Origin) -> io::Result<Vec<SocketAddr>> {
    let authority = &name.authority;
    match &name.network {
        Some(network) => {
            let port = authority.port_u16().expect("a target has ports");
            network.look_up(authority.host(), port).await
        }
        None => Ok(lookup_host(authority.as_str()).await?.collect()),
    }
}

/// The address that stands in place of a name, if it is one.
fn ip_address(name: &Authority) -> Option<SocketAddr> {
    let host = name.host();
    let host = host.strip_prefix('[').map_or(host, |host| {
        host.strip_suffix(']').unwrap_or(host) // an IPv6 address
    });
    Some((host.parse::<IpAddr>().ok()?, name.port_u16()?).into())
}

/// A resolver for tests, with the answers that they set.
#[cfg(test)]
pub(crate) mod fake {
    use std::{collections::HashMap, time::Duration};

    use tokio::time::sleep;

    use super::*;
    use crate::client::network::{BoxConnection, BoxFuture, Network};

    /// Clones share their state.
    #[derive(Debug, Clone, Default)]
    pub(crate) struct Answers(Arc<Mutex<State>>);

    #[derive(Debug, Default)]
    struct State {
        answers: HashMap<String, Vec<SocketAddr>>,
        look_ups: Vec<(Instant, String)>,
    }

    impl Answers {
        /// Sets the answer for a host. Without one, the look-up fails.
        pub(crate) fn set(&self, host: &str, addresses: &[SocketAddr]) {
            let answer = addresses.to_vec();
            lock(&self.0).answers.insert(host.to_owned(), answer);
        }

        pub(crate) fn remove(&self, host: &str) {
            lock(&self.0).answers.remove(host);
        }

        /// When each look-up has begun, and its host.
        pub(crate) fn look_ups(&self) -> Vec<(Instant, String)> {
            lock(&self.0).look_ups.clone()
        }
    }

    impl Network for Answers {
        fn look_up<'a>(&'a self, host: &'a str, _port: u16) -> BoxFuture<'a, Vec<SocketAddr>> {
            Box::pin(async move {
                let begun = (Instant::now(), host.to_owned());
                lock(&self.0).look_ups.push(begun);
                sleep(Duration::from_millis(1)).await;
                let answer = lock(&self.0).answers.get(host).cloned();
                answer.ok_or_else(|| io::Error::other("unknown"))
            })
        }

        fn connect(&self, _address: SocketAddr) -> BoxFuture<'_, BoxConnection> {
            unreachable!("the tests have another dial")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{task::JoinSet, time::sleep};

    use super::fake::Answers;
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn address(number: u8) -> SocketAddr {
        ([10, 0, 0, number], 1).into()
    }

    fn names(target: &str, answers: &Answers) -> Arc<Names> {
        let target = target.parse().expect("a target");
        let config = Config {
            network: Some(Arc::new(answers.clone())),
            ..Config::default()
        };
        Arc::new(Names::new(&target, &config, None))
    }

    #[tokio::test(start_paused = true)]
    async fn the_workers_of_a_process_look_a_name_up_once() {
        let answers = Answers::default();
        answers.set("a", &[address(2), address(1), address(2)]);
        let names = names("a:1", &answers);
        let mut workers = JoinSet::new();
        for _ in 0..16 {
            let names = names.clone();
            workers.spawn(async move { names.keep_looking_up().await });
        }
        sleep(SECOND).await;
        assert_eq!(*names.found.borrow()[0], [address(1), address(2)]);
        sleep(9 * SECOND).await;
        assert_eq!(answers.look_ups().len(), 2, "every 5 s");
        names.ended.send_replace(());
        sleep(SECOND).await;
        assert_eq!(answers.look_ups().len(), 3, "a connection has ended");
    }

    #[tokio::test(start_paused = true)]
    async fn when_the_worker_that_looks_up_ends_another_takes_its_turn() {
        let answers = Answers::default();
        answers.set("a", &[address(1)]);
        let names = names("a:1", &answers);
        let spawn = || {
            let names = names.clone();
            tokio::spawn(async move { names.keep_looking_up().await })
        };
        let (first, _second) = (spawn(), spawn());
        sleep(12 * SECOND).await;
        first.abort();
        sleep(10 * SECOND).await;
        let times: Vec<_> = answers.look_ups().into_iter().map(|(at, _)| at).collect();
        let pauses = times.windows(2).map(|pair| (pair[1] - pair[0]).as_secs());
        assert_eq!(
            pauses.collect::<Vec<_>>(),
            [5; 4],
            "as if nothing had happened"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_addresses_stay_when_a_look_up_fails_or_finds_none() {
        let answers = Answers::default();
        answers.set("a", &[address(1)]);
        let names = names("a:1", &answers);
        let looking = names.clone();
        let _looking = tokio::spawn(async move { looking.keep_looking_up().await });
        sleep(SECOND).await;
        let found = names.found.subscribe();
        answers.set("a", &[]);
        sleep(10 * SECOND).await;
        answers.remove("a");
        sleep(10 * SECOND).await;
        assert!(!found.has_changed().unwrap());
        assert_eq!(*found.borrow()[0], [address(1)]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_ip_address_is_never_looked_up() {
        let answers = Answers::default();
        let names = names("10.0.0.1:1,[::1]:2,a:3", &answers);
        let looking = names.clone();
        let _looking = tokio::spawn(async move { looking.keep_looking_up().await });
        sleep(SECOND).await;
        let found = names.found.borrow().clone();
        assert_eq!(*found[0], [address(1)]);
        assert_eq!(*found[1], ["[::1]:2".parse().unwrap()]);
        assert!(found[2].is_empty());
        assert!(answers.look_ups().iter().all(|(_, host)| host == "a"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_without_addresses_is_looked_up_often_and_delays_no_other() {
        let answers = Answers::default();
        answers.set("b", &[address(1)]);
        let names = names("a:1,b:1", &answers);
        let looking = names.clone();
        let _looking = tokio::spawn(async move { looking.keep_looking_up().await });
        sleep(5 * SECOND).await;
        let of_host = |host| {
            answers
                .look_ups()
                .iter()
                .filter(|one| one.1 == host)
                .count()
        };
        assert_eq!((of_host("a"), of_host("b")), (10, 1));
        assert_eq!(*names.found.borrow()[1], [address(1)]);
    }
}
