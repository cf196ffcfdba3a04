//! The rows of the tables of the page.

use std::{collections::BTreeMap, time::SystemTime};

use super::{
    verdict::Facts,
    words::{age, bytes, percentile, rate, took},
};
use crate::telemetry::metrics::{
    NameSummary, Percentile, ReplicaState, ReplicaSummary, RouteSummary, Used, View,
};

/// The text in place of a figure that is not known.
const NONE: &str = "–";

/// A route or a method, in the last minute and since the start.
pub(crate) struct Route {
    pub(crate) name: String,
    pub(crate) per_second: String,
    /// Those that failed in the last minute.
    pub(crate) failed: String,
    pub(crate) is_failing: bool,
    pub(crate) median: String,
    pub(crate) p99: String,
    /// Since the start.
    pub(crate) all: String,
}

impl Route {
    pub(crate) fn of(it: &RouteSummary) -> Self {
        let of = |at: Option<Percentile>| at.map_or_else(|| NONE.to_owned(), percentile);
        let recent = it.recent.as_ref();
        Self {
            name: it.name.clone(),
            per_second: recent.map_or_else(|| NONE.into(), |it| rate(it.per_second)),
            failed: recent.map_or_else(
                || NONE.into(),
                |it| match (it.failed, it.count) {
                    (0, _) => "0".into(),
                    (failed, count) => format!("{failed} of {count}"),
                },
            ),
            is_failing: recent.is_some_and(|it| it.failed > 0),
            median: of(recent.and_then(|it| it.median)),
            p99: of(recent.and_then(|it| it.p99)),
            all: match it.failed {
                0 => it.count.to_string(),
                failed => format!("{}, {failed} failed", it.count),
            },
        }
    }
}

/// The services that the process calls.
pub(crate) struct CallsRow {
    pub(crate) names: Vec<NameRow>,
    pub(crate) replicas: Vec<ReplicaRow>,
    pub(crate) methods: Vec<Route>,
}

/// A name that is looked up.
pub(crate) struct NameRow {
    pub(crate) target: String,
    pub(crate) authority: String,
    pub(crate) looked_up: String,
    pub(crate) is_failing: bool,
}

/// A replica of a service that the process calls.
pub(crate) struct ReplicaRow {
    pub(crate) address: String,
    pub(crate) states: Vec<String>,
    pub(crate) is_up: bool,
    pub(crate) latency: String,
    pub(crate) in_flight: u64,
    pub(crate) attempts: u64,
    pub(crate) last_error: String,
}

impl CallsRow {
    pub(crate) fn of(facts: &Facts, methods: &[RouteSummary]) -> Self {
        let names = facts.targets.iter().flat_map(|target| {
            let names = target.names.iter();
            names.map(|it| NameRow::of(&target.title, it, facts.now))
        });
        let replicas = facts.replicas.iter();
        Self {
            names: names.collect(),
            replicas: replicas.map(|it| ReplicaRow::of(it, facts.now)).collect(),
            methods: methods.iter().map(Route::of).collect(),
        }
    }
}

impl NameRow {
    fn of(target: &str, it: &NameSummary, now: SystemTime) -> Self {
        let addresses = match it.addresses.len() {
            1 => "1 address".to_owned(),
            count => format!("{count} addresses"),
        };
        let looked_up = match (it.looked_up, &it.error) {
            (None, _) if !it.addresses.is_empty() => "an address".into(),
            (None, _) => "not yet".into(),
            (Some(at), None) => format!("{} ago: {addresses}", age(now, at)),
            (Some(at), Some(error)) if it.addresses.is_empty() => {
                format!("{} ago: {error}", age(now, at))
            }
            (Some(at), Some(error)) => {
                format!("{} ago: {error}; {addresses} kept", age(now, at))
            }
        };
        Self {
            target: target.to_owned(),
            authority: it.authority.clone(),
            looked_up,
            is_failing: it.error.is_some(),
        }
    }
}

