//! [`Timings`]: the calls that a request made, and the time that each took.

use std::{
    sync::{Arc, Mutex, MutexGuard, OnceLock},
    time::{Duration, Instant},
};

use axum::extract::MatchedPath;
use http::{HeaderName, HeaderValue, Uri, uri::PathAndQuery};

use super::attempt::Attempt;
use crate::{limits, lock::lock};

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

#[cfg(test)]
mod tests {
    use super::*;

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
}
