//! What must hold of the requests of HTTP clients.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    checks::Noted,
    records::Record,
    schedule::{Schedule, What},
    service::id_of,
    trace::Event,
    visit::{Ask, End, Got},
};

/// The longest time of a request: its deadline, and what a client may take to read on.
const LONGEST: Duration = Duration::from_secs(25);

/// The longest time of half a head: that which the server gives it, and some more.
const LONGEST_HALF_HEAD: Duration = Duration::from_secs(7);

/// The time after which a server closes an idle connection, unless it is told another.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);

/// A connection that is closed by so much too early may have met its time-out.
const MARGIN: Duration = Duration::from_millis(100);

/// The longest drain, and the time in which clients see its end.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
const SOON: Duration = Duration::from_secs(3);

/// A response that is no longer than this counts as taken by the socket, in bytes.
const SENT_AT_ONCE: u64 = 16 * 1_024;

/// What is known of a request.
struct Request<'a> {
    ask: &'a Ask,
    at: Duration,
    /// Its access lines: one, or none.
    lines: Vec<&'a Record>,
    /// When the last of them was written: the server has sent the response.
    ended_at: Option<Duration>,
}

impl Request<'_> {
    fn line(&self) -> Option<&Record> {
        self.lines.last().copied()
    }
}

/// Returns what was violated, and when.
pub fn violations(schedule: &Schedule, events: &[Noted]) -> Vec<(Duration, String)> {
    let mut violations = Vec::new();
    let edge = Edge::of(schedule, events);
    let requests = requests(events);
    for (at, event) in events {
        let mut violated = |what: String| violations.push((*at, what));
        match event {
            Event::Got { call, got, took } => {
                let request = &requests[call];
                let (ask, line) = (request.ask, request.line());
                if let Some(what) = disagreement(got, &request.lines) {
                    violated(format!(
                        "request {call} got {got:?} in {took:?}, but {what}"
                    ));
                }
                if ask.is_head() && got.bytes > 0 {
                    violated(format!(
                        "request {call} is a HEAD, and got {} bytes",
                        got.bytes
                    ));
                }
                let is_refused = got.status == 503 && edge.refuses;
                if ask.expected().is_some_and(|it| it != got.status) && !is_refused {
                    violated(format!("request {call} got {got:?}: {ask:?}"));
                }
                let reason = line.and_then(|line| line.get("reason"));
                let is_told = reason.is_some_and(|reason| !reason.contains("client"));
                if got.end == End::Broken && !is_told && !edge.breaks && !edge.gave_up(*at) {
                    violated(format!("request {call} broke off: {got:?}, {line:?}"));
                }
                if *took > LONGEST && !ask.is_endless() && !edge.is_slow {
                    violated(format!("request {call} took {took:?}: {ask:?}"));
                }
            }
            Event::Unanswered {
                call,
                after,
                took,
                error,
            } => {
                let Request { ask, at, .. } = &requests[call];
                // The edge closes an idle connection in time, and a request may cross that on its way.
                let idle_since = after.and_then(|after| requests[&after].ended_at);
                let may_be_closed =
                    idle_since.is_some_and(|since| *at + MARGIN >= since + edge.idle_timeout);
                if edge.serves(*at) && !may_be_closed {
                    violated(format!(
                        "request {call} got no response in {took:?}: {error}, {ask:?}"
                    ));
                }
            }
            Event::Taken { calls, bytes } => {
                let lines = calls.iter().filter_map(|call| requests[call].line());
                let whole = lines.filter(|line| line.get("reason").is_none());
                let sizes = whole.filter_map(|line| line.get("response_size")?.parse::<u64>().ok());
                // The end of a short one is not waited for.
                let said = sizes.filter(|size| *size > SENT_AT_ONCE).sum::<u64>();
                if said > *bytes && !edge.is_killed {
                    violated(format!(
                        "the lines of {calls:?} say {said} bytes, of which the socket took {bytes}"
                    ));
                }
            }
            Event::Closed { call, idle } => {
                let is_early = *idle + MARGIN < edge.idle_timeout;
                if is_early && edge.serves(*at) && edge.serves(at.saturating_sub(*idle)) {
                    violated(format!(
                        "the connection of request {call} was closed within {idle:?}"
                    ));
                }
            }
            Event::Hurried { took } if *took > edge.longest_half_head() && !edge.is_slow => {
                violated(format!("half a head had {took:?}"));
            }
            _ => {}
        }
    }
    violations
}

fn requests(events: &[Noted]) -> BTreeMap<u64, Request<'_>> {
    let mut requests = BTreeMap::new();
    let mut of_id = BTreeMap::new();
    for (at, event) in events {
        match event {
            Event::Asks(ask) => {
                of_id.insert(id_of(ask.call), ask.call);
                let request = Request {
                    ask,
                    at: *at,
                    lines: Vec::new(),
                    ended_at: None,
                };
                requests.insert(ask.call, request);
            }
            Event::Record(record)
                if record.is_access_line() && record.get("grpc_code").is_none() =>
            {
                let request = of_id.get(&record.request_id);
                if let Some(request) = request.and_then(|call| requests.get_mut(call)) {
                    request.lines.push(record);
                    request.ended_at = Some(*at);
                }
            }
            _ => {}
        }
    }
    requests
}

