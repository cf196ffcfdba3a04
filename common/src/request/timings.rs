//! [`Timings`]: the calls that a request made, and the time that each took; and [`Record`]: what one request
//! did, with each [`Attempt`] of its calls, for a page that shows it (see
//! [`context::record`](crate::context::record)).

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, OnceLock},
    time::{Duration, Instant},
};

use axum::extract::MatchedPath;
use http::{HeaderMap, HeaderName, HeaderValue, Uri, uri::PathAndQuery};
use tonic::Code;

use super::dialect::code_name;
use crate::{limits, sync::lock};

/// The bytes that the last two entries of the header may take: the sum of the calls that have no
/// entry of their own, and the total.
const LAST_ENTRIES: usize = 64;

/// The header of a response with the times of its request.
pub(crate) const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// The metadata of a call that asks for `server-timing`.
pub(crate) const WANT_SERVER_TIMING: HeaderName = HeaderName::from_static("want-server-timing");

/// A call that a request made.
#[derive(Debug, Clone)]
pub struct Call {
    path: PathAndQuery,
    started: Instant,
    took: Option<Duration>,
    /// Empty unless the request is recorded.
    pub(super) attempts: Vec<Attempt>,
}

impl Call {
    /// The name of the gRPC method, without its service.
    pub fn method(&self) -> &str {
        let path = self.path.path();
        path.rsplit_once('/').map_or(path, |(_, method)| method)
    }

    /// The time from the start of the call to the end of its response, or until now.
    pub fn duration(&self) -> Duration {
        self.took.unwrap_or_else(|| self.started.elapsed())
    }

    /// The start of the call.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// The attempts of the call, in the order of their starts: none before a replica can be
    /// reached, and none unless the request is [recorded](crate::context::record).
    pub fn attempts(&self) -> &[Attempt] {
        &self.attempts
    }
}

/// The timings and the route of one request. Clones share their state.
#[derive(Debug, Clone)]
pub(crate) struct Timings {
    pub(super) request: Arc<Request>,
    /// The call that the holder makes, if the request is recorded.
    pub(super) call: Option<usize>,
}

#[derive(Debug)]
pub(super) struct Request {
    pub(super) started: Instant,
    route: OnceLock<MatchedPath>,
    calls: Mutex<Calls>,
    /// The log lines of the request, if it is recorded.
    pub(super) lines: OnceLock<Mutex<Lines>>,
}

/// The log lines of a request.
#[derive(Debug, Default)]
pub(super) struct Lines {
    pub(super) kept: Vec<u8>,
    pub(super) left_out: usize,
}

#[derive(Debug, Default)]
pub(super) struct Calls {
    /// The first calls, in the order of their starts: at most [`limits::TIMED_CALLS`].
    pub(super) first: Vec<Call>,
    rest: Rest,
}

/// The sum of all further calls, such as those of a long stream.
#[derive(Debug, Default)]
struct Rest {
    /// The calls that have ended.
    took: Duration,
    running: u32,
    /// The sum of the starts of the running calls, each from the start of the request.
    starts: Duration,
}

impl Rest {
    /// The time of all these calls so far, `elapsed` after the start of the request.
    fn sum(&self, elapsed: Duration) -> Duration {
        (self.took + elapsed * self.running).saturating_sub(self.starts)
    }
}

impl Timings {
    /// The timings of a request that arrived at `started`.
    pub(crate) fn since(started: Instant) -> Self {
        let request = Request {
            started,
            route: OnceLock::new(),
            calls: Mutex::default(),
            lines: OnceLock::new(),
        };
        Self {
            request: Arc::new(request),
            call: None,
        }
    }

    pub(crate) fn set_route(&self, route: MatchedPath) {
        let _ = self.request.route.set(route);
    }

    pub(crate) fn route(&self) -> Option<&str> {
        self.request.route.get().map(MatchedPath::as_str)
    }

    /// Adds a call, which ends when the result is dropped.
    pub(crate) fn begin(&self, uri: &Uri) -> Running {
        let started = Instant::now();
        let mut calls = self.lock();
        let index = calls.first.len();
        if index < limits::TIMED_CALLS {
            calls.first.push(Call {
                path: uri
                    .path_and_query()
                    .cloned()
                    .unwrap_or_else(|| PathAndQuery::from_static("/")),
                started,
                took: None,
                attempts: Vec::new(),
            });
        } else {
            calls.rest.running += 1;
            calls.rest.starts += started - self.request.started;
        }
        Running {
            timings: self.clone(),
            index,
            started,
        }
    }

