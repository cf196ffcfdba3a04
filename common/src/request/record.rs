//! [`Record`]: what one request did, for a page that shows it; see
//! [`context::record`](crate::context::record).

use std::{
    net::SocketAddr,
    sync::Mutex,
    time::{Duration, Instant},
};

use http::HeaderMap;
use tonic::Code;

use super::{
    attempt::{Attempt, AttemptKind},
    timings::{Call, SERVER_TIMING, Timings, total_of},
};
use crate::lock::lock;

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

#[cfg(test)]
mod tests {
    use tokio::task::yield_now;

    use super::*;
    use crate::{
        limits,
        request::{
            context::{self, Context},
            deadline::Deadline,
        },
    };

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
