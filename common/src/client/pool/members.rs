//! [`Members`]: the replicas of a service by state, and the pick of one for an attempt.
//!
//! The pick takes one of two random replicas: the first, unless the second costs far less ("power
//! of two choices"). So callers do not all turn to the same best replica. Replicas that are late or
//! resting get calls only while no replica is up. An ejected replica gets single calls as trials.

use std::{net::SocketAddr, sync::Arc};

use tokio::time::Instant;
use tracing::{info, warn};

use super::state::{Event, Health, State};
use crate::metrics::CountedReplica;

/// The second of two replicas is preferred if the first costs this many times as much. A smaller
/// factor would rank equal replicas by noise, or by a single call in flight, and make their shares
/// uneven.
const FAR_LESS: f64 = 2.5;

/// A replica, as the pick sees it.
pub(in crate::client) trait Candidate: Send + Sync {
    /// The cost of one more call, in seconds.
    fn cost(&self) -> f64;
}

#[derive(Debug)]
struct Member<R> {
    counted: CountedReplica,
    health: Health,
    connected: Option<Arc<R>>,
}

/// The replicas of a service, and those of them that can be picked.
#[derive(Debug)]
pub(super) struct Members<R> {
    all: Vec<Member<R>>,
    up: Vec<Arc<R>>,
    /// The replicas that are late or resting.
    aside: Vec<Arc<R>>,
    /// Whether a replica rests or is ejected: states that end with time.
    has_timers: bool,
}

impl<R> Default for Members<R> {
    fn default() -> Self {
        Self {
            all: Vec::new(),
            up: Vec::new(),
            aside: Vec::new(),
            has_timers: false,
        }
    }
}

impl<R: Candidate> Members<R> {
    /// Adds a replica that is not connected yet.
    pub(super) fn join(&mut self, counted: CountedReplica) {
        self.all.push(Member {
            counted,
            health: Health::new(),
            connected: None,
        });
    }

    pub(super) fn leave(&mut self, address: SocketAddr) {
        self.all.retain(|member| member.counted.address != address);
        self.sort();
        self.pardon(Instant::now());
    }

    /// Whether `replica` is the one that is connected at this address.
    pub(super) fn is_connected_as(&mut self, address: SocketAddr, replica: &R) -> bool {
        let connected = self.find(address).and_then(|it| it.connected.as_deref());
        connected.is_some_and(|connected| std::ptr::eq(connected, replica))
    }

    pub(super) fn is_any_connected(&self) -> bool {
        self.all.iter().any(|member| member.connected.is_some())
    }

    pub(super) fn is_unreachable(&mut self, address: SocketAddr) -> bool {
        let member = self.find(address);
        member.is_some_and(|member| member.health.state() == State::Unreachable)
    }

    /// Whether a replica other than this one is up.
    pub(super) fn has_other(&self, replica: &Arc<R>) -> bool {
        self.up.iter().any(|up| !Arc::ptr_eq(up, replica))
    }

    #[cfg(test)]
    pub(super) fn count_up(&self) -> usize {
        self.up.len()
    }

    /// Picks the replica for the next attempt, if possible none of those that were `tried`.
    pub(super) fn pick(&mut self, tried: &[Arc<R>]) -> Option<Arc<R>> {
        if self.has_timers
            && let Some(trial) = self.end_rests(Instant::now(), tried)
        {
            return Some(trial);
        }
        self.cheapest(tried)
    }

    /// Picks a replica that is up and was not `tried`.
    pub(super) fn pick_other(&self, tried: &[Arc<R>]) -> Option<Arc<R>> {
        cheapest_of(&self.up, tried)
    }

    fn find(&mut self, address: SocketAddr) -> Option<&mut Member<R>> {
        let mut all = self.all.iter_mut();
        all.find(|member| member.counted.address == address)
    }

    /// Marks the replica at this address as connected.
    pub(super) fn connect(&mut self, address: SocketAddr, replica: Arc<R>, now: Instant) {
        if let Some(member) = self.find(address) {
            member.connected = Some(replica);
        }
        self.apply(address, Event::Connected, now);
    }

