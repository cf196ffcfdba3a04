//! What must hold of replicas and clients to which little happens.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tonic::Code;

use crate::{
    call::Outcome,
    checks::Noted,
    replica::Kind,
    schedule::{Fault, Schedule, What},
    service::id_of,
    trace::Event,
    world::replica_address,
};

/// The most calls of a process to a bad replica: those in which the process learns that it is bad, and its
/// trials, each with what is on its way.
const TRIALS: u32 = 25;

/// The longest pause between two attempts, unless a replica asks for another.
const LONGEST_PAUSE: Duration = Duration::from_millis(1_500);

/// The time in which all is well again after a fault.
const AFTERMATH: Duration = Duration::from_secs(20);

/// The longest silence after which no connection is broken off.
const SHORT_SILENCE: Duration = Duration::from_secs(15);

/// Returns what was violated, and when.
pub fn violations(schedule: &Schedule, events: &[Noted]) -> Vec<(Duration, String)> {
    let healed = events.iter().find(|(_, it)| matches!(it, Event::Healed));
    let healed = healed.map_or(Duration::MAX, |(at, _)| *at);
    let before = events.iter().filter(|(at, _)| *at < healed);
    let before: Vec<_> = before.collect();
    let mut violations = connections(schedule, &before);
    violations.extend(reachable(schedule, &before));
    violations.extend(bad_replicas(schedule, &before));
    violations.extend(codes(&before));
    violations.extend(waits(schedule, &before));
    violations
}

/// What happens to the connections of a replica of ours in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Nothing.
    Calm,
    /// Nothing passes for so long altogether.
    Silent(Duration),
    /// They break, or it is not ours.
    Other,
}

fn fate(schedule: &Schedule, replica: usize) -> Fate {
    if !matches!(schedule.replicas[replica], Kind::Ours { .. }) {
        return Fate::Other;
    }
    let mut fate = Fate::Calm;
    for fault in &schedule.faults {
        let silent = match fate {
            Fate::Calm => Duration::ZERO,
            Fate::Silent(so_far) => so_far,
            Fate::Other => return Fate::Other,
        };
        match fault.what {
            What::Block(of, ..) if of == replica => fate = Fate::Silent(silent + fault.lasts),
            What::Conditions(of, _) if of == replica => fate = Fate::Silent(silent),
            What::Reset(of, _) | What::Vanish(of) | What::Kill(of) | What::Roll(of, _)
                if of == replica =>
            {
                return Fate::Other;
            }
            _ => {}
        }
    }
    fate
}

/// A connection to a replica that is there is not lost, and none is broken off that was not silent for long.
fn connections(schedule: &Schedule, events: &[&Noted]) -> Vec<(Duration, String)> {
    let fates = (0..schedule.replicas.len()).map(|replica| {
        let address = replica_address(schedule.has_dead_family, replica);
        (address.to_string(), fate(schedule, replica))
    });
    let fates: BTreeMap<_, _> = fates.collect();
    let down = events.iter().filter_map(|(at, event)| match event {
        Event::Record(record) if record.get("status") == Some("down") => Some((*at, record)),
        _ => None,
    });
    let violated = down.filter(|(_, record)| {
        let message = record.get("message").unwrap_or_default();
        let fate = record.get("replica").and_then(|address| fates.get(address));
        match fate {
            Some(Fate::Calm) => true,
            Some(Fate::Silent(time)) => *time < SHORT_SILENCE && message.contains("broken off"),
            Some(Fate::Other) | None => false,
        }
    });
    violated
        .map(|(at, record)| (at, format!("nothing has ended it: {record}")))
        .collect()
}

/// While a replica can be reached, no call fails because none can be.
fn reachable(schedule: &Schedule, events: &[&Noted]) -> Vec<(Duration, String)> {
    let is_known = schedule.faults.iter().all(|fault| match fault.what {
        What::NameFails | What::NameHangs | What::NameEmpty | What::NameMoves => {
            fault.at > Duration::from_secs(1)
        }
        What::NameFlaps(_) => false,
        _ => true,
    });
    let is_calm = (0..schedule.replicas.len()).any(|it| fate(schedule, it) == Fate::Calm);
    if !is_known || !is_calm {
        return Vec::new();
    }
    let strangers = events.iter().filter_map(|(_, event)| match event {
        Event::Begin(plan) if plan.is_of_stranger => Some(plan.order.call),
        _ => None,
    });
    let strangers: BTreeSet<_> = strangers.collect();
    let failed = events.iter().filter_map(|(at, event)| match event {
        Event::End {
            call,
            outcome: Outcome::Failed(Code::Unavailable, message),
        } if message.contains("no replica can be reached") => Some((*at, call)),
        _ => None,
    });
    failed
        .filter(|(_, call)| !strangers.contains(call))
        .map(|(at, call)| {
            (
                at,
                format!("call {call} finds no replica, and one is there"),
            )
        })
        .collect()
}

