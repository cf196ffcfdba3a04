"""Faults that `common` had once, for tests/simulation/faults/run. Each text to search must be in one place
in common/src; white space in it matches any white space. In its replacement, FAULT is the condition under
which the fault is there, so that one build has all faults."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """What was wrong, and the edit that puts it back."""

    name: str
    search: str
    replace: str


FAULTS = [
    Fault(
        "a replica that answers with garbage counts as cancelled, and draws the calls",
        "if let Some(ending) = self.ending { return ending; } "
        "let is_over = self.deadline.is_some_and(",
        "let is_garbage = matches!(self.ending, Some(Ending::NotGrpc | Ending::NoStatus "
        "| Ending::CutShort | Ending::NoMessage | Ending::InvalidFlag | Ending::SecondMessage "
        "| Ending::Undecodable | Ending::ResetAfterHead(_))); "
        "if let Some(ending) = self.ending && !(is_garbage && FAULT) { return ending; } "
        "let is_over = !is_garbage && self.deadline.is_some_and(",
    ),
    Fault(
        "late frames of reset streams end the connection of a client",
        ".max_local_error_reset_streams(None) "
        ".max_concurrent_reset_streams(limits::REMEMBERED_RESETS)",
        ".max_local_error_reset_streams(FAULT.then_some(1_024)) "
        ".max_concurrent_reset_streams(if FAULT { 50 } else { limits::REMEMBERED_RESETS })",
    ),
    Fault(
        "a hung connection is not asked while its streams are full",
        "if !is_asking && !questions.ask(activity).await {",
        "if !is_asking && (FAULT || !questions.ask(activity).await) {",
    ),
    Fault(
        "a change of addresses drops connections that work before new ones do",
        "has_left && is_connected(address) && is_last",
        "has_left && is_connected(address) && is_last && !FAULT",
    ),
    Fault(
        "a slow call of one method moves all calls of another",
        "(took + FLOOR).div_duration_f64(usual + FLOOR)",
        "(took + FLOOR).div_duration_f64(if FAULT { FLOOR } else { usual + FLOOR })",
    ),
    Fault(
        "open streams count as load",
        "averages.slowness * (1.0 + waiting + open * OPEN)",
        "averages.slowness * (1.0 + waiting + open * if FAULT { 1.0 } else { OPEN })",
    ),
    Fault(
        "a GOAWAY during a question ends the calls that it spares",
        "let reply = timeout(TICK * REPLY, health_check).await; note_reply(reply.ok().flatten(), activity);",
        "let reply = timeout(TICK * REPLY, health_check).await.ok().flatten(); note_reply(reply, activity); "
        "if reply.is_none() && FAULT { connection.break_off(); }",
    ),
    Fault(
        "a standstill of two seconds cuts streams",
        "since_ping.is_some_and(|since| ticks - since >= BROKEN)",
        "since_ping.is_some_and(|since| ticks - since >= if FAULT { 8 } else { BROKEN })",
    ),
    Fault(
        "HTTP's 503 of a proxy is not UNAVAILABLE",
        "502..=504 => (Code::Unavailable, Failure, Next::Retry),",
        "502..=504 if !FAULT => (Code::Unavailable, Failure, Next::Retry),",
    ),
    Fault(
        "each worker learns for itself that a replica fails",
        "shared.failfast, shared.waiting.clone(), shared.memory.clone(),",
        "shared.failfast, shared.waiting.clone(), "
        "if FAULT { Arc::default() } else { shared.memory.clone() },",
    ),
    Fault(
        "one address more opens most connections again",
        "all.sort_by_cached_key(|address| hasher.hash_one((self.seed, subset.number, address)));",
        "let count = if FAULT { all.len() } else { 0 }; all.sort_by_cached_key("
        "|address| hasher.hash_one((self.seed, subset.number, address, count)));",
    ),
    Fault(
        "a pushback beyond the deadline is waited for",
        "if pause < left { Decision::Again(pause) }",
        "if pause < left || FAULT { Decision::Again(pause) }",
    ),
    Fault(
        "addresses of one family only are tried",
        "let is_hopeless = first.iter().all(|one| state(one) == State::Unreachable);",
        "if FAULT { return (first, None); } "
        "let is_hopeless = first.iter().all(|one| state(one) == State::Unreachable);",
    ),
    Fault(
        "a replica that hangs and is healthy stays",
        "let late = |is_late, judgement| if is_late { judgement } else { Nothing };",
        "let late = |is_late, judgement| if is_late && !FAULT { judgement } else { Nothing };",
    ),
    Fault(
        "the failure of a long stream is forgotten",
        "fn remember(&self, class: Class, start: Instant, responded: Option<Instant>, now: Instant) {",
        "fn remember(&self, class: Class, start: Instant, responded: Option<Instant>, now: Instant) { "
        "if now - start > std::time::Duration::from_secs(10) && FAULT { return; }",
    ),
    Fault(
        "a streamed body of a known length is logged as broken off",
        "&& self.version < Version::HTTP_2 && self.size >= length",
        "&& self.version < Version::HTTP_2 && !FAULT && self.size >= length",
    ),
    Fault(
        "a client that reads steadily is cut at the limit",
        "if this.stalled.take().is_some() { this.connection.handle.usage.note_taken(); }",
        "if !FAULT && this.stalled.take().is_some() { this.connection.handle.usage.note_taken(); }",
    ),
    Fault(
        "a response is cut after its line said that it was whole",
        "let has_rest = self.end == End::Complete",
        "let has_rest = !FAULT && self.end == End::Complete",
    ),
    Fault(
        "the response to HEAD has a body",
        "never || self.method == Method::HEAD",
        "never || self.method == Method::HEAD && !FAULT",
    ),
    Fault(
        "a drain closes connections with a request on its way",
        "Some(Close::Drain) => { self.phase",
        "Some(Close::Drain) if FAULT => self.end_within(Duration::ZERO, now), "
        "Some(Close::Drain) => { self.phase",
    ),
    Fault(
        "at the limit of connections a newcomer waits for the idle time-out",
        "let makes_room = self.end_longest_idle(newcomer, why);",
        "let makes_room = FAULT || self.end_longest_idle(newcomer, why);",
    ),
    Fault(
        "a static route takes the deadline of one with a parameter",
        "let is_nearest = found.params.is_empty()",
        "let is_nearest = FAULT || found.params.is_empty()",
    ),
    Fault(
        "a stream that is cut counts as 200",
        "(End::Cut(_), _) => (self.status, Some(\"the response broke off\")),",
        "(End::Cut(_), _) => (self.status, (!FAULT).then_some(\"the response broke off\")),",
    ),
    Fault(
        "a client whose requests are refused is idle",
        "connection.handle.usage.restart_idle_time();",
        "if !FAULT { connection.handle.usage.restart_idle_time(); }",
    ),
    Fault(
        "half a head behind a whole request has the idle time-out",
        "pub(crate) fn note_request(&self) { "
        "self.has_unparsed.store(!self.tail.is_empty_line(), Relaxed);",
        "pub(crate) fn note_request(&self) { "
        "self.has_unparsed.store(!self.tail.is_empty_line() && !FAULT, Relaxed);",
    ),
]