    /// Applies an event to the replica at this address. Returns whether its state has changed.
    pub(super) fn apply(&mut self, address: SocketAddr, event: Event, now: Instant) -> bool {
        let is_last = !self
            .all
            .iter()
            .any(|member| member.counted.address != address && member.health.state() == State::Up);
        let Some(member) = self.find(address) else {
            return false;
        };
        let before = member.health.state();
        member.apply(event, now, is_last);
        let after = member.health.state();
        let is_changed = before.name() != after.name();
        if is_changed {
            report(address, before, after);
            self.sort();
            self.pardon(now);
        }
        is_changed
    }

    /// Ends all ejections when no other replica is left.
    fn pardon(&mut self, now: Instant) {
        let is_ejected = |state| matches!(state, State::Ejected { .. });
        let mut states = self.all.iter().map(|member| member.health.state());
        if states.any(|state| state.is_connected() && !is_ejected(state)) {
            return;
        }
        for member in &mut self.all {
            member.apply(Event::Pardoned, now, true);
        }
        self.sort();
    }

    /// Ends the rests that are over. Returns an ejected replica that is due for a trial, if any.
    fn end_rests(&mut self, now: Instant, tried: &[Arc<R>]) -> Option<Arc<R>> {
        let mut trial = None;
        let mut is_changed = false;
        for member in &mut self.all {
            match member.health.state() {
                State::Resting { until } if until <= now => {
                    member.apply(Event::TimePassed, now, false);
                    is_changed = true;
                }
                // A call that has failed once does not risk a trial.
                State::Ejected { next_trial }
                    if next_trial <= now && tried.is_empty() && trial.is_none() =>
                {
                    member.apply(Event::Tried, now, false);
                    trial.clone_from(&member.connected);
                }
                _ => {}
            }
        }
        if is_changed {
            self.sort();
        }
        trial
    }

    /// Sorts the replicas that can be picked by state.
    fn sort(&mut self) {
        let connected = |is_it: fn(State) -> bool| {
            let members = self.all.iter();
            let members = members.filter(move |member| is_it(member.health.state()));
            members.filter_map(|member| member.connected.clone())
        };
        self.up = connected(|state| state == State::Up).collect();
        self.aside =
            connected(|state| matches!(state, State::Late | State::Resting { .. })).collect();
        self.has_timers = self.all.iter().any(|member| {
            let state = member.health.state();
            matches!(state, State::Resting { .. } | State::Ejected { .. })
        });
    }

    fn cheapest(&self, tried: &[Arc<R>]) -> Option<Arc<R>> {
        let best = if self.up.is_empty() {
            &self.aside
        } else {
            &self.up
        };
        if tried.is_empty() {
            return match &best[..] {
                [] => None,
                [only] => Some(only.clone()),
                several => Some(cheaper_of_two(several)),
            };
        }
        cheapest_of(&self.up, tried)
            .or_else(|| cheapest_of(&self.aside, tried))
            .or_else(|| cheapest_of(best, &[]))
    }
}

impl<R> Member<R> {
    fn apply(&mut self, event: Event, now: Instant, is_last: bool) {
        self.health.apply(event, now, is_last);
        if !self.health.state().is_connected() {
            self.connected = None;
        }
        self.counted.replica.set_state(self.health.state().name());
    }
}

/// Picks one of two random replicas. `replicas` has at least two.
fn cheaper_of_two<R: Candidate>(replicas: &[Arc<R>]) -> Arc<R> {
    let one = fastrand::usize(..replicas.len());
    let other = fastrand::usize(..replicas.len() - 1);
    let other = other + usize::from(other >= one);
    let (one, other) = (&replicas[one], &replicas[other]);
    let prefer_other = other.cost() * FAR_LESS < one.cost();
    if prefer_other { other } else { one }.clone()
}

