//! [`ReplicaSet`]: the replicas of a service by state, and the pick of one for an attempt.
//!
//! The pick takes one of two random replicas: the first, unless the second costs far less ("power
//! of two choices"). So callers do not all turn to the same best replica. Cheap calls of one turn of
//! the event loop go together: the last pick is the first of the two while calls to it are still to be
//! sent, so that they share a write and wake the replica once. Replicas that are late or resting get
//! calls only while no replica is up, and ejected ones only while no other is connected. Beside that, an
//! ejected replica gets single calls as trials.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    client::ejection::{
        memory::{Memory, ReplicaRecord},
        state::{Event, State},
    },
    telemetry::metrics::{CountedReplica, ReplicaState},
};

/// The second of two replicas is preferred if the first costs this many times as much. A smaller
/// factor would rank equal replicas by noise, or by a single call in flight, and make their shares
/// uneven.
const FAR_LESS: f64 = 2.5;

/// How much longer a trial waits for an idempotent call before a health check takes it.
const HEALTH_CHECK_AFTER: Duration = Duration::from_secs(1);

/// A replica that was late for this long has been away rather than slow: when it is back, its next
/// trial need not wait.
const AWAY_AFTER: Duration = Duration::from_secs(1);

/// A replica, as the pick sees it.
pub(crate) trait Candidate: Send + Sync {
    /// The cost of one more call, relative to that of a usual replica without calls.
    fn cost(&self) -> f64;

    /// The cost of one more call that goes together with others; `None` if none is about to be sent.
    fn cost_of_joining(&self) -> Option<f64>;
}

#[derive(Debug)]
struct Member<R> {
    counted: CountedReplica,
    record: Arc<ReplicaRecord>,
    state: State,
    /// Since when the replica has been in this state.
    since: Instant,
    connected: Option<Arc<R>>,
}

/// The replicas of a service, and those of them that can be picked.
#[derive(Debug)]
pub(crate) struct ReplicaSet<R> {
    memory: Arc<Memory>,
    /// The changes of the memory that the lists below include.
    seen: u64,
    all: Vec<Member<R>>,
    up: Vec<Arc<R>>,
    /// The replicas that are late or resting.
    standby: Vec<Arc<R>>,
    ejected: Vec<Arc<R>>,
    /// Whether a replica rests: a state that ends with time.
    has_rests: bool,
    /// The place of the last pick in the list that it was picked from.
    last_pick: usize,
}

impl<R: Candidate> ReplicaSet<R> {
    pub(crate) fn new(memory: Arc<Memory>) -> Self {
        Self {
            memory,
            seen: 0,
            all: Vec::new(),
            up: Vec::new(),
            standby: Vec::new(),
            ejected: Vec::new(),
            has_rests: false,
            last_pick: 0,
        }
    }

    /// Adds a replica that is not connected yet.
    pub(crate) fn join(&mut self, counted: CountedReplica, record: Arc<ReplicaRecord>) {
        self.all.push(Member {
            counted,
            record,
            state: State::Connecting,
            since: Instant::now(),
            connected: None,
        });
    }

    /// Removes a replica, which is not connected any more.
    pub(crate) fn leave(&mut self, address: SocketAddr) {
        self.all.retain(|member| member.counted.address != address);
        self.sort();
    }

    /// Whether `replica` is the one that is connected at this address.
    pub(crate) fn is_connected_as(&mut self, address: SocketAddr, replica: &R) -> bool {
        let connected = self.find(address).and_then(|it| it.connected.as_deref());
        connected.is_some_and(|connected| std::ptr::eq(connected, replica))
    }

    pub(crate) fn is_any_connected(&self) -> bool {
        self.all.iter().any(|member| member.connected.is_some())
    }

    pub(crate) fn states(&self) -> impl Iterator<Item = (SocketAddr, State)> {
        let all = self.all.iter();
        all.map(|member| (member.counted.address, member.state))
    }

    /// Whether a replica other than this one is up.
    pub(crate) fn has_other(&self, replica: &Arc<R>) -> bool {
        self.up.iter().any(|up| !Arc::ptr_eq(up, replica))
    }

    #[cfg(test)]
    pub(crate) fn count_up(&self) -> usize {
        self.up.len()
    }

