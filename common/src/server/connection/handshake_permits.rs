//! [`HandshakePermit`]: a limit on the TLS handshakes of a worker, and which of them is given up for a
//! new one.
//!
//! With permits that clients keep until the timeout, a few slow clients would keep the others out.
//! With permits that always go to the newest, one fast client would. So at the limit the oldest
//! handshake of the network with the most of them is given up, and the newcomer counts: a flood
//! from one network displaces itself.

use std::{
    cell::RefCell,
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    future::Future,
    io,
    net::IpAddr,
    time::Duration,
};

use tokio::{sync::oneshot, time::Instant};

use crate::limits;

thread_local! {
    // The handshakes of this worker alone, so that workers share nothing.
    static SILENT: RefCell<Running> = RefCell::default();
    static BEGUN: RefCell<Running> = RefCell::default();
}

/// How far a handshake is. Each stage has its own limit: a connection costs its client less than a
/// handshake, so it must not displace one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The client has not sent a byte.
    Silent,
    /// The client has sent something, which costs CPU.
    Begun,
}

impl Stage {
    fn with<T>(self, look: impl FnOnce(&mut Running) -> T) -> T {
        let running = match self {
            Self::Silent => &SILENT,
            Self::Begun => &BEGUN,
        };
        running.with_borrow_mut(look)
    }

    /// How long a handshake keeps its permit from the next one of its network.
    fn least_time(self) -> Duration {
        match self {
            Self::Silent => Duration::ZERO,
            Self::Begun => limits::LEAST_HANDSHAKE,
        }
    }
}

/// The handshakes of a worker at one stage.
#[derive(Default)]
struct Running {
    next: u64,
    count: usize,
    /// Those of each network, the oldest first.
    networks: HashMap<IpAddr, BTreeMap<u64, Handshake>>,
}

struct Handshake {
    since: Instant,
    /// Dropping it gives the handshake up.
    _keeps: oneshot::Sender<()>,
}

impl Running {
    /// Adds a handshake of this network. Returns its number, or `None` if there is no room for it.
    fn add(&mut self, network: IpAddr, stage: Stage, keeps: oneshot::Sender<()>) -> Option<u64> {
        if self.count >= limits::MAX_HANDSHAKES {
            self.make_room(network, stage)?;
        }
        let number = self.next;
        self.next += 1;
        self.count += 1;
        let handshake = Handshake {
            since: Instant::now(),
            _keeps: keeps,
        };
        let of_network = self.networks.entry(network).or_default();
        of_network.insert(number, handshake);
        Some(number)
    }

    /// Gives up the oldest handshake of the network with the most, for one of the network `newcomer`.
    fn make_room(&mut self, newcomer: IpAddr, stage: Stage) -> Option<()> {
        let own = self.networks.get(&newcomer).map_or(0, BTreeMap::len) + 1;
        let with_count = |(network, handshakes): (&IpAddr, &BTreeMap<u64, Handshake>)| {
            let count = handshakes.len() + usize::from(*network == newcomer);
            let (number, oldest) = handshakes.first_key_value()?;
            Some((count, Reverse(*number), *network, oldest.since))
        };
        let all = self.networks.iter().filter_map(with_count);
        let (most, Reverse(oldest), network, since) = all.max_by_key(|one| (one.0, one.1))?;
        // Between equals, what has begun is worth more. This bounds the work for one network, too.
        let is_equal = own == most;
        if is_equal && since.elapsed() < stage.least_time() {
            return None;
        }
        self.remove(network, oldest);
        Some(())
    }

    fn remove(&mut self, network: IpAddr, number: u64) {
        let Some(of_network) = self.networks.get_mut(&network) else {
            return;
        };
        if of_network.remove(&number).is_some() {
            self.count -= 1;
        }
        if of_network.is_empty() {
            self.networks.remove(&network);
        }
    }
}

/// The permit of a handshake at one stage. Dropping it frees the permit.
pub(crate) struct HandshakePermit {
    stage: Stage,
    network: IpAddr,
    number: u64,
    lost: oneshot::Receiver<()>,
}

impl HandshakePermit {
    /// Takes a permit for a handshake with a client of this network.
    ///
    /// # Errors
    ///
    /// If the network has the most handshakes, and all of them are young.
    pub(crate) fn take(stage: Stage, network: IpAddr) -> io::Result<Self> {
        let (keeps, lost) = oneshot::channel();
        let number = stage.with(|running| running.add(network, stage, keeps));
        Ok(Self {
            stage,
            network,
            number: number.ok_or_else(too_many)?,
            lost,
        })
    }