/// Where the access lines of a request say something else than its client got.
fn disagreement(got: &Got, lines: &[&Record]) -> Option<String> {
    let [line] = lines else {
        return Some(format!("it has {} access lines", lines.len()));
    };
    let number = |name| line.get(name).and_then(|text| text.parse::<u64>().ok());
    let (status, size) = (number("response_status"), number("response_size"));
    let agrees = match got.end {
        End::Whole => {
            let is_whole = line.get("reason").is_none();
            is_whole && status == Some(got.status.into()) && size == Some(got.bytes)
        }
        End::Broken | End::Left => size >= Some(got.bytes),
    };
    (!agrees).then(|| format!("its line says {line}"))
}

/// What happens to the edge in a run.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
struct Edge {
    /// Whether it is killed.
    is_killed: bool,
    /// Whether its connections break.
    breaks: bool,
    /// Whether the ways to it are slow, or its connections are few.
    is_slow: bool,
    /// Whether it has few places for requests.
    refuses: bool,
    /// The time after which it closes an idle connection.
    idle_timeout: Duration,
    /// Whether it closes idle connections to make room.
    makes_room: bool,
    /// The begin of each drain.
    drains: Vec<Duration>,
}

impl Edge {
    fn of(schedule: &Schedule, events: &[Noted]) -> Self {
        let happens = |is_it: fn(&What) -> bool| schedule.faults.iter().any(|it| is_it(&it.what));
        let drains = events.iter().filter_map(|(at, event)| match event {
            Event::Drains => Some(*at),
            _ => None,
        });
        let is_killed = happens(|what| matches!(what, What::EdgeKill));
        Self {
            is_killed,
            breaks: is_killed || happens(|what| matches!(what, What::EdgeReset)),
            is_slow: happens(|what| matches!(what, What::EdgeConditions(_))),
            refuses: schedule.edge.in_flight.is_some(),
            idle_timeout: schedule.edge.idle_timeout.unwrap_or(IDLE_TIMEOUT),
            makes_room: schedule.edge.connections.is_some(),
            drains: drains.collect(),
        }
    }

    /// The longest time of half a head. Where connections are few, it may wait for a place while all have
    /// requests, but not until idle ones time out.
    fn longest_half_head(&self) -> Duration {
        if self.makes_room {
            self.idle_timeout.max(Duration::from_mins(1))
        } else {
            LONGEST_HALF_HEAD
        }
    }

    /// Whether a drain that took too long has just ended.
    fn gave_up(&self, at: Duration) -> bool {
        let mut drains = self.drains.iter();
        drains.any(|drain| at >= *drain + DRAIN_TIMEOUT && at < *drain + DRAIN_TIMEOUT + SOON)
    }

    /// Whether a request of this time on an open connection gets a response: a drain reads what was sent
    /// before it.
    fn serves(&self, at: Duration) -> bool {
        let drains = |drain: &Duration| at >= *drain && at < *drain + Duration::from_mins(1);
        !self.breaks && !self.makes_room && !self.is_slow && !self.drains.iter().any(drains)
    }
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;
    use crate::visit::Visit;

    const IDLE_TIMEOUT: Duration = Duration::from_secs(3);

    /// What is violated where the second request of a connection gets no response, so long after the end
    /// of the first response.
    fn violated(idle: Duration) -> usize {
        let mut schedule = Schedule::draw(0);
        schedule.faults.clear();
        schedule.edge = crate::edge::Limits {
            idle_timeout: Some(IDLE_TIMEOUT),
            ..Default::default()
        };
        let Visit::Http1(asks) = Visit::with_pause(1, 2, idle) else {
            unreachable!("it is over HTTP/1.1");
        };
        let ended = Duration::from_millis(1);
        let line = Record::access_line(id_of(1), Level::INFO);
        let unanswered = Event::Unanswered {
            call: 2,
            after: Some(1),
            took: Duration::ZERO,
            error: "closed".to_owned(),
        };
        let events = [
            (Duration::ZERO, Event::Asks(asks[0].clone())),
            (ended, Event::Record(line)),
            (ended + idle, Event::Asks(asks[1].clone())),
            (ended + idle, unanswered),
        ];
        violations(&schedule, &events).len()
    }

    #[test]
    fn a_request_may_cross_the_end_of_an_idle_connection_and_no_earlier_one_is_lost() {
        let millis = Duration::from_millis;
        assert_eq!(violated(IDLE_TIMEOUT), 0);
        assert_eq!(violated(millis(2_900)), 0);
        assert_eq!(violated(millis(2_898)), 1);
        assert_eq!(violated(Duration::ZERO), 1);
    }
}
