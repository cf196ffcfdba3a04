//! [`Schedule`]: what a seed makes of a run: the replicas, the clients, and the faults with their times.

use std::{fmt, io, time::Duration};

use tonic::Code;

use crate::{edge, fake::Character, network::Conditions, replica::Kind, service::Health};

/// The time in which faults begin.
pub const FAULTY: Duration = Duration::from_mins(1);

/// What happens in a run.
#[derive(Debug, Clone)]
pub struct Schedule {
    /// What each replica is at first.
    pub replicas: Vec<Kind>,
    /// The workers of each client process, and the calls a second of a worker.
    pub clients: Vec<(usize, f64)>,
    /// What happens, and when.
    pub faults: Vec<Fault>,
    /// The visits of HTTP clients at the edge a second.
    pub visits: f64,
    /// Whether nothing happens but that some replicas are bad from begin to end: at most half of them.
    pub is_steady: bool,
    /// The limits of the edge.
    pub edge: edge::Limits,
    /// Whether the replicas have IPv6 addresses, and their name also IPv4 ones at which nobody listens.
    pub has_dead_family: bool,
}

/// A fault, or what an operator does.
#[derive(Debug, Clone)]
pub struct Fault {
    /// When it begins.
    pub at: Duration,
    /// How long it lasts.
    pub lasts: Duration,
    /// What it is.
    pub what: What,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (at, lasts) = (self.at, self.lasts);
        write!(f, "at {at:?} for {lasts:?}: {:?}", self.what)
    }
}

/// What can happen. Replicas and clients are numbers.
#[derive(Debug, Clone)]
pub enum What {
    /// The ways to a replica get slower, narrower or cut packets.
    Conditions(usize, Conditions),
    /// Nothing passes to a replica, from it, or both.
    Block(usize, bool, bool),
    /// Its connections break.
    Reset(usize, io::ErrorKind),
    /// Its host is gone without a word.
    Vanish(usize),
    /// Its process is killed.
    Kill(usize),
    /// It drains and starts again, on another address or not.
    Roll(usize, bool),
    /// Its handlers are slow, fail or hang.
    Health(usize, Health),
    /// The handlers of all replicas fail, and say when to come back.
    Overload(Code, Duration),
    /// The name of the service can't be looked up.
    NameFails,
    /// A look-up never ends.
    NameHangs,
    /// The name has no address.
    NameEmpty,
    /// The name lacks some of its addresses, again and again.
    NameFlaps(usize),
    /// The name has an address at which nobody listens.
    NameHasStranger,
    /// The name has moved to addresses at which nobody listens yet.
    NameMoves,
    /// A client makes many calls at once.
    Burst(usize, u32),
    /// The ways to the edge get slower, narrower or cut packets.
    EdgeConditions(Conditions),
    /// The connections to the edge break.
    EdgeReset,
    /// The edge is killed.
    EdgeKill,
    /// The edge drains and starts again.
    EdgeRoll,
    /// The clock of the day steps by so many seconds.
    ClockSteps(i64),
    /// A stranger fills the places of a replica.
    Hog(usize, u32),
    /// A stranger far away makes so many calls to a replica within a second, and gives each up soon.
    Impatience(usize, u32),
}

impl What {
    /// A name for statistics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Conditions(..) => "conditions",
            Self::Block(_, true, true) => "partition",
            Self::Block(..) => "partition one way",
            Self::Reset(..) => "reset",
            Self::Vanish(_) => "vanish",
            Self::Kill(_) => "kill",
            Self::Roll(_, true) => "roll to another address",
            Self::Roll(_, false) => "roll",
            Self::Health(_, health) if health.hangs => "handlers hang",
            Self::Health(_, health) if health.fails.1.is_some() => "handlers fail",
            Self::Health(..) => "handlers slow",
            Self::Overload(..) => "overload",
            Self::NameFails => "name fails",
            Self::NameHangs => "name hangs",
            Self::NameEmpty => "name empty",
            Self::NameFlaps(_) => "name flaps",
            Self::NameHasStranger => "name has a stranger",
            Self::NameMoves => "name moves",
            Self::Burst(..) => "burst",
            Self::EdgeConditions(_) => "edge conditions",
            Self::EdgeReset => "edge reset",
            Self::EdgeKill => "edge kill",
            Self::EdgeRoll => "edge roll",
            Self::ClockSteps(_) => "clock steps",
            Self::Hog(..) => "hog",
            Self::Impatience(..) => "impatience",
        }
    }
}

