//! What must hold of every run, read from its trace.

use std::{collections::BTreeMap, time::Duration};

use tonic::Code;

use crate::{
    call::{Method, Outcome, Plan},
    calm,
    fake::Manner,
    records::Record,
    schedule::Schedule,
    served,
    service::id_of,
    trace::Event,
};

/// A time, and what happened then.
pub type Noted = (Duration, Event);

/// What is known of a call.
struct Call<'a> {
    begin: Duration,
    plan: &'a Plan,
    processed: Vec<usize>,
    /// Whether a fake has altered what a success looks like.
    is_altered: bool,
    /// Whether a fake has sent the beginning of a message that is longer than what is read ahead.
    has_begun: bool,
    end: Option<(Duration, &'a Outcome)>,
    /// The record that tells why no further attempt followed.
    last_word: Option<&'a Record>,
}

/// Returns what was violated, and when.
pub fn violations(schedule: &Schedule, events: &[Noted]) -> Vec<(Duration, String)> {
    let mut violations: Vec<_> = events
        .iter()
        .filter_map(|(at, event)| match event {
            Event::Violation(what) => Some((*at, what.clone())),
            _ => None,
        })
        .collect();
    let calls = calls(events);
    for call in calls.values() {
        violations.extend(of_call(call).map(|what| {
            let at = call.end.map_or(call.begin, |(at, _)| at);
            (at, format!("call {}: {what}", call.plan.order.call))
        }));
    }
    let time_of = |is_it: fn(&Event) -> bool| {
        let event = events.iter().find(|(_, event)| is_it(event));
        event.map_or(Duration::MAX, |(at, _)| *at)
    };
    let settled = time_of(|event| matches!(event, Event::Settled));
    let even = time_of(|event| matches!(event, Event::Even));
    violations.extend(calm::violations(schedule, events));
    violations.extend(served::violations(schedule, events));
    violations.extend(after_recovery(schedule, &calls, settled, even));
    violations.sort();
    violations
}

fn calls(events: &[Noted]) -> BTreeMap<u64, Call<'_>> {
    let mut calls = BTreeMap::new();
    let mut of_id = BTreeMap::new();
    for (at, event) in events {
        match event {
            Event::Begin(plan) => {
                let call = Call {
                    begin: *at,
                    plan,
                    processed: Vec::new(),
                    is_altered: false,
                    has_begun: false,
                    end: None,
                    last_word: None,
                };
                of_id.insert(id_of(plan.order.call), plan.order.call);
                calls.insert(plan.order.call, call);
            }
            Event::Processed { call, replica } => {
                if let Some(call) = calls.get_mut(call) {
                    call.processed.push(*replica);
                }
            }
            Event::Does { call, what, .. } => {
                let manner = Manner::ALL.iter().find(|manner| manner.name() == what);
                if let (Some(call), Some(manner)) = (calls.get_mut(call), manner) {
                    call.is_altered |= manner.alters_success();
                    call.has_begun |= *manner == Manner::WindowIgnored;
                }
            }
            Event::End { call, outcome } => {
                if let Some(call) = calls.get_mut(call) {
                    call.end = Some((*at, outcome));
                }
            }
            Event::Record(record) if record.get("action") == Some("call") => {
                let call = of_id.get(&record.request_id);
                if let Some(call) = call.and_then(|call| calls.get_mut(call)) {
                    call.last_word = Some(record);
                }
            }
            _ => {}
        }
    }
    calls
}