impl ReplicaRow {
    fn of(it: &ReplicaSummary, now: SystemTime) -> Self {
        Self {
            address: it.address.to_string(),
            states: states(&it.views, now),
            is_up: it.views.iter().all(|view| view.state == ReplicaState::Up),
            latency: it.latency.map_or_else(|| NONE.into(), took),
            in_flight: it.in_flight,
            attempts: it.picks,
            last_error: match &it.last_error {
                Some((at, error)) => format!("{} ago: {error}", age(now, *at)),
                None => NONE.into(),
            },
        }
    }
}

/// The states of a replica, each with the time for which all of its workers have seen it.
fn states(views: &[View], now: SystemTime) -> Vec<String> {
    let mut states = BTreeMap::<&str, (usize, SystemTime)>::new();
    for view in views {
        let (workers, since) = states.entry(view.state.name()).or_insert((0, view.since));
        *workers += 1;
        *since = view.since.max(*since);
    }
    let states = states.into_iter().map(|(state, (workers, since))| {
        let of = if workers == views.len() {
            String::new()
        } else {
            format!(" on {workers} of {} workers", views.len())
        };
        format!("{state}{of} for {}", age(now, since))
    });
    states.collect()
}

/// What the process uses, of what it may use.
pub(crate) fn use_of(facts: &Facts) -> Vec<(&'static str, String)> {
    let number = |number: u64| number.to_string();
    let row = |what, used: Option<Used>, text: &dyn Fn(u64) -> String| {
        used.map(|used| match used.limit {
            Some(limit) => (what, format!("{} of {}", text(used.now), text(limit))),
            None => (what, text(used.now)),
        })
    };
    let rows = [
        row("requests in flight", Some(facts.in_flight), &number),
        row("open connections", Some(facts.connections), &number),
        row("open files", facts.files, &number),
        row("memory", facts.memory, &bytes),
    ];
    rows.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn view(worker: usize, state: ReplicaState, since: u64) -> View {
        View {
            worker,
            state,
            since: at(since),
        }
    }

    #[test]
    fn a_state_that_all_workers_see_has_the_time_of_the_last_to_see_it() {
        let all = [view(0, ReplicaState::Up, 10), view(1, ReplicaState::Up, 40)];
        assert_eq!(states(&all, at(100)), ["up for 1m"]);
        let some = [
            view(0, ReplicaState::Up, 10),
            view(1, ReplicaState::Connecting, 95),
        ];
        assert_eq!(
            states(&some, at(100)),
            [
                "connecting on 1 of 2 workers for 5s",
                "up on 1 of 2 workers for 1m 30s"
            ]
        );
    }

    #[test]
    fn a_replica_without_a_response_has_no_latency() {
        let mut replica = ReplicaSummary {
            address: ([127, 0, 0, 1], 1).into(),
            views: vec![view(0, ReplicaState::Up, 10)],
            latency: None,
            in_flight: 0,
            picks: 0,
            last_error: Some((at(58), "Connection refused".into())),
        };
        let row = ReplicaRow::of(&replica, at(70));
        assert_eq!((row.latency.as_str(), row.is_up), (NONE, true));
        assert_eq!(row.last_error, "12s ago: Connection refused");
        replica.latency = Some(Duration::from_micros(40));
        assert_eq!(ReplicaRow::of(&replica, at(70)).latency, "0.04 ms");
    }

    #[test]
    fn a_look_up_has_its_age_and_its_outcome() {
        let mut name = NameSummary {
            authority: "service1:50051".into(),
            ..NameSummary::default()
        };
        let words = |name: &NameSummary| NameRow::of("service1", name, at(100)).looked_up;
        assert_eq!(words(&name), "not yet");
        name.looked_up = Some(at(97));
        name.error = Some("no such name".into());
        assert_eq!(words(&name), "3s ago: no such name");
        name.addresses = vec![([10, 0, 0, 1], 1).into()];
        assert_eq!(words(&name), "3s ago: no such name; 1 address kept");
        name.error = None;
        assert_eq!(words(&name), "3s ago: 1 address");
        let never = NameSummary {
            authority: "[::1]:50051".into(),
            addresses: vec!["[::1]:50051".parse().unwrap()],
            ..NameSummary::default()
        };
        assert_eq!(words(&never), "an address");
    }
}
