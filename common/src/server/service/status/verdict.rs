//! [`Verdict`]: what a user of the service gets now, and all that is wrong, in words.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime},
};

use super::words::{age, and, bytes};
use crate::{
    server::service::readiness::{Missing, ReadinessState},
    telemetry::metrics::{
        NameSummary, ReplicaState, ReplicaSummary, RouteSummary, Side, TargetSummary, Used, View,
    },
};

/// The most lines about one kind of trouble: the first show what it is.
const MAX_LINES: usize = 8;

/// How long before its end a certificate is trouble, as in the alert: new ones come much sooner.
const EXPIRES_SOON: Duration = Duration::from_hours(4);

/// What is known of the process.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    pub(crate) now: SystemTime,
    pub(crate) readiness: ReadinessState,
    /// What the start of the process waits for.
    pub(crate) missing: Option<Missing>,
    /// A worker that is stuck, or a port that is closed.
    pub(crate) fault: Option<String>,
    pub(crate) targets: Vec<TargetSummary>,
    pub(crate) replicas: Vec<ReplicaSummary>,
    /// The routes and methods, without those that every service has.
    pub(crate) routes: Vec<RouteSummary>,
    pub(crate) in_flight: Used,
    pub(crate) connections: Used,
    pub(crate) files: Option<Used>,
    pub(crate) memory: Option<Used>,
    /// The certificates, and when each expires.
    pub(crate) certificates: Vec<(String, SystemTime)>,
}

/// What the facts say.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) level: Level,
    /// What a user of the service gets now.
    pub(crate) headline: String,
    /// All that is wrong, the worst first.
    pub(crate) troubles: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    /// Users get what they ask for.
    Well,
    /// Some users may not.
    Impaired,
    /// Users get errors, for some requests at least.
    Wrong,
}

impl Level {
    /// The class in the style sheet.
    pub(crate) fn class(self) -> &'static str {
        match self {
            Self::Well => "well",
            Self::Impaired => "impaired",
            Self::Wrong => "wrong",
        }
    }
}

/// Whether the workers reach the service of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// No worker calls it, or its names are being looked up for the first time.
    Unknown,
    All,
    /// This many workers of so many have no connection.
    Some(usize, usize),
    /// There are connections, and no replica is up.
    NoneUp,
    Nobody,
}

impl Verdict {
    pub(crate) fn of(facts: &Facts) -> Self {
        let reaches: Vec<_> = facts.targets.iter().map(|it| reach(it, facts)).collect();
        let titles = |wanted: fn(Reach) -> bool| {
            let all = facts.targets.iter().zip(&reaches);
            let all = all.filter(|(_, reach)| wanted(**reach));
            let titles: Vec<_> = all.map(|(target, _)| target.title.as_str()).collect();
            (!titles.is_empty()).then(|| and(&titles))
        };
        let lost = titles(|reach| reach == Reach::Nobody);
        let none_up = titles(|reach| reach == Reach::NoneUp);
        let partly = reaches.iter().zip(&facts.targets).find_map(|it| match it {
            (Reach::Some(lost, of), target) => Some((lost, of, &target.title)),
            _ => None,
        });
        let (level, headline) = match (facts.readiness, lost) {
            (ReadinessState::Draining, _) => (Level::Impaired, "draining".into()),
            (ReadinessState::Waiting(_), _) if let Some(Missing { name, .. }) = &facts.missing => {
                (Level::Wrong, format!("starting: {name} is not there yet"))
            }
            (ReadinessState::Ready, _) if let Some(fault) = &facts.fault => {
                (Level::Wrong, format!("not ready: {fault}"))
            }
            (ReadinessState::Waiting(_), Some(lost)) => {
                (Level::Wrong, format!("not ready: {lost} can't be reached"))
            }
            (ReadinessState::Waiting(conditions), None) => {
                (Level::Wrong, format!("not ready: {}", not_met(conditions)))
            }
            (ReadinessState::Ready, Some(lost)) => {
                let headline = format!("answering, but {lost} can't be reached");
                (Level::Wrong, headline)
            }
            (ReadinessState::Ready, None) => match (none_up, partly) {
                (Some(titles), _) => {
                    let headline = format!("answering, but no replica of {titles} is up");
                    (Level::Impaired, headline)
                }
                (None, Some((lost, of, title))) => {
                    let headline =
                        format!("answering, but {lost} of {of} workers can't reach {title}");
                    (Level::Impaired, headline)
                }
                (None, None) => (Level::Well, "answering".into()),
            },
        };
        Self {
            level,
            headline,
            troubles: troubles(facts),
        }
    }
}