    /// Picks the replica for the next attempt, if possible none of those that were `tried`. An attempt of a
    /// cheap call may go together with others.
    pub(crate) fn pick(&mut self, tried: &[Arc<R>], is_cheap: bool) -> Option<Arc<R>> {
        if self.has_rests {
            self.end_rests(Instant::now());
        }
        self.look();
        self.cheapest(tried, is_cheap)
    }

    /// Picks a replica that is up and was not `tried`.
    pub(crate) fn pick_other(&mut self, tried: &[Arc<R>]) -> Option<Arc<R>> {
        self.look();
        cheapest_of(&self.up, tried)
    }

    pub(crate) fn has_ejected(&mut self) -> bool {
        self.look();
        !self.ejected.is_empty()
    }

    /// Takes the trial of an ejected replica that is due, if one is.
    pub(crate) fn take_trial(&self, is_idempotent: bool, now: Instant) -> Option<Arc<R>> {
        let due = if is_idempotent {
            Some(now)
        } else {
            now.checked_sub(HEALTH_CHECK_AFTER)
        };
        let mut replica_set = self.all.iter();
        let member = replica_set.find(|member| {
            member.connected.is_some() && due.is_some_and(|due| member.record.take_trial(due, now))
        });
        member?.connected.clone()
    }

    fn find(&mut self, address: SocketAddr) -> Option<&mut Member<R>> {
        let mut all = self.all.iter_mut();
        all.find(|member| member.counted.address == address)
    }

    /// Marks the replica at this address as connected.
    pub(crate) fn connect(&mut self, address: SocketAddr, replica: Arc<R>, now: Instant) {
        if let Some(member) = self.find(address) {
            member.connected = Some(replica);
        }
        self.apply(address, Event::Connected, now);
        // The state may be as before, with a connection that took the place of another.
        self.sort();
    }

    /// Applies an event to the replica at this address. Returns whether its state has changed.
    pub(crate) fn apply(&mut self, address: SocketAddr, event: Event, now: Instant) -> bool {
        let memory = self.memory.clone();
        let Some(member) = self.find(address) else {
            return false;
        };
        let is_changed = member.apply(event, now, &memory);
        if is_changed {
            self.sort();
        }
        is_changed
    }

    /// Ends the rests that are over.
    fn end_rests(&mut self, now: Instant) {
        let mut is_changed = false;
        for member in &mut self.all {
            is_changed |= member.apply(Event::TimePassed, now, &self.memory);
        }
        if is_changed {
            self.sort();
        }
    }

    /// Sorts again if another worker has changed who is ejected.
    fn look(&mut self) {
        if self.memory.changes() != self.seen {
            self.sort();
        }
    }

    /// Sorts the replicas that can be picked by state.
    fn sort(&mut self) {
        self.seen = self.memory.changes();
        let lists = [&mut self.up, &mut self.standby, &mut self.ejected];
        lists.into_iter().for_each(Vec::clear);
        self.has_rests = false;
        self.last_pick = 0;
        for member in &self.all {
            member.show();
            let Some(replica) = &member.connected else {
                continue;
            };
            let is_resting = matches!(member.state, State::PushedBack { .. });
            self.has_rests |= is_resting;
            let list = match member.state {
                _ if member.record.is_ejected() => &mut self.ejected,
                State::Up => &mut self.up,
                _ => &mut self.standby,
            };
            list.push(replica.clone());
        }
    }

    fn cheapest(&mut self, tried: &[Arc<R>], is_cheap: bool) -> Option<Arc<R>> {
        let lists = [&self.up, &self.standby, &self.ejected];
        let best = lists.into_iter().find(|list| !list.is_empty())?;
        if tried.is_empty() {
            self.last_pick = match best.len() {
                1 => 0,
                _ => cheaper_of_two(best, is_cheap.then_some(self.last_pick)),
            };
            return Some(best[self.last_pick].clone());
        }
        cheapest_of(&self.up, tried)
            .or_else(|| cheapest_of(&self.standby, tried))
            .or_else(|| cheapest_of(best, &[]))
    }
}

