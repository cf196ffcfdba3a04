//! [`Call`] and `Timings`: the calls that a request made, and the time that each took; see
//! [`context::calls`](crate::context::calls).
//!
//! The server times each HTTP request, and the client adds each call. The response carries the
//! times in its [`Server-Timing`](https://www.w3.org/TR/server-timing/) header.

use std::{
    sync::{Arc, Mutex, MutexGuard, OnceLock},
    time::{Duration, Instant},
};

use axum::extract::MatchedPath;
use http::{HeaderValue, Uri, uri::PathAndQuery};

use crate::lock::lock;

/// A call that a request made.
#[derive(Debug, Clone)]
pub struct Call {
    path: PathAndQuery,
    started: Instant,
    took: Option<Duration>,
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
}

/// The timings and the route of one request. Clones share their state.
#[derive(Debug, Clone)]
pub(crate) struct Timings(Arc<Request>);

#[derive(Debug)]
struct Request {
    started: Instant,
    route: OnceLock<MatchedPath>,
    calls: Mutex<Vec<Call>>,
}

impl Timings {
    /// The timings of a request that arrived at `started`.
    pub(crate) fn since(started: Instant) -> Self {
        Self(Arc::new(Request {
            started,
            route: OnceLock::new(),
            calls: Mutex::default(),
        }))
    }

    pub(crate) fn set_route(&self, route: MatchedPath) {
        let _ = self.0.route.set(route);
    }

    pub(crate) fn route(&self) -> Option<&str> {
        self.0.route.get().map(MatchedPath::as_str)
    }

    /// Adds a call, which ends when the result is dropped.
    pub(crate) fn begin(&self, uri: &Uri) -> Running {
        let mut calls = self.lock();
        calls.push(Call {
            path: uri
                .path_and_query()
                .cloned()
                .unwrap_or_else(|| PathAndQuery::from_static("/")),
            started: Instant::now(),
            took: None,
        });
        Running {
            timings: self.clone(),
            index: calls.len() - 1,
        }
    }

    /// All calls so far, in the order of their starts.
    pub(crate) fn calls(&self) -> Vec<Call> {
        self.lock().clone()
    }

    /// All calls, and the request as a whole, as a `Server-Timing` header.
    pub(crate) fn header_value(&self) -> Option<HeaderValue> {
        let calls = self.lock();
        let mut text = String::with_capacity(32 * (calls.len() + 1));
        for call in &*calls {
            text.push_str(call.method());
            push_duration(&mut text, call.duration());
            text.push_str(", ");
        }
        text.push_str("total");
        push_duration(&mut text, self.0.started.elapsed());
        HeaderValue::try_from(text).ok()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Call>> {
        lock(&self.0.calls)
    }
}

#[derive(Debug)]
pub(crate) struct Running {
    timings: Timings,
    index: usize,
}

impl Drop for Running {
    fn drop(&mut self) {
        let call = &mut self.timings.lock()[self.index];
        call.took = Some(call.started.elapsed());
    }
}

/// Appends the parameter `dur`: milliseconds to the microsecond.
///
/// It does without `write!`, which takes three times as long: each response has this header.
fn push_duration(text: &mut String, duration: Duration) {
    let millis = duration.as_secs() * 1000 + u64::from(duration.subsec_millis());
    let micros = 1000 + duration.subsec_micros() % 1000; // 1 keeps leading zeros
    text.push_str(";dur=");
    text.push_str(itoa::Buffer::new().format(millis));
    text.push('.');
    text.push_str(&itoa::Buffer::new().format(micros)[1..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_in_milliseconds() {
        let text = |micros| {
            let mut text = String::new();
            push_duration(&mut text, Duration::from_micros(micros));
            text
        };
        assert_eq!(text(0), ";dur=0.000");
        assert_eq!(text(7_042), ";dur=7.042");
        assert_eq!(text(10_000_999), ";dur=10000.999");
    }

    #[test]
    fn the_header_has_each_call_and_the_total() {
        let timings = Timings::since(Instant::now());
        let uri = |path: &str| path.parse::<Uri>().unwrap();
        drop(timings.begin(&uri("http://service1/api.Api/getAll")));
        let running = timings.begin(&uri("/api.Api/getStream"));
        let header = timings.header_value().unwrap();
        let entries: Vec<_> = header.to_str().unwrap().split(", ").collect();
        let names: Vec<_> = entries
            .iter()
            .map(|entry| entry.split_once(";dur=").unwrap().0)
            .collect();
        assert_eq!(names, ["getAll", "getStream", "total"]);

        let so_far = timings.lock()[1].duration();
        drop(running);
        let took = timings.lock()[1].duration();
        assert!(took >= so_far);
        assert_eq!(timings.lock()[1].duration(), took, "the call has ended");
    }
}