fn reach(target: &TargetSummary, facts: &Facts) -> Reach {
    let addresses: BTreeSet<_> = target.names.iter().flat_map(|it| &it.addresses).collect();
    let replicas = facts.replicas.iter();
    let views = replicas
        .filter(|replica| addresses.contains(&replica.address))
        .flat_map(|replica| &replica.views);
    let views: Vec<&View> = views.collect();
    if views.is_empty() {
        let is_nowhere = |name: &NameSummary| name.looked_up.is_some() && name.addresses.is_empty();
        return if target.names.iter().all(is_nowhere) {
            Reach::Nobody
        } else {
            Reach::Unknown
        };
    }
    let mut workers = BTreeMap::<usize, bool>::new();
    for view in &views {
        *workers.entry(view.worker).or_default() |= view.state.is_connected();
    }
    let lost = workers.values().filter(|is_connected| !*is_connected);
    match (lost.count(), workers.len()) {
        (lost, all) if lost == all => Reach::Nobody,
        _ if views.iter().all(|view| view.state != ReplicaState::Up) => Reach::NoneUp,
        (0, _) => Reach::All,
        (lost, all) => Reach::Some(lost, all),
    }
}

fn not_met(conditions: usize) -> String {
    match conditions {
        1 => "one condition is not met".into(),
        _ => format!("{conditions} conditions are not met"),
    }
}

/// All that is wrong, the worst first.
fn troubles(facts: &Facts) -> Vec<String> {
    let readiness = match facts.readiness {
        ReadinessState::Ready => facts
            .fault
            .as_ref()
            .map(|fault| format!("Load balancers are told to send no requests: {fault}.")),
        ReadinessState::Waiting(_) if let Some(Missing { name, error }) = &facts.missing => {
            let last = error
                .as_ref()
                .map(|error| format!(" The last attempt: {error}."));
            let last = last.unwrap_or_default();
            Some(format!(
                "The ports of the service open once {name} is there.{last}"
            ))
        }
        ReadinessState::Waiting(conditions) => Some(format!(
            "Load balancers are told to send no requests: {} (each worker has its own). The log \
             says for what.",
            not_met(conditions)
        )),
        ReadinessState::Draining => {
            Some("The process ends once its requests in flight have.".into())
        }
    };
    let names = facts.targets.iter().flat_map(|target| {
        let names = target.names.iter();
        names.filter_map(move |name| trouble_of_name(&target.title, name))
    });
    let replicas = facts.replicas.iter();
    let replicas = replicas.filter_map(|replica| trouble_of_replica(replica, facts.now));
    let routes = facts.routes.iter().filter_map(trouble_of_route);
    let certificates = facts.certificates.iter().filter_map(|(file, expiry)| {
        let left = expiry.duration_since(facts.now);
        match left {
            Ok(left) if left > EXPIRES_SOON => None,
            Ok(left) => Some(format!("{file} expires in {}.", super::words::span(left))),
            Err(_) => Some(format!("{file} has expired.")),
        }
    });
    let number = |number: u64| number.to_string();
    let usage = [
        near("Requests in flight", Some(facts.in_flight), number),
        near("Open connections", Some(facts.connections), number),
        near("Open files", facts.files, number),
        near("Memory", facts.memory, bytes),
    ];
    readiness
        .into_iter()
        .chain(first(names))
        .chain(first(replicas))
        .chain(first(routes))
        .chain(first(certificates))
        .chain(usage.into_iter().flatten())
        .collect()
}

/// The first of these lines, and how many there are beside them.
fn first(lines: impl Iterator<Item = String>) -> Vec<String> {
    let mut lines: Vec<_> = lines.collect();
    if let Some(more) = lines.len().checked_sub(MAX_LINES).filter(|more| *more > 0) {
        lines.truncate(MAX_LINES);
        lines.push(format!("And {more} more of this kind."));
    }
    lines
}

fn trouble_of_name(title: &str, name: &NameSummary) -> Option<String> {
    let error = name.error.as_ref()?;
    let authority = &name.authority;
    let of = if title == authority {
        String::new()
    } else {
        format!(" ({title})")
    };
    let kept = match name.addresses.len() {
        0 => "",
        _ => " The addresses that it last had are kept.",
    };
    Some(format!(
        "{authority}{of} can't be looked up: {error}.{kept}"
    ))
}