fn millis(random: &mut fastrand::Rng, range: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(random.u64(range))
}

fn conditions(random: &mut fastrand::Rng) -> Conditions {
    Conditions {
        latency: millis(random, 0..200),
        jitter: millis(random, 0..100),
        bandwidth: random.u64(20_000..10_000_000),
        cuts: random.bool(),
    }
}

fn ours(random: &mut fastrand::Rng) -> Kind {
    Kind::Ours {
        max_in_flight: if random.u8(..3) == 0 {
            random.usize(8..64)
        } else {
            2_048
        },
        drain_delay: millis(random, 0..2_000),
    }
}

impl Schedule {
    /// The schedule of a seed.
    pub fn draw(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let count = random.usize(2..=5);
        let is_steady = random.u8(..4) == 0;
        let most_fakes = if is_steady { count / 2 } else { count - 1 };
        let mut fakes = match random.u8(..8) {
            0 if !is_steady => count,
            _ => random.usize(..=most_fakes),
        };
        if is_steady {
            fakes = fakes.max(1);
        }
        let mut replicas: Vec<_> = (0..count).map(|_| ours(&mut random)).collect();
        for replica in &mut replicas[..fakes] {
            *replica = Kind::Fake(if is_steady && random.bool() {
                Character::draw_faulty(&mut random)
            } else {
                Character::draw(&mut random)
            });
        }
        random.shuffle(&mut replicas);
        let clients = (0..random.usize(1..=2)).map(|_| {
            let rate = 10.0 + 5.0 * random.f64();
            let most = if is_steady { 4 } else { 2 };
            (random.usize(1..=most), rate)
        });
        let clients: Vec<_> = clients.collect();
        let faults = if is_steady { 0 } else { random.usize(1..12) };
        let mut faults: Vec<_> = (0..faults)
            .map(|_| Fault::draw(&mut random, count, clients.len()))
            .collect();
        faults.sort_by_key(|fault| fault.at);
        Self {
            edge: edge::Limits::draw(&mut random),
            has_dead_family: random.u8(..5) == 0,
            replicas,
            clients,
            faults,
            visits: 4.0 * random.f64(),
            is_steady,
        }
    }
}

impl Fault {
    fn draw(random: &mut fastrand::Rng, replicas: usize, clients: usize) -> Self {
        let replica = random.usize(..replicas);
        let what = match random.u8(..27) {
            0 | 1 => What::Conditions(replica, conditions(random)),
            2 => What::Block(replica, true, true),
            3 => {
                let there = random.bool();
                What::Block(replica, there, !there)
            }
            4 => {
                let errors = [
                    io::ErrorKind::ConnectionReset,
                    io::ErrorKind::TimedOut,
                    io::ErrorKind::BrokenPipe,
                ];
                What::Reset(replica, errors[random.usize(..errors.len())])
            }
            5 => What::Vanish(replica),
            6 => What::Kill(replica),
            7 | 8 => What::Roll(replica, random.bool()),
            9..12 => {
                let mut health = Health::default();
                match random.u8(..3) {
                    0 => health.slow = millis(random, 1..3_000),
                    1 => {
                        let code = Code::from(random.i32(1..17));
                        health.fails = (random.f64().max(0.05), Some(code));
                    }
                    _ => health.hangs = true,
                }
                What::Health(replica, health)
            }
            12 => What::NameFails,
            13 => What::NameHangs,
            14 => What::NameEmpty,
            15 if random.bool() => What::NameFlaps(replica),
            15 => What::NameHasStranger,
            22 => What::NameMoves,
            23 => What::Impatience(replica, random.u32(500..4_000)),
            25 => {
                let code = if random.bool() {
                    Code::Unavailable
                } else {
                    Code::ResourceExhausted
                };
                What::Overload(code, millis(random, 0..20_000))
            }
            16 => What::Burst(random.usize(..clients), random.u32(50..500)),
            18 => What::EdgeConditions(conditions(random)),
            19 => What::EdgeReset,
            20 => What::EdgeKill,
            21 | 24 => What::EdgeRoll,
            17 => What::ClockSteps(random.i64(-10_000..10_000)),
            _ => What::Hog(replica, random.u32(10..200)),
        };
        Self {
            at: millis(random, 0..55_000),
            lasts: match random.u8(..3) {
                0 => millis(random, 10..1_000),
                1 => millis(random, 1_000..5_000),
                _ => millis(random, 5_000..25_000),
            },
            what,
        }
    }
}