impl<R> Member<R> {
    /// Returns whether the state has changed.
    fn apply(&mut self, event: Event, now: Instant, memory: &Memory) -> bool {
        let before = self.state;
        self.state = before.after(event, now);
        let (was, is) = (before.is_connected(), self.state.is_connected());
        match (was, is) {
            (false, true) => self.record.connected(),
            (true, false) => self.record.closed(),
            _ => {}
        }
        if !is {
            self.connected = None;
        }
        if matches!(event, Event::ConnectFailed) && self.record.is_unconnected() {
            memory.forget(&self.record);
        }
        if self.state == before {
            return false;
        }
        if before == State::Late && now.saturating_duration_since(self.since) >= AWAY_AFTER {
            self.record.hurry(now);
        }
        self.since = now;
        true
    }

    /// Shows the state to operators.
    fn show(&self) {
        let is_ejected = self.connected.is_some() && self.record.is_ejected();
        let state = if is_ejected {
            ReplicaState::Ejected
        } else {
            self.state.shown()
        };
        self.counted.replica.set_state(state);
    }
}

/// Picks one of two replicas, and returns its place. The first is the last pick while a call can join others
/// there, and else random; the second is a random other. `replicas` has at least two.
fn cheaper_of_two<R: Candidate>(replicas: &[Arc<R>], last_pick: Option<usize>) -> usize {
    let joined = last_pick.and_then(|last| Some((last, replicas[last].cost_of_joining()?)));
    let (one, cost) = joined.unwrap_or_else(|| {
        let one = fastrand::usize(..replicas.len());
        (one, replicas[one].cost())
    });
    let other = fastrand::usize(..replicas.len() - 1);
    let other = other + usize::from(other >= one);
    let prefer_other = replicas[other].cost() * FAR_LESS < cost;
    if prefer_other { other } else { one }
}