    /// Runs a part of the handshake, until it is complete or another handshake has the permit.
    pub(crate) async fn run<T>(
        mut self,
        part: impl Future<Output = io::Result<T>>,
    ) -> io::Result<T> {
        tokio::select! {
            done = part => done,
            _ = &mut self.lost => Err(too_many()),
        }
    }
}

fn too_many() -> io::Error {
    io::Error::other("too many handshakes at once")
}

impl Drop for HandshakePermit {
    fn drop(&mut self) {
        self.stage
            .with(|running| running.remove(self.network, self.number));
    }
}

#[cfg(test)]
mod tests {
    use std::{future::pending, net::Ipv4Addr, pin::Pin};

    use futures_util::FutureExt;
    use tokio::time::advance;

    use super::*;

    const FLOOD: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const BOTH: [Stage; 2] = [Stage::Silent, Stage::Begun];

    type Part = Pin<Box<dyn Future<Output = io::Result<()>>>>;

    /// The address of an honest client.
    fn honest(number: u8) -> IpAddr {
        Ipv4Addr::new(192, 0, 2, number).into()
    }

    fn take(stage: Stage, network: IpAddr) -> Option<Part> {
        let permit = HandshakePermit::take(stage, network).ok()?;
        Some(Box::pin(permit.run(pending())))
    }

    fn many(stage: Stage, network: IpAddr, count: usize) -> Vec<Part> {
        let taken = (0..count).map(|_| take(stage, network));
        taken.collect::<Option<_>>().expect("there is room")
    }

    fn is_lost(part: &mut Part) -> bool {
        part.now_or_never().is_some()
    }

    #[tokio::test(start_paused = true)]
    async fn at_the_limit_a_flood_displaces_its_own_oldest_and_no_one_else() {
        for stage in BOTH {
            let mut honest = many(stage, honest(1), 1);
            let mut flood = many(stage, FLOOD, limits::MAX_HANDSHAKES - 1);
            for _ in 0..2 * limits::MAX_HANDSHAKES {
                advance(limits::LEAST_HANDSHAKE).await;
                flood.extend(many(stage, FLOOD, 1));
                assert!(is_lost(&mut flood.remove(0)), "the oldest");
            }
            assert!(!is_lost(&mut honest[0]), "{stage:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_newcomer_gets_the_permit_of_the_oldest_of_a_flood_at_once() {
        for stage in BOTH {
            let mut flood = many(stage, FLOOD, limits::MAX_HANDSHAKES);
            let mut newcomer = take(stage, honest(1)).expect("it has fewer");
            assert!(!is_lost(&mut newcomer));
            let lost: Vec<_> = flood.iter_mut().map(is_lost).collect();
            assert_eq!(lost.iter().filter(|lost| **lost).count(), 1);
            assert!(lost[0], "the oldest");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_begun_handshakes_of_a_network_have_a_round_trip_and_the_silent_ones_have_none() {
        let mut silent = many(Stage::Silent, FLOOD, limits::MAX_HANDSHAKES);
        assert!(take(Stage::Silent, FLOOD).is_some());
        assert!(is_lost(&mut silent[0]));

        let mut begun = many(Stage::Begun, FLOOD, limits::MAX_HANDSHAKES);
        assert!(take(Stage::Begun, FLOOD).is_none(), "all are young");
        assert!(!begun.iter_mut().any(is_lost));
        advance(limits::LEAST_HANDSHAKE).await;
        assert!(take(Stage::Begun, FLOOD).is_some());
        assert!(is_lost(&mut begun[0]));
    }

    #[tokio::test(start_paused = true)]
    async fn connections_without_a_byte_do_not_count_against_those_that_sent_one() {
        let mut begun = many(Stage::Begun, honest(1), limits::MAX_HANDSHAKES);
        let _silent = many(Stage::Silent, FLOOD, limits::MAX_HANDSHAKES);
        assert!(take(Stage::Silent, FLOOD).is_some());
        assert!(!begun.iter_mut().any(is_lost));
    }

    #[tokio::test]
    async fn the_permits_of_handshakes_that_have_ended_are_free() {
        for stage in BOTH {
            drop(many(stage, FLOOD, limits::MAX_HANDSHAKES));
            drop(many(stage, honest(1), limits::MAX_HANDSHAKES));
            let permit = HandshakePermit::take(stage, FLOOD).expect("there is room");
            permit.run(async { Ok(()) }).await.expect("it is complete");
            stage.with(|running| assert!(running.count == 0 && running.networks.is_empty()));
        }
    }
}
