"""The breaks of tests/breaks/run. Each text to search must be in one place in common/src; white space in
it matches any white space, so that formatting and moves of files change nothing."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Break:
    """One behaviour, the edit that breaks it, and the tests that should notice."""

    name: str
    search: str
    replace: str
    tests: str


UNIT = "--package common --lib"
PROCESSES = "--package tests --test processes"
EMBEDDED = "--package tests --test embedded"
TLS = "--package tests --test tls"
MODELS = "--package models --test models"

BREAKS = [
    Break(
        "the request id of a client is not kept",
        "RequestId::try_from(value).map(Some),",
        "RequestId::try_from(value).map(|_| None),",
        f"{PROCESSES} call::the_id",
    ),
    Break(
        "a 404 has no request id",
        "let headers = response.headers_mut(); let SharedContext { request_id, timings, .. } "
        "= &*line.context.shared; let dialect = line.dialect(); dialect.write_id(request_id, headers);",
        "let is_lost = response.status() == 404; let headers = response.headers_mut(); "
        "let SharedContext { request_id, timings, .. } = &*line.context.shared; "
        "let dialect = line.dialect(); if !is_lost { dialect.write_id(request_id, headers); }",
        f"{PROCESSES} context::the_id",
    ),
    Break(
        "a call carries no grpc-timeout",
        "headers.insert(Deadline::GRPC_TIMEOUT, format_timeout(left));",
        "let _ = format_timeout(left);",
        f"{UNIT} client::",
    ),
    Break(
        "the deadline does not end a stream that waits",
        "} else { ready!(poll_timer(this.timer, *this.deadline, cx)); } this.body.drop_body();",
        "} else { return Poll::Pending; } this.body.drop_body();",
        f"{PROCESSES} context::the_deadline",
    ),
    Break(
        "a call that is not idempotent is retried",
        "false => Some(Why::NotIdempotent),",
        "false => None,",
        f"{UNIT} attempts::",
    ),
    Break(
        "retries ignore their budget",
        "let is_granted = self.withdraw();",
        "let is_granted = true;",
        f"{UNIT} attempts::",
    ),
    Break(
        "a retry ignores the pushback",
        "number_in(value).map_or(Self::Never,",
        "number_in(value).map_or(Self::After(Duration::ZERO),",
        f"{PROCESSES} overload::",
    ),
    Break(
        "a panic ends its connection",
        "catch_unwind(AssertUnwindSafe(|| inner.as_mut().poll(cx)));",
        "Ok::<_, ()>(inner.as_mut().poll(cx));",
        f"{PROCESSES} failures::a_panic",
    ),
    Break(
        "response_size is that of the last frame",
        "self.size += bytes",
        "self.size = bytes",
        f"{PROCESSES} items::items",
    ),
    Break(
        "a client that went away is logged as 200",
        '(CLIENT_CLOSED_REQUEST, Some("the client went away"))',
        '(200, Some("the client went away"))',
        f"{PROCESSES} context::a_client",
    ),
    Break(
        "a body may be a byte over the limit",
        "body: limit,",
        "body: 1 | limit,",
        f"{PROCESSES} bad_input::unknown_paths",
    ),
    Break(
        "log lines are not escaped",
        "if is_plain(text.as_bytes()) {",
        "if is_plain(text.as_bytes()) || true {",
        f"{UNIT} logging::",
    ),
    Break(
        "a drain drops the requests in flight",
        "timeout(worker.settings.drain_timeout, all_ended)",
        "timeout(Duration::ZERO, all_ended)",
        f"{PROCESSES} drain::",
    ),
    Break(
        "a drain drops the connections that wait to be accepted",
        "while let Ok(accepted) = socket.accept() {",
        "if let Ok(accepted) = socket.accept() {",
        f"{PROCESSES} limits::a_silent_client",
    ),
    Break(
        "a 503 has no Retry-After",
        "headers.insert(RETRY_AFTER, HeaderValue::from(wait.as_secs().max(1)));",
        "let _ = wait;",
        f"{PROCESSES} failures::without_service1",
    ),
    Break(
        "a draining service says that it is ready",
        "self.state.send_replace(ReadinessState::Draining);",
        "",
        f"{PROCESSES} start::a_draining",
    ),
    Break(
        "the last log lines do not wait for a slow reader",
        "logging::finish();",
        "",
        f"{PROCESSES} log::",
    ),
    Break(
        "NOT_FOUND becomes 409",
        "(Code::NotFound, 404), (Code::Aborted, 409),",
        "(Code::NotFound, 409), (Code::Aborted, 409),",
        f"{UNIT} problem::",
    ),
    Break(
        "the deadline of a route is ignored",
        "is_nearest.then_some(*deadline)",
        "(is_nearest && deadline.is_zero()).then_some(*deadline)",
        f"{EMBEDDED} a_route",
    ),
    Break(
        "a stream is not told of the drain",
        "Some(token) => token.cancelled().await,",
        "Some(_) => std::future::pending().await,",
        f"{EMBEDDED} a_route",
    ),
    Break(
        "a failed check leaves the service ready",
        "if state.is_some() { readiness.require(); }",
        "",
        f"{EMBEDDED} readiness",
    ),
    Break(
        "a router may take the path of the metrics",
        "return Err(InvalidFace::PathTaken(path));",
        "continue;",
        f"{PROCESSES} start::a_router",
    ),
    Break(
        "blocking work loses its request",
        "spawn_blocking(move || context.sync_scope(work))",
        "spawn_blocking(work)",
        f"{UNIT} context::",
    ),
    Break(
        "two metrics have one name",
        'taken.insert(name.clone()), "the name {name:?} of a metric',
        'taken.insert(name.clone()) || true, "the name {name:?} of a metric',
        f"{UNIT} metrics::",
    ),
    Break(
        "a peer that is not listed may call",
        "listed.as_ref().is_none_or(Option::is_some);",
        "listed.as_ref().is_none_or(|name| name.is_some() || true);",
        f"{TLS} a_peer_that_is_not_allowed",
    ),
    Break(
        "sessions between services are resumed",
        "config.send_tls13_tickets = 0;",
        "config.ticketer = ring::Ticketer::new().unwrap();",
        f"{TLS} a_session_is_never_resumed",
    ),
    Break(
        "certificates are not checked before their use",
        "verified.map_err(of(CERTIFICATE))?;",
        "let _ = verified;",
        f"{TLS} certificates_that_can_t_be_used",
    ),
    Break(
        "a channel takes another peer than the one it expects",
        "if names.uri() == Some(self.id.as_str()) {",
        "if names.uri().is_some() {",
        f"{UNIT} a_server_is_taken_for_the_one_uri",
    ),
    Break(
        "of two URIs of a certificate, the first counts",
        "[uri] if uri.len() <= MAX_URI => Some(uri),",
        "[uri, ..] if uri.len() <= MAX_URI => Some(uri),",
        f"{UNIT} tls::",
    ),
    Break(
        "a FIFO in place of a certificate file blocks",
        "let flags = OFlags::NONBLOCK | OFlags::NOCTTY;",
        "let flags = OFlags::NOCTTY;",
        f"{TLS} a_file_that_blocks",
    ),
    Break(
        "a TCP check is a failed handshake",
        "let Some(first) = first else { return Ok(None); };",
        "let Some(first) = first else { return Err(io::ErrorKind::UnexpectedEof.into()); };",
        f"{TLS} a_tcp_check",
    ),
    Break(
        "what TLS has buffered counts as read",
        "this.connection.outbound.note_writing(true); *this.is_flushing = true;",
        "*this.is_flushing = true;",
        f"{UNIT} a_peer_that_reads_nothing",
    ),
    Break(
        "two workers take one permit",
        "let before = count.taken.fetch_add(1 + in_advance, Relaxed);",
        "let before = count.taken.load(Relaxed); count.taken.store(before + 1 + in_advance, "
        "Relaxed);",
        f"{MODELS} capacity::",
    ),
    Break(
        "a network does not get back its permits of the reserve",
        "self.permits.leave_reserve(*pool, network);",
        "",
        f"{MODELS} capacity::",
    ),
    Break(
        "a refused request keeps its permit",
        "self.release(pool, 1); Err(NoPermit { limit: count.limit })",
        "Err(NoPermit { limit: count.limit })",
        f"{MODELS} capacity::",
    ),
    Break(
        "threads that are no workers take permits in advance",
        "/ limits::SPARE_SHARE / workers)",
        "/ limits::SPARE_SHARE)",
        f"{MODELS} capacity::",
    ),
    Break(
        "a connection is preempted without being woken",
        "let is_new = !self.is_preempted.swap(true, Relaxed); self.wake();",
        "let is_new = !self.is_preempted.swap(true, Relaxed);",
        f"{MODELS} capacity::",
    ),
    Break(
        "a reason to close takes the waker",
        "let waker = lock(&self.waker).clone();",
        "let waker = lock(&self.waker).take();",
        f"{MODELS} capacity::",
    ),
    Break(
        "two workers withdraw one attempt",
        "let is_granted = state.balance >= 1.0;",
        "let is_granted = state.balance >= 1.0; drop(state); let mut state = lock(&self.0);",
        f"{MODELS} budget::",
    ),
    Break(
        "the last calls of a worker that ends are lost",
        "fence(Acquire);",
        "",
        f"{MODELS} budget::",
    ),
    Break(
        "two workers take one trial",
        "let taken = self .next_trial .compare_exchange(due, next, Relaxed, Relaxed);",
        "self.next_trial.store(next, Relaxed); let taken = Ok::<u64, u64>(due);",
        f"{MODELS} pool::",
    ),
    Break(
        "a trial that fails ejects a replica that is readmitted",
        "record.prolong(now); }",
        "record.eject(now); }",
        f"{MODELS} pool::",
    ),
    Break(
        "an ejection is forgotten in silence",
        "self.ejected.swap(0, Relaxed) > 0",
        "let was_ejected = self.is_ejected(); self.ejected.store(0, Relaxed); was_ejected",
        f"{MODELS} pool::",
    ),
    Break(
        "a worker sees the number of changes before the changes",
        "self.changes.load(Acquire)",
        "self.changes.load(crate::sync::atomic::Ordering::Relaxed)",
        f"{MODELS} pool::",
    ),
    Break(
        "the window loses calls where workers meet",
        "let _ = self.0.fetch_update(Relaxed, Relaxed, add);",
        "if let Some(sum) = add(self.0.load(Relaxed)) { self.0.store(sum, Relaxed); }",
        f"{MODELS} pool::",
    ),
    Break(
        "two workers eject without seeing each other",
        "let records = lock(&self.records); let (mut known",
        "let records = lock(&self.records).clone(); let (mut known",
        f"{MODELS} pool::",
    ),
    Break(
        "a readmission wakes nobody",
        "self.readmitted.notify_waiters(); info!(",
        "info!(",
        f"{MODELS} pool::",
    ),
    Break(
        "the watch sleeps through a call",
        "self.begun.fetch_add(0, AcqRel);",
        "",
        f"{MODELS} wire::",
    ),
    Break(
        "a call that waits misses a free stream",
        "self.ended.fetch_add(0, AcqRel);",
        "",
        f"{MODELS} wire::",
    ),
    Break(
        "no call that waits is the first",
        "is_first: others == 0,",
        "is_first: false,",
        f"{MODELS} wire::",
    ),
    Break(
        "a call that waits for a stream is not noticed",
        "self.wanted.notify_one();",
        "",
        f"{MODELS} wire::",
    ),
    Break(
        "silence that begins beside a look is missed",
        "let went_silent = self.went_silent.notified(); if self.silent.load(Relaxed) > 0 { "
        "return; } went_silent.await;",
        "if self.silent.load(Relaxed) > 0 { return; } self.went_silent.notified().await;",
        f"{MODELS} wire::",
    ),
    Break(
        "the port for operators answers to foreign host names",
        "is_of_kubernetes || self.0.contains(&name)",
        "is_of_kubernetes || !name.is_empty()",
        f"{UNIT} admin_names",
    ),
    Break(
        "a worker that is stuck is ready",
        "if turns != seen.turns || is_waiting(&watched.metrics) {",
        "if turns >= seen.turns || is_waiting(&watched.metrics) {",
        f"{UNIT} vitals",
    ),
    Break(
        "an empty variable is a value",
        "} else if text.is_empty() { Variable::Unset",
        "} else if text.is_empty() && name.is_empty() { Variable::Unset",
        f"{UNIT} environment",
    ),
    Break(
        "no access line of a client's error is left out",
        "share < 1.0 && fastrand::f64() >= share",
        "share < 0.0 && fastrand::f64() >= share",
        f"{PROCESSES} context::access_lines",
    ),
]