    /// The first calls so far, in the order of their starts.
    pub(crate) fn calls(&self) -> Vec<Call> {
        self.lock().first.clone()
    }

    /// The calls, and the request as a whole, as a `Server-Timing` header. Calls that have no room
    /// in it are one entry, `other`.
    pub(crate) fn header_value(&self) -> Option<HeaderValue> {
        let calls = self.lock();
        let elapsed = self.request.started.elapsed();
        let mut text = String::with_capacity(32 * (calls.first.len() + 1));
        let mut rest = calls.rest.sum(elapsed);
        for call in &calls.first {
            let before = text.len();
            push_entry(&mut text, call.method(), call.duration());
            text.push_str(", ");
            if text.len() > limits::SERVER_TIMING - LAST_ENTRIES {
                text.truncate(before);
                rest += call.duration();
            }
        }
        if !rest.is_zero() {
            push_entry(&mut text, "other", rest);
            text.push_str(", ");
        }
        push_entry(&mut text, "total", elapsed);
        HeaderValue::try_from(text).ok()
    }

    /// Keeps a log line of the request, if the request is recorded.
    pub(crate) fn keep_line(&self, line: &[u8]) {
        let Some(lines) = self.request.lines.get() else {
            return;
        };
        let mut lines = lock(lines);
        if lines.kept.len() + line.len() <= limits::RECORDED_LINES {
            lines.kept.extend_from_slice(line);
        } else {
            lines.left_out += 1;
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Calls> {
        lock(&self.request.calls)
    }
}

#[derive(Debug)]
pub(crate) struct Running {
    timings: Timings,
    /// The index among the first calls. A further call has none of their indices.
    index: usize,
    started: Instant,
}

impl Running {
    /// The timings for the holder that makes this call, if the request is recorded.
    pub(crate) fn recorded(&self) -> Option<Timings> {
        self.timings.request.lines.get()?;
        Some(Timings {
            call: (self.index < limits::TIMED_CALLS).then_some(self.index),
            ..self.timings.clone()
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let took = self.started.elapsed();
        let mut calls = self.timings.lock();
        if let Some(call) = calls.first.get_mut(self.index) {
            call.took = Some(took);
        } else {
            calls.rest.running -= 1;
            calls.rest.starts -= self.started - self.timings.request.started;
            calls.rest.took += took;
        }
    }
}

/// Appends an entry with the parameter `dur`: milliseconds to the microsecond.
///
/// It does without `write!`, which takes three times as long: each response has this header.
fn push_entry(text: &mut String, name: &str, duration: Duration) {
    text.push_str(name);
    let millis = duration.as_secs() * 1000 + u64::from(duration.subsec_millis());
    let micros = 1000 + duration.subsec_micros() % 1000; // 1 keeps leading zeros
    text.push_str(";dur=");
    text.push_str(itoa::Buffer::new().format(millis));
    text.push('.');
    text.push_str(&itoa::Buffer::new().format(micros)[1..]);
}

/// The total of a `Server-Timing` header that this crate has written, or `None` for any other text:
/// a peer may send anything.
pub(super) fn total_of(header: &HeaderValue) -> Option<Duration> {
    let (calls, total) = header.to_str().ok()?.rsplit_once("total;dur=")?;
    let (millis, micros) = total.split_once('.')?;
    let are_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let is_ours = (calls.is_empty() || calls.ends_with(", "))
        && (1..=8).contains(&millis.len()) // a day, in milliseconds
        && micros.len() == 3
        && are_digits(millis)
        && are_digits(micros);
    let micros = is_ours.then(|| format!("{millis}{micros}").parse().ok());
    micros.flatten().map(Duration::from_micros)
}

/// The calls of one request with their attempts, and its log lines. They grow until the request has
/// ended. Clones share their state.
#[derive(Debug, Clone)]
pub struct Record(Timings);

impl Record {
    /// Records a request from now on.
    pub(super) fn begin(timings: Timings) -> Self {
        timings.request.lines.get_or_init(Mutex::default);
        Self(timings)
    }

    /// The instant at which the request arrived.
    pub fn arrived(&self) -> Instant {
        self.0.request.started
    }

    /// The calls so far, in the order of their starts.
    pub fn calls(&self) -> Vec<Call> {
        self.0.calls()
    }

    /// The log lines so far: bunyan records, each with its line end. At most 8 KiB are kept.
    pub fn lines(&self) -> String {
        let lines = self.0.request.lines.get().map(lock);
        lines.map_or_else(String::new, |lines| {
            String::from_utf8_lossy(&lines.kept).into_owned()
        })
    }

    /// The number of lines that were too long to be kept.
    pub fn lines_left_out(&self) -> usize {
        let lines = self.0.request.lines.get().map(lock);
        lines.map_or(0, |lines| lines.left_out)
    }

    /// The memory of the record now, in bytes.
    pub fn size(&self) -> usize {
        let lines = self.0.request.lines.get().map(lock);
        let lines = lines.map_or(0, |lines| lines.kept.capacity());
        let calls = self.0.lock();
        let calls = &calls.first;
        let attempts: usize = calls.iter().map(|call| call.attempts.capacity()).sum();
        lines + calls.capacity() * size_of::<Call>() + attempts * size_of::<Attempt>()
    }
}

/// An attempt that is recorded until this is dropped.
#[derive(Debug)]
pub(crate) struct RunningAttempt {
    timings: Timings,
    call: usize,
    index: usize,
}

impl RunningAttempt {
    /// Begins an attempt of the current call, with what is left of its deadline. `None` unless the
    /// request is recorded.
    pub(super) fn begin(
        timings: &Timings,
        is_hedge: bool,
        replica: SocketAddr,
        left: Duration,
    ) -> Option<Self> {
        let call = timings.call?;
        let mut calls = timings.lock();
        let attempts = &mut calls.first[call].attempts;
        let index = attempts.len();
        attempts.push(Attempt {
            kind: match index {
                _ if is_hedge => AttemptKind::Hedge,
                0 => AttemptKind::First,
                _ => AttemptKind::Retry,
            },
            replica,
            started: Instant::now(),
            left,
            replica_took: None,
            end: None,
        });
        Some(Self {
            timings: timings.clone(),
            call,
            index,
        })
    }

    /// Notes the time that the replica says it took, from the head of its response.
    pub(crate) fn see_response(&self, head: &HeaderMap) {
        let told = head.get(SERVER_TIMING).and_then(total_of);
        self.change(|attempt| {
            attempt.replica_took = told.map(|told| told.min(attempt.started.elapsed()));
        });
    }

    pub(crate) fn end(&self, took: Duration, code: Code) {
        self.change(|attempt| attempt.end = Some((took, code)));
    }

    fn change(&self, change: impl FnOnce(&mut Attempt)) {
        change(&mut self.timings.lock().first[self.call].attempts[self.index]);
    }
}

/// Why an attempt was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptKind {
    /// The first attempt of a call.
    First,
    /// The attempt before it failed, or was not processed.
    Retry,
    /// The attempt before it was late, and went on beside this one.
    Hedge,
}

/// An attempt of a call, on one replica.
#[derive(Debug, Clone)]
pub struct Attempt {
    pub(super) kind: AttemptKind,
    pub(super) replica: SocketAddr,
    pub(super) started: Instant,
    pub(super) left: Duration,
    pub(super) replica_took: Option<Duration>,
    pub(super) end: Option<(Duration, Code)>,
}

impl Attempt {
    /// Why the attempt was made.
    pub fn kind(&self) -> AttemptKind {
        self.kind
    }

    /// The address of the replica.
    pub fn replica(&self) -> SocketAddr {
        self.replica
    }

    /// The start of the attempt.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// What was left of the deadline when the attempt began.
    pub fn left(&self) -> Duration {
        self.left
    }

    /// The time from the start of the attempt to the end of its response, or until now.
    pub fn duration(&self) -> Duration {
        self.end
            .map_or_else(|| self.started.elapsed(), |(took, _)| took)
    }

    /// The time that the replica says it took to begin its response. It is never longer than the
    /// wait for it, whatever the replica says. `None` if it says nothing.
    pub fn replica_took(&self) -> Option<Duration> {
        self.replica_took
    }

    /// How the attempt ended, such as `UNAVAILABLE`, or `None` while it runs. An attempt that was
    /// given up, as another one has won, is `CANCELLED`.
    pub fn outcome(&self) -> Option<&'static str> {
        self.end.map(|(_, code)| code_name(code))
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::yield_now;

    use super::*;
    use crate::{
        limits,
        request::context::{self, Context, Deadline},
    };

    #[test]
    fn durations_are_in_milliseconds() {
        let text = |micros| {
            let mut text = String::new();
            push_entry(&mut text, "a", Duration::from_micros(micros));
            text
        };
        assert_eq!(text(0), "a;dur=0.000");
        assert_eq!(text(7_042), "a;dur=7.042");
        assert_eq!(text(10_000_999), "a;dur=10000.999");
    }

    /// The names and the milliseconds of the header.
    fn entries(timings: &Timings) -> Vec<(String, f64)> {
        let header = timings.header_value().unwrap();
        let header = header.to_str().unwrap();
        assert!(header.len() <= limits::SERVER_TIMING, "{header}");
        let entries = header.split(", ").map(|entry| {
            let (name, millis) = entry.split_once(";dur=").unwrap();
            (name.to_owned(), millis.parse().unwrap())
        });
        entries.collect()
    }

    #[test]
    fn only_a_total_of_this_crate_is_read() {
        let total = |text: &'static str| total_of(&HeaderValue::from_static(text));
        let micros = |micros| Some(Duration::from_micros(micros));
        assert_eq!(total("total;dur=0.000"), micros(0));
        assert_eq!(total("total;dur=7.042"), micros(7_042));
        assert_eq!(
            total("getAll;dur=1.000, total;dur=99999999.999"),
            micros(99_999_999_999)
        );
        for text in [
            "",
            "total",
            "subtotal;dur=1.000",
            "total;dur=1",
            "total;dur=.001",
            "total;dur=1.0000",
            "total;dur=-1.000",
            "total;dur=+1.000",
            "total;dur=1e3.000",
            "total;dur=1.000, other;dur=1.000",
            "total;dur=999999999.000",
        ] {
            assert_eq!(total(text), None, "{text}");
        }
        assert_eq!(total_of(&HeaderValue::from_bytes(b"\xff").unwrap()), None);
    }

    #[test]
    fn the_header_has_each_call_and_the_total() {
        let timings = Timings::since(Instant::now());
        let uri = |path: &str| path.parse::<Uri>().unwrap();
        drop(timings.begin(&uri("http://service1/api.Api/getAll")));
        let running = timings.begin(&uri("/api.Api/getStream"));
        let names: Vec<_> = entries(&timings)
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        assert_eq!(names, ["getAll", "getStream", "total"]);

        let so_far = timings.calls()[1].duration();
        drop(running);
        let took = timings.calls()[1].duration();
        assert!(took >= so_far);
        assert_eq!(timings.calls()[1].duration(), took, "the call has ended");
    }

    #[test]
    fn further_calls_are_summed_and_take_no_memory() {
        let started = Instant::now().checked_sub(Duration::from_millis(5));
        let timings = Timings::since(started.unwrap());
        let uri = Uri::from_static("/a/Call");
        for _ in 0..1_000 {
            drop(timings.begin(&uri));
        }
        let running = [timings.begin(&uri), timings.begin(&uri)];
        std::thread::sleep(Duration::from_millis(2));
        let entries = entries(&timings);
        assert_eq!(entries.len(), 20);
        let (name, so_far) = &entries[18];
        assert_eq!(name, "other");
        let total = entries[19].1;
        assert!(
            (4.0..2.0 * total).contains(so_far),
            "two calls took 2 ms each: {so_far}"
        );
        drop(running);
        assert_eq!(timings.calls().len(), limits::TIMED_CALLS);
        let rest = &timings.lock().rest;
        assert_eq!((rest.running, rest.starts), (0, Duration::ZERO));
        assert!(rest.took >= Duration::from_millis(4));
    }

    #[test]
    fn calls_whose_names_have_no_room_are_summed() {
        let timings = Timings::since(Instant::now());
        for name in [
            "b".repeat(2_000),
            "a".repeat(900),
            "c".to_owned(),
            "d".repeat(100),
        ] {
            drop(timings.begin(&format!("/a/{name}").parse().unwrap()));
        }
        let names = entries(&timings).into_iter().map(|(name, _)| name.len());
        assert_eq!(
            names.collect::<Vec<_>>(),
            [900, 1, "other".len(), "total".len()]
        );
    }

    const SECOND: Duration = Duration::from_secs(1);

    /// The context of a request that is timed.
    fn request() -> Context {
        let deadline = Deadline::after(10 * SECOND);
        let timings = Some(Timings::since(Instant::now()));
        Context::new("order-17".parse().unwrap(), deadline).with(|shared| shared.timings = timings)
    }

    fn replica(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    #[tokio::test]
    async fn a_recorded_request_has_the_attempts_of_each_call() {
        let record = request().scope(async {
            let record = context::record().expect("the request is timed");
            let timings = context::timings().unwrap();
            for port in [1, 2] {
                let running = timings.begin(&"/a.Service/Get".parse().unwrap());
                let call = running.recorded().expect("it is recorded");
                let attempts = context::with_timings(call, || {
                    [false, false, true].map(|is_hedge| {
                        context::begin_attempt(is_hedge, replica(port)).expect("a call is in hand")
                    })
                });
                attempts[0].end(SECOND, Code::Unavailable);
                attempts[2].end(SECOND, Code::Ok);
                yield_now().await;
            }
            record
        });
        let record = record.await;
        let calls = record.calls();
        assert_eq!(calls.len(), 2);
        for (call, port) in calls.iter().zip([1, 2]) {
            let kinds = [AttemptKind::First, AttemptKind::Retry, AttemptKind::Hedge];
            let attempts = call.attempts();
            assert!(attempts.iter().map(Attempt::kind).eq(kinds));
            assert!(attempts.iter().all(|it| it.replica() == replica(port)));
            assert!(attempts.iter().all(|it| it.left() > 9 * SECOND));
            let outcomes = attempts.iter().map(Attempt::outcome);
            assert!(outcomes.eq([Some("UNAVAILABLE"), None, Some("OK")]));
            assert_eq!(attempts[0].duration(), SECOND);
        }
        assert!(record.size() >= 6 * size_of::<Attempt>());
    }

    #[test]
    fn a_request_that_is_not_recorded_keeps_nothing() {
        request().sync_scope(|| {
            let timings = context::timings().unwrap();
            let running = timings.begin(&"/a.Service/Get".parse().unwrap());
            assert!(running.recorded().is_none());
            assert!(context::begin_attempt(false, replica(1)).is_none());
            timings.keep_line(b"a line\n");
            assert_eq!(context::record().unwrap().lines(), "");
        });
        assert!(context::record().is_none());
    }

    #[test]
    fn a_replica_never_took_longer_than_the_wait_for_it() {
        request().sync_scope(|| {
            let record = context::record().unwrap();
            let running = context::timings().unwrap();
            let running = running.begin(&"/a.Service/Get".parse().unwrap());
            context::with_timings(running.recorded().unwrap(), || {
                let attempt = context::begin_attempt(false, replica(1)).unwrap();
                for (told, is_read) in [
                    ("total;dur=0.000", true),
                    ("total;dur=86400000.000", true),
                    ("total;dur=soon", false),
                ] {
                    let head = HeaderMap::from_iter([(SERVER_TIMING, told.parse().unwrap())]);
                    attempt.see_response(&head);
                    let seen = record.calls()[0].attempts()[0].clone();
                    assert_eq!(seen.replica_took().is_some(), is_read, "{told}");
                    assert!(seen.replica_took() <= Some(seen.duration()), "{told}");
                }
            });
        });
    }

    #[test]
    fn the_lines_of_a_record_have_a_limit() {
        request().sync_scope(|| {
            let record = context::record().unwrap();
            let timings = context::timings().unwrap();
            timings.keep_line(b"first\n");
            timings.keep_line(&vec![b'x'; limits::RECORDED_LINES]);
            timings.keep_line(b"last\n");
            assert_eq!(record.lines(), "first\nlast\n");
            assert_eq!(record.lines_left_out(), 1);
        });
    }
}