/// The cheapest replica that was not tried. Retries and hedges are too few to overload it.
fn cheapest_of<R: Candidate>(replicas: &[Arc<R>], tried: &[Arc<R>]) -> Option<Arc<R>> {
    let is_new = |replica: &&Arc<R>| !tried.iter().any(|one| Arc::ptr_eq(one, replica));
    let by_cost = |one: &&Arc<R>, other: &&Arc<R>| one.cost().total_cmp(&other.cost());
    replicas.iter().filter(is_new).min_by(by_cost).cloned()
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, time::Duration};

    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::{
        client::ending::judgement::Judgement,
        sync::atomic::{AtomicBool, Ordering::Relaxed},
    };

    #[derive(Debug)]
    struct Fake(f64, AtomicBool); // the cost, and whether it has calls to join

    impl Fake {
        fn new(cost: f64) -> Self {
            Self(cost, AtomicBool::new(false))
        }
    }

    impl Candidate for Fake {
        fn cost(&self) -> f64 {
            self.0
        }

        fn cost_of_joining(&self) -> Option<f64> {
            self.1.load(Relaxed).then_some(self.0)
        }
    }

    fn address(number: usize) -> SocketAddr {
        ([127, 0, 0, 1], u16::try_from(number).unwrap()).into()
    }

    /// Replicas that are up, with these costs.
    fn replica_set(costs: &[f64]) -> ReplicaSet<Fake> {
        let mut replica_set = ReplicaSet::new(Arc::default());
        for (number, cost) in costs.iter().enumerate() {
            join(&mut replica_set, number);
            connect(&mut replica_set, number, *cost);
        }
        replica_set
    }

    fn join(replica_set: &mut ReplicaSet<Fake>, number: usize) {
        let record = replica_set.memory.record(address(number));
        replica_set.join(CountedReplica::new(address(number)), record);
    }

    fn connect(replica_set: &mut ReplicaSet<Fake>, number: usize, cost: f64) {
        replica_set.connect(address(number), Arc::new(Fake::new(cost)), Instant::now());
    }

    fn apply(replica_set: &mut ReplicaSet<Fake>, number: usize, event: Event) {
        replica_set.apply(address(number), event, Instant::now());
    }

    /// A call of any worker ends now.
    fn end(replica_set: &ReplicaSet<Fake>, number: usize, judgement: Judgement) {
        let record = replica_set.memory.record(address(number));
        let now = Instant::now();
        let memory = &replica_set.memory;
        memory.learn(address(number), &record, judgement, now, now);
    }

    fn fail(replica_set: &ReplicaSet<Fake>, number: usize) {
        (0..5).for_each(|_| end(replica_set, number, Judgement::Failure));
    }

    /// How often each cost was picked in 3,000 picks.
    fn picks(replica_set: &mut ReplicaSet<Fake>) -> HashMap<String, usize> {
        let mut picks = HashMap::new();
        for _ in 0..3_000 {
            let pick = replica_set.pick(&[], false).unwrap();
            *picks.entry(pick.0.to_string()).or_default() += 1;
        }
        picks
    }

    #[test]
    fn the_cheaper_of_two_is_picked_and_the_most_expensive_never() {
        let picks = picks(&mut replica_set(&[1.0, 3.0, 9.0]));
        assert!((1_850..2_150).contains(&picks["1"]), "{picks:?}");
        assert!((850..1_150).contains(&picks["3"]), "{picks:?}");
        assert!(!picks.contains_key("9"));
    }

    #[test]
    fn replicas_that_cost_about_the_same_get_even_shares() {
        let picks = picks(&mut replica_set(&[1.0, 1.5, 1.9]));
        let is_even = picks.values().all(|picks| (850..1_150).contains(picks));
        assert!(picks.len() == 3 && is_even, "{picks:?}");
    }

    #[test]
    fn cheap_calls_go_together_until_they_are_sent() {
        let mut replica_set = replica_set(&[1.0, 1.5, 1.9]);
        let mut batches = HashMap::new();
        for _ in 0..3_000 {
            let first = replica_set.pick(&[], true).unwrap();
            first.1.store(true, Relaxed);
            for _ in 0..10 {
                assert!(Arc::ptr_eq(&replica_set.pick(&[], true).unwrap(), &first));
            }
            first.1.store(false, Relaxed);
            *batches.entry(first.0.to_string()).or_insert(0) += 1;
        }
        let is_even = batches.values().all(|them| (850..1_150).contains(them));
        assert!(batches.len() == 3 && is_even, "{batches:?}");
    }

    #[test]
    fn dear_calls_do_not_go_together() {
        let mut replica_set = replica_set(&[1.0, 1.5, 1.9]);
        for replica in &replica_set.up {
            replica.1.store(true, Relaxed);
        }
        let picks = picks(&mut replica_set);
        let is_even = picks.values().all(|picks| (850..1_150).contains(picks));
        assert!(picks.len() == 3 && is_even, "{picks:?}");
    }

    #[test]
    fn no_call_joins_others_on_a_replica_that_costs_far_more() {
        let mut replica_set = replica_set(&[9.0, 1.0]);
        for replica in &replica_set.up {
            replica.1.store(true, Relaxed);
        }
        for _ in 0..100 {
            replica_set.last_pick = 0;
            assert!((replica_set.pick(&[], true).unwrap().0 - 1.0).abs() < 0.1);
        }
    }

    #[test]
    fn no_call_joins_others_on_a_replica_that_is_not_up_any_more() {
        let mut replica_set = replica_set(&[1.0, 1.0, 1.5]);
        let first = replica_set.pick(&[], true).unwrap();
        first.1.store(true, Relaxed);
        let number = (0..3).find(|it| replica_set.is_connected_as(address(*it), &first));
        apply(&mut replica_set, number.unwrap(), Event::HealthCheckSent);
        for _ in 0..100 {
            assert!(!Arc::ptr_eq(&replica_set.pick(&[], true).unwrap(), &first));
        }
    }

    #[test]
    fn a_replica_without_a_connection_is_not_picked() {
        let mut replica_set = replica_set(&[1.0, 9.0]);
        apply(&mut replica_set, 0, Event::Closed);
        assert_eq!(picks(&mut replica_set)["9"], 3_000);
        apply(&mut replica_set, 1, Event::Closed);
        assert!(replica_set.pick(&[], false).is_none());
        assert!(!replica_set.is_any_connected());
    }

    #[test]
    fn late_and_resting_replicas_get_calls_only_while_no_other_is_up() {
        for standby in [
            Event::HealthCheckSent,
            Event::PushedBack(Duration::from_secs(1)),
        ] {
            let mut replica_set = replica_set(&[1.0, 9.0]);
            apply(&mut replica_set, 0, standby);
            assert_eq!(picks(&mut replica_set)["9"], 3_000);
            assert_eq!(replica_set.count_up(), 1);
            apply(&mut replica_set, 1, Event::Closed);
            assert_eq!(picks(&mut replica_set)["1"], 3_000);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_ejected_replica_gets_single_calls_until_one_succeeds() {
        let mut replica_set = replica_set(&[1.0, 9.0]);
        fail(&replica_set, 0);
        assert_eq!(picks(&mut replica_set)["9"], 3_000);
        assert!(replica_set.take_trial(true, Instant::now()).is_none());
        tokio::time::advance(Duration::from_millis(1_300)).await;
        let now = Instant::now();
        assert!(replica_set.take_trial(false, now).is_none(), "not yet");
        let trial = replica_set.take_trial(true, now).unwrap();
        assert!((trial.0 - 1.0).abs() < 0.1);
        assert!(replica_set.take_trial(true, now).is_none(), "one is enough");
        assert_eq!(picks(&mut replica_set)["9"], 3_000);
        end(&replica_set, 0, Judgement::Success);
        assert!(picks(&mut replica_set)["1"] > 1_000);
    }

    #[tokio::test(start_paused = true)]
    async fn an_ejected_replica_without_idempotent_calls_is_asked() {
        let replica_set = replica_set(&[1.0, 9.0]);
        fail(&replica_set, 0);
        tokio::time::advance(Duration::from_millis(2_300)).await;
        assert!(replica_set.take_trial(false, Instant::now()).is_some());
    }

    #[test]
    fn the_ejected_get_all_calls_when_no_other_is_left() {
        let goes: [fn(&mut ReplicaSet<Fake>); 2] = [
            |replica_set| apply(replica_set, 1, Event::Closed),
            |replica_set| {
                apply(replica_set, 1, Event::Closed);
                replica_set.leave(address(1));
            },
        ];
        for goes in goes {
            let mut replica_set = replica_set(&[1.0, 9.0]);
            fail(&replica_set, 0);
            assert_eq!(picks(&mut replica_set)["9"], 3_000);
            goes(&mut replica_set);
            assert_eq!(picks(&mut replica_set)["1"], 3_000);
        }
    }

    #[test]
    fn a_replica_whose_process_was_gone_starts_clean_and_one_that_reconnects_does_not() {
        for (is_gone, share) in [(true, 1_000..3_000), (false, 0..1)] {
            let mut replica_set = replica_set(&[1.0, 1.5]);
            fail(&replica_set, 0);
            apply(&mut replica_set, 0, Event::Closed);
            if is_gone {
                apply(&mut replica_set, 0, Event::ConnectFailed);
            }
            connect(&mut replica_set, 0, 1.0);
            let picks = picks(&mut replica_set);
            let first = picks.get("1").copied().unwrap_or_default();
            assert!(share.contains(&first), "{is_gone}: {picks:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_replica_that_was_away_is_tried_when_it_is_back() {
        let mut replica_set = replica_set(&[1.0, 9.0]);
        apply(&mut replica_set, 0, Event::HealthCheckSent);
        fail(&replica_set, 0);
        tokio::time::advance(Duration::from_millis(1_300)).await;
        assert!(replica_set.take_trial(true, Instant::now()).is_some());
        end(&replica_set, 0, Judgement::Failure);
        tokio::time::advance(Duration::from_secs(1)).await;
        let now = Instant::now();
        assert!(replica_set.take_trial(true, now).is_none());
        apply(&mut replica_set, 0, Event::Responded);
        assert!(replica_set.take_trial(true, now).is_some());
    }

    #[test]
    fn a_second_attempt_goes_to_another_replica_if_there_is_one() {
        let mut replica_set = replica_set(&[1.0, 9.0]);
        let first = replica_set.pick_other(&[]).unwrap();
        let second = replica_set
            .pick(std::slice::from_ref(&first), false)
            .unwrap();
        assert!((second.0 - 9.0).abs() < 0.1);
        let third = replica_set
            .pick(&[first.clone(), second.clone()], false)
            .unwrap();
        assert!((third.0 - 1.0).abs() < 0.1);
        assert!(replica_set.pick_other(&[first, second]).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_replica_that_has_rested_gets_calls_again() {
        let mut replica_set = replica_set(&[1.0, 1.5]);
        let rest = Duration::from_secs(1);
        apply(&mut replica_set, 0, Event::PushedBack(rest));
        assert_eq!(picks(&mut replica_set)["1.5"], 3_000);
        tokio::time::advance(rest).await;
        assert!(picks(&mut replica_set)["1"] > 1_000);
    }

    #[tokio::test(start_paused = true)]
    async fn a_replica_that_was_only_slow_is_tried_no_sooner() {
        let mut replica_set = replica_set(&[1.0, 9.0]);
        apply(&mut replica_set, 0, Event::HealthCheckSent);
        fail(&replica_set, 0);
        tokio::time::advance(AWAY_AFTER / 2).await;
        apply(&mut replica_set, 0, Event::Responded);
        assert!(replica_set.take_trial(true, Instant::now()).is_none());
    }

    #[test]
    fn the_only_replica_that_is_up_has_no_other() {
        let mut replica_set = replica_set(&[1.0, 9.0]);
        let first = replica_set.pick_other(&[]).unwrap();
        assert!(replica_set.has_other(&first));
        apply(&mut replica_set, 1, Event::Closed);
        assert!(!replica_set.has_other(&first));
    }

    #[test]
    fn an_ejection_is_seen_at_the_next_look() {
        let mut replica_set = replica_set(&[1.0, 9.0]);
        assert!(!replica_set.has_ejected());
        fail(&replica_set, 0);
        assert!(replica_set.has_ejected());
    }

    /// What happens to a replica.
    #[derive(Debug, Clone, Copy)]
    enum Happening {
        Event(Event),
        End(Judgement),
    }

    fn happening() -> impl Strategy<Value = Happening> {
        let event = prop_oneof![
            Just(Event::Connected),
            Just(Event::ConnectFailed),
            Just(Event::Closed),
            Just(Event::HealthCheckSent),
            Just(Event::Responded),
            Just(Event::Succeeded),
            (0..60_u64).prop_map(|seconds| Event::PushedBack(Duration::from_secs(seconds))),
        ];
        let judgement = prop_oneof![
            1 => Just(Judgement::Success),
            4 => Just(Judgement::Failure),
            4 => Just(Judgement::Ambiguous),
        ];
        prop_oneof![
            event.prop_map(Happening::Event),
            judgement.prop_map(Happening::End),
        ]
    }

    proptest! {
        /// Whatever happens, a call finds a replica while one is connected, and at most half are
        /// ejected. Once all is well again, each replica is up within two minutes.
        #[test]
        fn no_replica_gets_stuck_and_they_are_never_all_ejected(
            happenings in vec((0..4_usize, happening(), 0..20_u64), 0..200),
        ) {
            let mut replica_set = ReplicaSet::new(Arc::default());
            for number in 0..4 {
                join(&mut replica_set, number);
            }
            let mut now = Instant::now();
            for (number, happening, seconds) in happenings {
                now += Duration::from_secs(seconds);
                match happening {
                    Happening::Event(Event::Connected) => {
                        replica_set.connect(address(number), Arc::new(Fake::new(1.0)), now);
                    }
                    Happening::Event(event) => {
                        replica_set.apply(address(number), event, now);
                    }
                    Happening::End(judgement) => {
                        let record = replica_set.memory.record(address(number));
                        replica_set.memory.learn(address(number), &record, judgement, now, now);
                    }
                }
                replica_set.end_rests(now);
                let ejected = replica_set.all.iter().filter(|member| member.record.is_ejected());
                prop_assert!(ejected.count() <= 2);
                prop_assert_eq!(replica_set.is_any_connected(), replica_set.cheapest(&[], false).is_some());
                let connected = replica_set.all.iter().filter(|member| member.state.is_connected());
                let sum = replica_set.up.len() + replica_set.standby.len() + replica_set.ejected.len();
                prop_assert_eq!(connected.count(), sum);
            }
            for number in 0..4 {
                replica_set.apply(address(number), Event::Closed, now);
                replica_set.connect(address(number), Arc::new(Fake::new(1.0)), now);
            }
            let well = now + Duration::from_mins(2);
            while now < well {
                now += Duration::from_secs(1);
                replica_set.end_rests(now);
                if let Some(trial) = replica_set.take_trial(true, now) {
                    let on_trial = (0..4).find(|number| {
                        replica_set.is_connected_as(address(*number), &trial)
                    });
                    let on_trial = address(on_trial.expect("a trial is of a connected replica"));
                    let record = replica_set.memory.record(on_trial);
                    replica_set.memory.learn(on_trial, &record, Judgement::Success, now, now);
                }
            }
            replica_set.look();
            prop_assert_eq!(replica_set.up.len(), 4);
        }
    }
}
