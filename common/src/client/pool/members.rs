//! [`Members`]: the replicas of a service by state, and which of them a call goes to.
//!
//! Of two replicas picked at random the one that would cost far less is taken ("power of two
//! choices"), so that callers do not all run for the same best one. Calls go to replicas that are
//! late or resting only where no other is up. An ejected replica gets a single call now and then.

use std::{net::SocketAddr, sync::Arc};

use tokio::time::Instant;
use tracing::{info, warn};

use super::state::{Event, Health, State};
use crate::metrics::CountedReplica;

/// A replica is preferred to another only if that one costs this many times as much. With less,
/// replicas that are as good as each other would be ranked by noise, or by whether one call or
/// none is in flight, and get uneven shares.
const FAR_LESS: f64 = 2.5;

/// Something to choose by what a call on it costs, in seconds.
pub(in crate::client) trait Candidate: Send + Sync {
    fn cost(&self) -> f64;
}

#[derive(Debug)]
struct Member<R> {
    counted: CountedReplica,
    health: Health,
    connected: Option<Arc<R>>,
}

/// The replicas, and those of them that can be picked, by state.
#[derive(Debug)]
pub(super) struct Members<R> {
    all: Vec<Member<R>>,
    up: Vec<Arc<R>>,
    /// Late or resting.
    aside: Vec<Arc<R>>,
    /// Whether a replica rests or is ejected, which ends with time.
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