fn of_call(call: &Call<'_>) -> Option<String> {
    let Call {
        plan, processed, ..
    } = call;
    if !plan.method.is_idempotent() && processed.len() > 1 {
        return Some(format!(
            "it is not idempotent, and was processed by {processed:?}"
        ));
    }
    let Some((_, outcome)) = call.end else {
        return Some("it has no end".into());
    };
    match outcome {
        Outcome::Good(_) if processed.is_empty() => Some("nobody processed it".into()),
        Outcome::Good(_) if call.is_altered => None,
        Outcome::Good(replies) => {
            let expected = match plan.method {
                Method::List => plan.order.replies,
                Method::Get | Method::Put | Method::Send | Method::Work => 1,
                Method::Chat => return None, // fakes reply as they like
            };
            let is_whole = *replies == expected && plan.order.code == 0;
            (!is_whole).then(|| format!("it is good, with {replies} of {expected} replies"))
        }
        Outcome::Failed(Code::Unavailable, message) => unexplained(call, message),
        Outcome::Failed(..) | Outcome::BrokeOff(..) | Outcome::GivenUp => None,
    }
}

/// An unavailable service is a reason to try again, so something must say why that was not done.
fn unexplained(call: &Call<'_>, message: &str) -> Option<String> {
    let is_told = call.has_begun
        || call.plan.order.code == Code::Unavailable as u32
        || message.contains("replica") // none could be reached
        || call.last_word.is_some_and(|record| record.get("reason").is_some());
    (!is_told).then(|| format!("it failed, and nothing says why it was not retried: {message}"))
}

/// Once all clients have recovered, no call fails, and equal replicas get equal shares.
fn after_recovery(
    schedule: &Schedule,
    calls: &BTreeMap<u64, Call<'_>>,
    settled: Duration,
    even_since: Duration,
) -> Vec<(Duration, String)> {
    let mut violations = Vec::new();
    let mut shares = vec![0_u32; schedule.replicas.len()];
    let mut all = 0;
    violations.extend(slow_calls(calls, settled, shares.len()));
    for call in calls.values().filter(|call| call.begin >= settled) {
        if let Some((at, outcome)) = call.end
            && !matches!(outcome, Outcome::Good(_))
        {
            let number = call.plan.order.call;
            let what = format!("call {number} failed though all is well: {outcome:?}");
            violations.push((at, what));
        }
        if call.begin < even_since || call.plan.method != Method::Get {
            continue;
        }
        if let Some(share) = call.processed.last().and_then(|it| shares.get_mut(*it)) {
            *share += 1;
            all += 1;
        }
    }
    let even = f64::from(all) / f64::from(u32::try_from(shares.len()).expect("few"));
    // A fifth, or what chance makes of a fair draw in one of a million cases.
    let most = (even * 0.2).max(5.0 * even.sqrt());
    for (replica, share) in shares.iter().enumerate() {
        if (f64::from(*share) - even).abs() > most {
            let what =
                format!("replica {replica} got {share} of {all} calls, of shares {shares:?}");
            violations.push((settled, what));
        }
    }
    violations
}

/// After a response that is as slow as usual, its replica gets as many calls as before.
fn slow_calls(
    calls: &BTreeMap<u64, Call<'_>>,
    settled: Duration,
    replicas: usize,
) -> Option<(Duration, String)> {
    let last = calls.values().filter(|call| call.begin >= settled);
    let last: Vec<_> = last.collect();
    let (mut got, mut all) = (0.0, 0.0);
    for work in last.iter().filter(|it| it.plan.method == Method::Work) {
        let (Some((end, _)), Some(replica)) = (work.end, work.processed.last()) else {
            continue;
        };
        let soon = end..end + Duration::from_secs(1);
        for call in &last {
            let is_meant = call.plan.method == Method::Get && call.plan.worker == work.plan.worker;
            if is_meant && soon.contains(&call.begin) {
                all += 1.0;
                got += f64::from(u8::from(call.processed.last() == Some(replica)));
            }
        }
    }
    let expected = all / f64::from(u32::try_from(replicas).expect("few"));
    // Four expected calls of five are missing by chance in one of a billion cases.
    (expected > 40.0 && got < expected / 5.0).then(|| {
        let what = format!("replicas got {got} of {expected} calls after usual responses");
        (settled, what)
    })
}
