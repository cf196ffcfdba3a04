//! Whether the metrics of a run agree with its access lines and with what the callers got.

use std::collections::BTreeMap;

use tonic::Code;

use crate::{
    call::{Method, Outcome},
    checks::Noted,
    trace::Event,
};

/// A kind of request, and how often it ended in each way.
type Counts = BTreeMap<(String, String), u64>;

/// Returns where the metrics, as `/metrics` shows them after the run, say something else.
pub fn violations(text: &str, events: &[Noted]) -> Vec<String> {
    let mut counted = Counts::new();
    for (labels, count) in text.lines().filter_map(series) {
        let mut add = |kind: &str, end: String| {
            *counted.entry((kind.to_owned(), end)).or_default() += count;
        };
        if let Some(status) = label(labels, "http_response_status_code") {
            add("HTTP", status.to_owned());
        }
        let Some(code) = label(labels, "rpc_grpc_status_code").and_then(|it| it.parse().ok())
        else {
            continue;
        };
        let method = label(labels, "rpc_method").unwrap_or_default();
        let method = method.rsplit('/').next().unwrap_or_default();
        if labels.starts_with("rpc_server_duration") {
            add("gRPC", name(Code::from_i32(code)));
        } else if labels.starts_with("rpc_client_duration") && is_of_plans(method) {
            add(method, name(Code::from_i32(code)));
        }
    }
    // A call that came with no time left is counted apart.
    let expired = text
        .lines()
        .find_map(|line| line.strip_prefix("requests_expired_total "));
    let expired = expired.and_then(|it| it.parse::<u64>().ok());
    let late = ("gRPC".to_owned(), name(Code::DeadlineExceeded));
    *counted.entry(late).or_default() += expired.unwrap_or_default();
    counted.retain(|_, count| *count > 0);

    let seen = seen(events);
    let all = seen.keys().chain(counted.keys());
    let mut violations: Vec<_> = all
        .filter(|key| seen.get(key) != counted.get(key))
        .map(|key| {
            let (seen, counted) = (seen.get(key), counted.get(key));
            format!("the metrics count {counted:?} of {key:?}, and there were {seen:?}")
        })
        .collect();
    violations.sort();
    violations.dedup();
    violations
}

/// What the access lines say, and the callers.
fn seen(events: &[Noted]) -> Counts {
    let mut seen = Counts::new();
    let mut methods = BTreeMap::new();
    for (_, event) in events {
        let key = match event {
            Event::Begin(plan) => {
                methods.insert(plan.order.call, plan.method);
                continue;
            }
            Event::Record(record) if record.is_access_line() => {
                let status = record.get("response_status").unwrap_or_default();
                record.get("grpc_code").map_or_else(
                    || ("HTTP".to_owned(), status.to_owned()),
                    |code| ("gRPC".to_owned(), name(code_of(code))),
                )
            }
            Event::End { call, outcome } => {
                let method = format!("{:?}", methods[call]);
                if !is_of_plans(&method) {
                    continue;
                }
                let code = match outcome {
                    Outcome::Good(_) => Code::Ok,
                    Outcome::Failed(code, _) | Outcome::BrokeOff(code, _) => *code,
                    Outcome::GivenUp => Code::Cancelled,
                };
                (method, name(code))
            }
            _ => continue,
        };
        *seen.entry(key).or_default() += 1;
    }
    seen
}

/// Whether only the calls of plans have this method, and not those of the edge.
fn is_of_plans(method: &str) -> bool {
    let ours = [Method::Put, Method::Send, Method::Chat];
    ours.iter().any(|ours| format!("{ours:?}") == method)
}

/// The name of a code in both. Some are one here: a caller may give up at its deadline, and tonic has
/// another code than the metrics for a message that is too long.
fn name(code: Code) -> String {
    match code {
        Code::Cancelled => name(Code::DeadlineExceeded),
        Code::OutOfRange => name(Code::Internal),
        code => format!("{code:?}").to_lowercase(),
    }
}

/// The code with this name in a log record.
fn code_of(text: &str) -> Code {
    let text = text.to_lowercase().replace('_', "");
    let is_it = |code: &Code| format!("{code:?}").to_lowercase() == text;
    let mut codes = (0..17).map(Code::from_i32);
    codes.find(is_it).unwrap_or(Code::Unknown)
}

/// The name and the labels of a histogram, and its count.
fn series(line: &str) -> Option<(&str, u64)> {
    let (name, count) = line.rsplit_once(' ')?;
    let is_count = name.split('{').next()?.ends_with("_duration_seconds_count");
    is_count.then(|| Some((name, count.parse().ok()?)))?
}

fn label<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = labels.split_once(&format!("{name}=\""))?;
    rest.split('"').next()
}
