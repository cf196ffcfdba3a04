//! [`Character`]: what one fake replica does.

use fastrand::Rng;

use super::manner::{Kind, Manner};

/// What one fake replica does, drawn from a seed.
#[derive(Debug, Clone)]
pub struct Character {
    calls: Shares,
    health: Shares,
    connections: Shares,
}

impl Character {
    /// Draws a character: which manners it has, each with its share of the calls.
    pub fn draw(random: &mut Rng) -> Self {
        let calls = match random.u8(..10) {
            0 => Shares::of(Manner::Good),
            1..4 => Shares::faulty(random, Manner::always_fails),
            _ => Shares::mixed(Manner::Good, random),
        };
        let health = match random.u8(..10) {
            0..7 => Shares::of(Manner::Serving),
            _ => Shares::mixed(Manner::Serving, random),
        };
        let connections = match random.u8(..10) {
            0..3 => Shares::of(Manner::Plain),
            _ => Shares::mixed(Manner::Plain, random),
        };
        Self {
            calls,
            health,
            connections,
        }
    }

    /// Draws a character with which all calls fail, and nothing else is wrong.
    pub fn draw_faulty(random: &mut Rng) -> Self {
        Self {
            calls: match random.u8(..4) {
                0 => Shares::of(Manner::Hang),
                _ => Shares::faulty(random, Manner::shows_fault),
            },
            health: Shares::of(Manner::Serving),
            connections: Shares::of(Manner::Plain),
        }
    }

    /// A character with exactly this manner, for each call, health check or connection that it is
    /// about.
    pub fn always(manner: Manner) -> Self {
        let of = |kind, usual| Shares::of(if manner.kind() == kind { manner } else { usual });
        Self {
            calls: of(Kind::Call, Manner::Good),
            health: of(Kind::Health, Manner::Serving),
            connections: of(Kind::Connection, Manner::Plain),
        }
    }

    /// Whether every call to it fails.
    pub fn is_wholly_faulty(&self) -> bool {
        self.calls.always_fail() || self.connections.always_fail()
    }

    /// Whether every call to it fails, on connections that are well, so that a client sees that it is bad.
    pub fn shows_its_faults(&self) -> bool {
        let mut calls = self.calls.0.iter();
        self.has_plain_connections() && calls.all(|(manner, _)| manner.shows_fault())
    }

    /// Whether some calls to it get no response.
    pub fn hangs(&self) -> bool {
        self.calls
            .0
            .iter()
            .any(|(manner, _)| *manner == Manner::Hang)
    }

    /// Whether its connections have nothing unusual, and no call makes one mute: of further calls nothing
    /// would be seen.
    pub fn has_plain_connections(&self) -> bool {
        let is_plain = |(manner, _): &(Manner, u32)| *manner == Manner::Plain;
        let mutes = |(manner, _): &(Manner, u32)| manner.name().contains("Mute");
        self.connections.0.iter().all(is_plain) && !self.calls.0.iter().any(mutes)
    }

    /// The manner of the next call, health check or connection.
    pub(super) fn next(&self, kind: Kind, random: &mut Rng) -> Manner {
        let shares = match kind {
            Kind::Call => &self.calls,
            Kind::Health => &self.health,
            Kind::Connection => &self.connections,
        };
        shares.pick(random)
    }
}

/// Manners, each with its weight.
#[derive(Debug, Clone)]
struct Shares(Vec<(Manner, u32)>);

impl Shares {
    fn of(manner: Manner) -> Self {
        Self(vec![(manner, 1)])
    }

    /// One to three manners with which all calls fail.
    fn faulty(random: &mut Rng, fails: fn(Manner) -> bool) -> Self {
        let fails = |manner: &Manner| manner.kind() == Kind::Call && fails(*manner);
        let manners: Vec<_> = Manner::ALL.iter().copied().filter(fails).collect();
        let count = random.usize(1..=3);
        let draw = |_| (manners[random.usize(..manners.len())], random.u32(1..=10));
        Self((0..count).map(draw).collect())
    }

    /// The usual manner, and two to six others of its kind.
    fn mixed(usual: Manner, random: &mut Rng) -> Self {
        let is_other = |manner: &Manner| manner.kind() == usual.kind() && *manner != usual;
        let manners: Vec<_> = Manner::ALL.iter().copied().filter(is_other).collect();
        let count = random.usize(2..=6);
        let draw = |_| (manners[random.usize(..manners.len())], random.u32(1..=10));
        let mut shares: Vec<_> = (0..count).map(draw).collect();
        shares.push((usual, random.u32(1..=40)));
        Self(shares)
    }

    fn always_fail(&self) -> bool {
        self.0.iter().all(|(manner, _)| manner.always_fails())
    }

    fn pick(&self, random: &mut Rng) -> Manner {
        let mut place = random.u32(..self.0.iter().map(|(_, weight)| weight).sum::<u32>());
        for (manner, weight) in &self.0 {
            if place < *weight {
                return *manner;
            }
            place -= weight;
        }
        unreachable!("the place is lower than the sum")
    }
}