/// In a steady run a replica on which every call fails gets little more than its trials.
fn bad_replicas(schedule: &Schedule, events: &[&Noted]) -> Vec<(Duration, String)> {
    if !schedule.is_steady {
        return Vec::new();
    }
    let is_bad = |replica: usize| match &schedule.replicas[replica] {
        Kind::Ours { .. } => false,
        Kind::Fake(character) => character.shows_its_faults(),
    };
    let mut clients = BTreeMap::new();
    let mut calls = BTreeMap::<_, BTreeSet<_>>::new();
    for (_, event) in events {
        match event {
            Event::Begin(plan) => {
                clients.extend(plan.client.map(|client| (plan.order.call, client)));
            }
            Event::Processed { call, replica } | Event::Does { call, replica, .. } => {
                if let (Some(client), true) = (clients.get(call), is_bad(*replica)) {
                    calls.entry((*replica, *client)).or_default().insert(call);
                }
            }
            _ => {}
        }
    }
    let most = |replica: usize, client: usize| {
        let (workers, rate) = schedule.clients[client];
        let hangs =
            matches!(&schedule.replicas[replica], Kind::Fake(character) if character.hangs());
        // Those on their way, until it is known that they are late.
        let late = if hangs { 1.0 } else { 0.0 };
        let late = u32::try_from(workers).map_or(f64::MAX, f64::from) * rate * late;
        f64::from(TRIALS) + late
    };
    let too_many = calls.iter().filter(|((replica, client), calls)| {
        let got = u32::try_from(calls.len()).map_or(f64::MAX, f64::from);
        got > most(*replica, *client)
    });
    too_many
        .map(|((replica, client), calls)| {
            let got = calls.len();
            let kind = &schedule.replicas[*replica];
            let what =
                format!("replica {replica} fails, and got {got} calls of {client}: {kind:?}");
            (Duration::ZERO, what)
        })
        .collect()
}

/// Where all is reachable, a call that may be made again is, before its deadline. And nobody ends a
/// connection with calls on it.
fn waits(schedule: &Schedule, events: &[&Noted]) -> Vec<(Duration, String)> {
    let is_plain = schedule.replicas.iter().all(|kind| match kind {
        Kind::Ours { .. } => true,
        Kind::Fake(character) => character.has_plain_connections(),
    });
    let harmful = schedule.faults.iter().filter(|fault| {
        let is_harmless = matches!(
            fault.what,
            What::Health(..) | What::Overload(..) | What::ClockSteps(_)
        );
        !is_harmless
    });
    let harmful: Vec<_> = harmful.collect();
    let is_near = |from: Duration, to: Duration| {
        let is_over = |it: &Fault| it.at + it.lasts + AFTERMATH < from || it.at > to;
        is_plain && harmful.iter().all(|it| is_over(it))
    };
    let mut last_seen = BTreeMap::<String, (Duration, bool)>::new();
    let mut violations = Vec::new();
    for (at, event) in events {
        match event {
            Event::Processed { call, .. } | Event::Does { call, .. } => {
                last_seen.insert(id_of(*call), (*at, false));
            }
            Event::Record(record) if record.get("status") == Some("retry") => {
                last_seen.insert(record.request_id.clone(), (*at, true));
            }
            Event::End {
                call,
                outcome: Outcome::Failed(Code::DeadlineExceeded, _),
            } => {
                if let Some((seen, true)) = last_seen.get(&id_of(*call))
                    && at.saturating_sub(*seen) > LONGEST_PAUSE
                    && is_near(*seen, *at)
                {
                    let waited = at.saturating_sub(*seen);
                    let what = format!("call {call} waited for {waited:?}, and was not made again");
                    violations.push((*at, what));
                }
            }
            Event::CutOff { replica, calls } if schedule.is_steady => {
                let what = format!("{calls} calls on a good connection to {replica} were cut off");
                violations.push((*at, what));
            }
            _ => {}
        }
    }
    violations
}

/// The code of a response that is not gRPC follows from its HTTP status, as in
/// <https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md>.
fn codes(events: &[&Noted]) -> Vec<(Duration, String)> {
    let expected = |status: u16| match status {
        400 => Code::Internal,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::Unimplemented,
        429 | 502 | 503 | 504 => Code::Unavailable,
        _ => Code::Unknown,
    };
    let failed = events.iter().filter_map(|(at, event)| {
        let Event::End {
            call,
            outcome: Outcome::Failed(code, message) | Outcome::BrokeOff(code, message),
        } = event
        else {
            return None;
        };
        let status = message.strip_prefix("the response is HTTP's ")?;
        let status = status.split(' ').next()?.parse().ok()?;
        (expected(status) != *code).then(|| {
            let what = format!("call {call} failed with {code:?} for HTTP's {status}");
            (*at, what)
        })
    });
    failed.collect()
}