fn trouble_of_replica(replica: &ReplicaSummary, now: SystemTime) -> Option<String> {
    let not_up: Vec<_> = replica
        .views
        .iter()
        .filter(|it| it.state != ReplicaState::Up)
        .collect();
    let since = not_up.iter().map(|view| view.since).min()?;
    let states: BTreeSet<_> = not_up.iter().map(|view| view.state.name()).collect();
    let states: Vec<_> = states.into_iter().collect();
    let on = if not_up.len() == replica.views.len() {
        String::new()
    } else {
        format!(" on {} of {} workers", not_up.len(), replica.views.len())
    };
    let error = match &replica.last_error {
        Some((at, error)) => format!(" Its last error, {} ago: {error}.", age(now, *at)),
        None => String::new(),
    };
    Some(format!(
        "Replica {} has been {}{on} for {}.{error}",
        replica.address,
        and(&states),
        age(now, since)
    ))
}

fn trouble_of_route(route: &RouteSummary) -> Option<String> {
    let recent = route.recent.as_ref().filter(|recent| recent.failed > 0)?;
    let what = match route.side {
        Side::Served => "requests to",
        Side::Called => "calls of",
    };
    Some(format!(
        "{} of {} {what} {} failed in the last minute.",
        recent.failed, recent.count, route.name
    ))
}