    /// Whether `replica` is what is connected at this address.
    pub(super) fn is_connected_as(&mut self, address: SocketAddr, replica: &R) -> bool {
        let connected = self
            .find(address)
            .and_then(|member| member.connected.as_ref());
        connected.is_some_and(|connected| std::ptr::eq(Arc::as_ptr(connected), replica))
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

    /// The replica for the next attempt, another than those that were `tried` if there is one.
    pub(super) fn pick(&mut self, tried: &[Arc<R>]) -> Option<Arc<R>> {
        if self.has_timers
            && let Some(trial) = self.settle(Instant::now(), tried)
        {
            return Some(trial);
        }
        self.cheapest(tried)
    }

    /// A replica that is up and none of those that were `tried`.
    pub(super) fn pick_other(&self, tried: &[Arc<R>]) -> Option<Arc<R>> {
        cheapest_of(&self.up, tried)
    }

    fn find(&mut self, address: SocketAddr) -> Option<&mut Member<R>> {
        let mut all = self.all.iter_mut();
        all.find(|member| member.counted.address == address)
    }

    /// Something happened to the replica at this address. Returns whether that changed its state.
    pub(super) fn change(
        &mut self,
        address: SocketAddr,
        event: Event,
        connected: Option<Arc<R>>,
        now: Instant,
    ) -> bool {
        let is_last = !self
            .all
            .iter()
            .any(|member| member.counted.address != address && member.health.state() == State::Up);
        let Some(member) = self.find(address) else {
            return false;
        };
        if connected.is_some() {
            member.connected = connected;
        }
        let before = member.health.state();
        member.on(event, now, is_last);
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
        let is_other = |state: State| state.is_connected() && !is_ejected(state);
        if self
            .all
            .iter()
            .any(|member| is_other(member.health.state()))
        {
            return;
        }
        for member in &mut self.all {
            member.on(Event::Pardoned, now, true);
        }
        self.sort();
    }

    /// Ends the rest of replicas whose time has come. Returns an ejected replica that is to be
    /// tried.
    fn settle(&mut self, now: Instant, tried: &[Arc<R>]) -> Option<Arc<R>> {
        let mut trial = None;
        let mut is_changed = false;
        for member in &mut self.all {
            match member.health.state() {
                State::Resting { until } if until <= now => {
                    member.on(Event::TimePassed, now, false);
                    is_changed = true;
                }
                // A call that has failed once is not put at risk again.
                State::Ejected { next_trial }
                    if next_trial <= now && tried.is_empty() && trial.is_none() =>
                {
                    member.on(Event::Tried, now, false);
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

    /// Fills the lists of those that can be picked.
    fn sort(&mut self) {
        let with = |is_it: fn(State) -> bool| {
            let members = self.all.iter();
            let members = members.filter(move |member| is_it(member.health.state()));
            members.filter_map(|member| member.connected.clone())
        };
        self.up = with(|state| state == State::Up).collect();
        self.aside = with(|state| matches!(state, State::Late | State::Resting { .. })).collect();
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
    fn on(&mut self, event: Event, now: Instant, is_last: bool) {
        self.health.on(event, now, is_last);
        if !self.health.state().is_connected() {
            self.connected = None;
        }
        self.counted.replica.set_state(self.health.state().name());
    }
}

/// One of two replicas picked at random, of at least two.
fn cheaper_of_two<R: Candidate>(replicas: &[Arc<R>]) -> Arc<R> {
    let one = fastrand::usize(..replicas.len());
    let other = fastrand::usize(..replicas.len() - 1);
    let other = other + usize::from(other >= one);
    let (one, other) = (&replicas[one], &replicas[other]);
    let prefer_other = other.cost() * FAR_LESS < one.cost();
    if prefer_other { other } else { one }.clone()
}

/// The cheapest replica that was not tried. Second attempts are few, so they do not crowd it.
fn cheapest_of<R: Candidate>(replicas: &[Arc<R>], tried: &[Arc<R>]) -> Option<Arc<R>> {
    let is_new = |replica: &&Arc<R>| !tried.iter().any(|one| Arc::ptr_eq(one, replica));
    let by_cost = |one: &&Arc<R>, other: &&Arc<R>| one.cost().total_cmp(&other.cost());
    replicas.iter().filter(is_new).min_by(by_cost).cloned()
}

fn report(address: SocketAddr, before: State, after: State) {
    match (before, after) {
        (_, State::Ejected { .. }) => warn!(
            action = "replica",
            status = "ejected",
            replica = %address,
            "a replica fails; single calls try it from now on"
        ),
        (State::Ejected { .. }, State::Up) => info!(
            action = "replica",
            status = "up",
            replica = %address,
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
        let replica = Arc::new(Fake(cost));
        let now = Instant::now();
        members.change(address(number), Event::Connected, Some(replica), now);
    }

    fn tell(members: &mut Members<Fake>, number: usize, event: Event) {
        members.change(address(number), event, None, Instant::now());
    }

    fn fail(members: &mut Members<Fake>, number: usize) {
        for _ in 0..7 {
            tell(members, number, Event::Failed);
        }
    }

    /// How often each cost was picked of 3,000 times.
    fn picks(members: &mut Members<Fake>) -> HashMap<String, usize> {
        let mut picks = HashMap::new();
        for _ in 0..3_000 {
            let pick = members.pick(&[]).unwrap();
            *picks.entry(pick.0.to_string()).or_default() += 1;
        }
        picks
    }

    #[test]
    fn the_cheaper_of_two_is_taken_and_the_dearest_of_all_never() {
        let picks = picks(&mut members(&[1.0, 3.0, 9.0]));
        assert!((1_850..2_150).contains(&picks["1"]), "{picks:?}");
        assert!((850..1_150).contains(&picks["3"]), "{picks:?}");
        assert!(!picks.contains_key("9"));
    }

    #[test]
    fn those_that_cost_about_the_same_get_even_shares() {
        let picks = picks(&mut members(&[1.0, 1.5, 1.9]));
        let is_even = picks.values().all(|picks| (850..1_150).contains(picks));
        assert!(picks.len() == 3 && is_even, "{picks:?}");
    }

    #[test]
    fn a_replica_that_is_closed_is_not_picked() {
        let mut members = members(&[1.0, 9.0]);
        tell(&mut members, 0, Event::Closed);
        assert_eq!(picks(&mut members)["9"], 3_000);
        tell(&mut members, 1, Event::Closed);
        assert!(members.pick(&[]).is_none());
        assert!(!members.is_any_connected());
    }

    #[test]
    fn late_and_resting_replicas_get_calls_only_where_no_other_is_up() {
        for aside in [Event::Asked, Event::PushedBack(Duration::from_secs(1))] {
            let mut members = members(&[1.0, 9.0]);
            tell(&mut members, 0, aside);
            assert_eq!(picks(&mut members)["9"], 3_000);
            assert_eq!(members.count_up(), 1);
            tell(&mut members, 1, Event::Closed);
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
        tell(&mut members, 0, Event::Succeeded);
        assert!(picks(&mut members)["1"] > 1_000);
    }

    #[test]
    fn the_last_replica_is_not_ejected_and_the_ejected_are_pardoned_when_it_goes() {
        let goes: [fn(&mut Members<Fake>); 2] = [
            |members| tell(members, 1, Event::Closed),
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
        /// Whatever happens: a call finds a replica as long as one is connected, and one of those
        /// is not ejected. And once all is well again, each replica is up within two minutes.
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
                let replica = matches!(event, Event::Connected).then(|| Arc::new(Fake(1.0)));
                members.change(address(number), event, replica, now);
                members.settle(now, &[]);
                let mut states = members.all.iter().map(|member| member.health.state());
                let is_available =
                    |state: State| state.is_connected() && !matches!(state, State::Ejected { .. });
                prop_assert_eq!(members.is_any_connected(), states.any(is_available));
                prop_assert_eq!(members.is_any_connected(), members.cheapest(&[]).is_some());
            }
            for number in 0..4 {
                members.change(address(number), Event::Closed, None, now);
                let replica = Some(Arc::new(Fake(1.0)));
                members.change(address(number), Event::Connected, replica, now);
            }
            let well = now + Duration::from_mins(2);
            while now < well {
                now += Duration::from_secs(1);
                if let Some(trial) = members.settle(now, &[]) {
                    let on_trial = (0..4).find(|number| {
                        members.is_connected_as(address(*number), &trial)
                    });
                    let on_trial = on_trial.expect("a trial is of a replica that is connected");
                    members.change(address(on_trial), Event::Succeeded, None, now);
                }
            }
            prop_assert_eq!(members.up.len(), 4);
        }
    }
}