/// The cheapest replica that was not tried. Retries and hedges are too few to overload it.
fn cheapest_of<R: Candidate>(replicas: &[Arc<R>], tried: &[Arc<R>]) -> Option<Arc<R>> {
    let is_new = |replica: &&Arc<R>| !tried.iter().any(|one| Arc::ptr_eq(one, replica));
    let by_cost = |one: &&Arc<R>, other: &&Arc<R>| one.cost().total_cmp(&other.cost());
    replicas.iter().filter(is_new).min_by(by_cost).cloned()
}

fn report(address: SocketAddr, before: State, after: State) {
    match (before, after) {
        (_, State::Ejected { .. }) => warn!(
            action = "replica", status = "ejected", replica = %address,
            "a replica fails; single calls try it from now on"
        ),
        (State::Ejected { .. }, State::Up) => info!(
            action = "replica", status = "up", replica = %address,
            "a replica gets calls again"
        ),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, time::Duration};

    use proptest::{collection::vec, prelude::*};

    use super::*;

    #[derive(Debug)]
    struct Fake(f64);

    impl Candidate for Fake {
        fn cost(&self) -> f64 {
            self.0
        }
    }

    fn address(number: usize) -> SocketAddr {
        ([127, 0, 0, 1], u16::try_from(number).unwrap()).into()
    }

    /// Replicas that are up, with these costs.
    fn members(costs: &[f64]) -> Members<Fake> {
        let mut members = Members::default();
        for (number, cost) in costs.iter().enumerate() {
            members.join(CountedReplica::new(address(number)));
            connect(&mut members, number, *cost);
        }
        members
    }

    fn connect(members: &mut Members<Fake>, number: usize, cost: f64) {
        members.connect(address(number), Arc::new(Fake(cost)), Instant::now());
    }

    fn apply(members: &mut Members<Fake>, number: usize, event: Event) {
        members.apply(address(number), event, Instant::now());
    }

    fn fail(members: &mut Members<Fake>, number: usize) {
        for _ in 0..7 {
            apply(members, number, Event::Failed);
        }
    }

    /// How often each cost was picked in 3,000 picks.
    fn picks(members: &mut Members<Fake>) -> HashMap<String, usize> {
        let mut picks = HashMap::new();
        for _ in 0..3_000 {
            let pick = members.pick(&[]).unwrap();
            *picks.entry(pick.0.to_string()).or_default() += 1;
        }
        picks
    }

    #[test]
    fn the_cheaper_of_two_is_picked_and_the_most_expensive_never() {
        let picks = picks(&mut members(&[1.0, 3.0, 9.0]));
        assert!((1_850..2_150).contains(&picks["1"]), "{picks:?}");
        assert!((850..1_150).contains(&picks["3"]), "{picks:?}");
        assert!(!picks.contains_key("9"));
    }

    #[test]
    fn replicas_that_cost_about_the_same_get_even_shares() {
        let picks = picks(&mut members(&[1.0, 1.5, 1.9]));
        let is_even = picks.values().all(|picks| (850..1_150).contains(picks));
        assert!(picks.len() == 3 && is_even, "{picks:?}");
    }

    #[test]
    fn a_replica_without_a_connection_is_not_picked() {
        let mut members = members(&[1.0, 9.0]);
        apply(&mut members, 0, Event::Closed);
        assert_eq!(picks(&mut members)["9"], 3_000);
        apply(&mut members, 1, Event::Closed);
        assert!(members.pick(&[]).is_none());
        assert!(!members.is_any_connected());
    }

    #[test]
    fn late_and_resting_replicas_get_calls_only_while_no_other_is_up() {
        for aside in [Event::Asked, Event::PushedBack(Duration::from_secs(1))] {
            let mut members = members(&[1.0, 9.0]);
            apply(&mut members, 0, aside);
            assert_eq!(picks(&mut members)["9"], 3_000);
            assert_eq!(members.count_up(), 1);
            apply(&mut members, 1, Event::Closed);
            assert_eq!(picks(&mut members)["1"], 3_000);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_ejected_replica_gets_single_calls_until_one_succeeds() {
        let mut members = members(&[1.0, 9.0]);
        fail(&mut members, 0);
        assert_eq!(picks(&mut members)["9"], 3_000, "no trial is due");
        tokio::time::advance(Duration::from_millis(1_300)).await;
        let failed_before = members.pick_other(&[]).unwrap();
        assert!((members.pick(&[failed_before]).unwrap().0 - 9.0).abs() < 0.1);
        assert_eq!(picks(&mut members)["1"], 1);
        apply(&mut members, 0, Event::Succeeded);
        assert!(picks(&mut members)["1"] > 1_000);
    }

    #[test]
    fn the_last_replica_is_not_ejected_and_the_ejected_are_pardoned_when_it_goes() {
        let goes: [fn(&mut Members<Fake>); 2] = [
            |members| apply(members, 1, Event::Closed),
            |members| members.leave(address(1)),
        ];
        for goes in goes {
            let mut members = members(&[1.0, 9.0]);
            fail(&mut members, 0);
            fail(&mut members, 1);
            assert_eq!(picks(&mut members)["9"], 3_000);
            goes(&mut members);
            assert_eq!(picks(&mut members)["1"], 3_000);
        }
    }

    #[test]
    fn a_second_attempt_goes_to_another_replica_if_there_is_one() {
        let mut members = members(&[1.0, 9.0]);
        let first = members.pick_other(&[]).unwrap();
        let second = members.pick(std::slice::from_ref(&first)).unwrap();
        assert!((second.0 - 9.0).abs() < 0.1);
        let third = members.pick(&[first.clone(), second.clone()]).unwrap();
        assert!((third.0 - 1.0).abs() < 0.1);
        assert!(members.pick_other(&[first, second]).is_none());
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            1 => Just(Event::Connected),
            1 => Just(Event::ConnectFailed),
            1 => Just(Event::Closed),
            1 => Just(Event::Asked),
            1 => Just(Event::Responded),
            1 => Just(Event::Succeeded),
            8 => Just(Event::Failed),
            1 => (0..60_u64).prop_map(|seconds| Event::PushedBack(Duration::from_secs(seconds))),
        ]
    }

    proptest! {
        /// Whatever happens, a call finds a replica while one is connected, and a connected one is
        /// not ejected. Once all is well again, each replica is up within two minutes.
        #[test]
        fn no_replica_gets_stuck_and_they_are_never_all_ejected(
            events in vec((0..4_usize, event(), 0..20_u64), 0..200),
        ) {
            let mut members = Members::default();
            for number in 0..4 {
                members.join(CountedReplica::new(address(number)));
            }
            let mut now = Instant::now();
            for (number, event, seconds) in events {
                now += Duration::from_secs(seconds);
                match event {
                    Event::Connected => {
                        members.connect(address(number), Arc::new(Fake(1.0)), now);
                    }
                    event => {
                        members.apply(address(number), event, now);
                    }
                }
                members.end_rests(now, &[]);
                let mut states = members.all.iter().map(|member| member.health.state());
                let is_available =
                    |state: State| state.is_connected() && !matches!(state, State::Ejected { .. });
                prop_assert_eq!(members.is_any_connected(), states.any(is_available));
                prop_assert_eq!(members.is_any_connected(), members.cheapest(&[]).is_some());
            }
            for number in 0..4 {
                members.apply(address(number), Event::Closed, now);
                members.connect(address(number), Arc::new(Fake(1.0)), now);
            }
            let well = now + Duration::from_mins(2);
            while now < well {
                now += Duration::from_secs(1);
                if let Some(trial) = members.end_rests(now, &[]) {
                    let on_trial = (0..4).find(|number| {
                        members.is_connected_as(address(*number), &trial)
                    });
                    let on_trial = on_trial.expect("a trial is of a replica that is connected");
                    members.apply(address(on_trial), Event::Succeeded, now);
                }
            }
            prop_assert_eq!(members.up.len(), 4);
        }
    }
}