fn near(what: &str, used: Option<Used>, text: impl Fn(u64) -> String) -> Option<String> {
    let used = used.filter(Used::is_near_limit)?;
    let limit = text(used.limit?);
    Some(format!("{what}: {} of at most {limit}.", text(used.now)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::{
        Figures,
        ReplicaState::{self, Connecting, Ejected, Late, PushedBack, Unreachable, Up},
    };

    const UNUSED: Used = Used {
        now: 1,
        limit: Some(1_000),
    };

    /// A process that answers, and calls nobody.
    fn facts() -> Facts {
        Facts {
            now: SystemTime::UNIX_EPOCH + Duration::from_secs(1_000),
            readiness: ReadinessState::Ready,
            missing: None,
            fault: None,
            targets: Vec::new(),
            replicas: Vec::new(),
            routes: Vec::new(),
            in_flight: UNUSED,
            connections: UNUSED,
            files: None,
            memory: None,
            certificates: Vec::new(),
        }
    }

    /// The same, with a target of this many replicas. `states` has those that each worker sees.
    fn calling(states: &[&[ReplicaState]]) -> Facts {
        let address = |number: usize| {
            let port = u16::try_from(number).expect("there are few");
            ([10, 0, 0, 1], port).into()
        };
        let replicas = states.first().map_or(0, |states| states.len());
        let name = NameSummary {
            authority: "backend:1".into(),
            looked_up: Some(SystemTime::UNIX_EPOCH),
            error: None,
            addresses: (0..replicas).map(address).collect(),
        };
        let replica = |number: usize| ReplicaSummary {
            address: address(number),
            views: states
                .iter()
                .enumerate()
                .map(|(worker, states)| View {
                    worker,
                    state: states[number],
                    since: SystemTime::UNIX_EPOCH + Duration::from_secs(940),
                })
                .collect(),
            latency: None,
            in_flight: 0,
            picks: 0,
            last_error: None,
        };
        Facts {
            targets: vec![TargetSummary {
                title: "service1".into(),
                names: vec![name],
            }],
            replicas: (0..replicas).map(replica).collect(),
            ..facts()
        }
    }

    fn verdict(facts: &Facts) -> (Level, String) {
        let verdict = Verdict::of(facts);
        (verdict.level, verdict.headline)
    }

    #[test]
    fn the_headline_is_what_a_user_gets() {
        use Level::{Impaired, Well, Wrong};
        let cases: [(&[&[ReplicaState]], _, _); 6] = [
            (&[], Well, "answering"),
            (&[&[Up], &[Up]], Well, "answering"),
            (&[&[Up, Unreachable], &[Up, Unreachable]], Well, "answering"),
            (
                &[&[Unreachable, Connecting], &[Unreachable, Unreachable]],
                Wrong,
                "answering, but service1 can't be reached",
            ),
            (
                &[&[Unreachable], &[Up]],
                Impaired,
                "answering, but 1 of 2 workers can't reach service1",
            ),
            (
                &[&[Late, Unreachable], &[Ejected, PushedBack]],
                Impaired,
                "answering, but no replica of service1 is up",
            ),
        ];
        for (states, level, headline) in cases {
            let facts = if states.is_empty() {
                facts()
            } else {
                calling(states)
            };
            assert_eq!(verdict(&facts), (level, headline.into()), "{states:?}");
        }
    }

    #[test]
    fn a_process_that_is_not_ready_or_drains_says_so_first() {
        let with = |readiness, facts: Facts| verdict(&Facts { readiness, ..facts });
        let well = || calling(&[&[Up]]);
        let lost = || calling(&[&[Unreachable]]);
        assert_eq!(
            with(ReadinessState::Waiting(1), well()),
            (Level::Wrong, "not ready: one condition is not met".into())
        );
        assert_eq!(
            with(ReadinessState::Waiting(2), lost()),
            (Level::Wrong, "not ready: service1 can't be reached".into())
        );
        let missing = Facts {
            readiness: ReadinessState::Waiting(1),
            missing: Some(Missing {
                name: "database",
                error: Some("connection refused".into()),
            }),
            ..well()
        };
        let headline = "starting: database is not there yet".into();
        assert_eq!(verdict(&missing), (Level::Wrong, headline));
        assert_eq!(
            Verdict::of(&missing).troubles,
            ["The ports of the service open once database is there. \
              The last attempt: connection refused."]
        );
        for facts in [well(), lost()] {
            let draining = (Level::Impaired, "draining".into());
            assert_eq!(with(ReadinessState::Draining, facts), draining);
        }
    }

    #[test]
    fn a_wrong_name_is_named() {
        let mut facts = calling(&[]);
        facts.targets[0].names[0].error = Some("no such name".into());
        let told = Verdict::of(&facts);
        assert_eq!(told.headline, "answering, but service1 can't be reached");
        let trouble = "backend:1 (service1) can't be looked up: no such name.";
        assert_eq!(told.troubles, [trouble]);
        // Another name of the target has a replica.
        let other = calling(&[&[Up]]);
        facts.targets[0]
            .names
            .extend(other.targets[0].names.clone());
        facts.replicas = other.replicas;
        let told = Verdict::of(&facts);
        assert_eq!(told.headline, "answering");
        assert_eq!(told.troubles, [trouble]);
    }

    #[test]
    fn a_target_that_was_not_looked_up_yet_is_not_judged() {
        let mut facts = calling(&[]);
        facts.targets[0].names[0].looked_up = None;
        assert_eq!(verdict(&facts), (Level::Well, "answering".into()));
    }

    #[test]
    fn several_targets_are_judged_each() {
        let mut facts = calling(&[&[Unreachable]]);
        let mut other = facts.targets[0].clone();
        other.title = "orders".into();
        facts.targets.push(other);
        let headline = "answering, but service1 and orders can't be reached";
        assert_eq!(verdict(&facts).1, headline);
    }

    #[test]
    fn a_replica_that_is_not_up_is_told_with_its_error() {
        let mut facts = calling(&[&[Up, Unreachable], &[Up, Unreachable]]);
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(998);
        facts.replicas[1].last_error = Some((at, "Connection refused".into()));
        let told = Verdict::of(&facts).troubles;
        assert_eq!(
            told,
            ["Replica 10.0.0.1:1 has been unreachable for 1m. \
              Its last error, 2s ago: Connection refused."]
        );
    }

    #[test]
    fn what_failed_or_is_near_its_limit_is_told() {
        let mut facts = facts();
        let recent = |failed| Figures {
            count: 10,
            failed,
            per_second: 0.2,
            median: None,
            p99: None,
        };
        let route = |name: &str, failed| RouteSummary {
            side: Side::Served,
            name: name.into(),
            count: 100,
            failed: 50,
            recent: Some(recent(failed)),
        };
        facts.routes = vec![route("GET /a", 0), route("GET /b", 3)];
        facts.memory = Some(Used {
            now: 900_000_000,
            limit: Some(1_000_000_000),
        });
        let expiry = facts.now + Duration::from_hours(1);
        facts.certificates = vec![
            ("mesh: tls.crt".into(), expiry),
            ("mesh: ca.crt".into(), facts.now + EXPIRES_SOON * 2),
        ];
        assert_eq!(
            Verdict::of(&facts).troubles,
            [
                "3 of 10 requests to GET /b failed in the last minute.",
                "mesh: tls.crt expires in 1h.",
                "Memory: 900 MB of at most 1000 MB.",
            ]
        );
    }

    #[test]
    fn many_lines_of_one_kind_are_counted() {
        let facts = calling(&[&[Unreachable; 20]]);
        let told = Verdict::of(&facts).troubles;
        assert_eq!(told.len(), MAX_LINES + 1);
        assert_eq!(told.last().expect("a line"), "And 12 more of this kind.");
    }
}
