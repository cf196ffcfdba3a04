//! How long a connection lasts: when it idles, when the head of a request does not come, when it is
//! old, when the service drains, when another needs its place.

use std::time::Duration;

use tokio::time::Instant;

use super::connections::{Close, Open, now as clock};

/// How long the head of an HTTP/1.1 request may take, from its first byte; also how long a new
/// connection may leave open what it speaks.
pub(super) const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a client that has closed its side of an HTTP/1.1 connection is answered. It may wait for
/// that, or be gone: the two look the same until something is written.
const HALF_CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a draining connection is read before it is told to end: what was sent by then is there.
const LAST_LOOK: Duration = Duration::from_millis(10);

/// How long a connection without requests may take to end after it was told to (HTTP/2 asks the
/// client whether it has heard).
const FAREWELL: Duration = Duration::from_millis(500);

/// How long connections may last.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Without a request.
    pub(super) idle_timeout: Duration,
    /// At all. Its requests go on to their end; over HTTP/1 it takes one more, whose response says
    /// that it is the last.
    pub(super) max_age: Option<Duration>,
}

/// How long one connection lasts.
#[derive(Debug)]
pub(super) struct Lifetime {
    idle_timeout: Duration,
    /// When it is too old, until that is known.
    old_at: Option<Instant>,
    /// Since when its client has had to go on, or be gone.
    waits_since: Option<Instant>,
    phase: Phase,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    Serving,
    /// The service drains; what was sent is still read until then.
    LastLook(Instant),
    /// It is told to end, and does so with its last request; without one at that time at the latest.
    Ending(Instant),
}

/// What is to be done about a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing until something happens, or until then.
    Wait(Option<Instant>),
    /// It is told to end after the requests that it has.
    End,
    /// It is dropped.
    Drop,
}

impl Lifetime {
    /// That of a connection that begins.
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            idle_timeout: limits.idle_timeout,
            old_at: limits.max_age.map(|age| Instant::now() + age),
            waits_since: None,
            phase: Phase::Serving,
        }
    }

    /// Whether it goes on as it does, so that its verdict is what it was. Asked at each turn of a
    /// connection, this reads no clock.
    pub(super) fn goes_on(&mut self, open: &Open) -> bool {
        let goes_on = matches!(self.phase, Phase::Serving)
            && open.told_to_close().is_none()
            && patience(open).is_none();
        if goes_on {
            self.waits_since = None;
        }
        goes_on
    }

    /// What is to be done about it now.
    pub(super) fn verdict(&mut self, open: &Open) -> Verdict {
        let now = Instant::now();
        match self.phase {
            Phase::Serving => match open.told_to_close() {
                None => self.while_serving(open, now),
                Some(Close::MakeRoom) => self.end_within(Duration::ZERO, now),
                Some(Close::Drain) => {
                    self.phase = Phase::LastLook(now + LAST_LOOK);
                    Verdict::Wait(Some(now + LAST_LOOK))
                }
            },
            Phase::LastLook(until) if until > now => Verdict::Wait(Some(until)),
            Phase::LastLook(_) => self.end_within(FAREWELL, now),
            Phase::Ending(_) if open.is_busy() => {
                self.phase = Phase::Ending(now + FAREWELL);
                Verdict::Wait(None)
            }
            Phase::Ending(at) if at > now => Verdict::Wait(Some(at)),
            Phase::Ending(_) => Verdict::Drop,
        }
    }

    fn end_within(&mut self, patience: Duration, now: Instant) -> Verdict {
        self.phase = Phase::Ending(now + patience);
        Verdict::End
    }

    fn while_serving(&mut self, open: &Open, now: Instant) -> Verdict {
        if let Some(patience) = patience(open) {
            let until = *self.waits_since.get_or_insert(now) + patience;
            return if until > now {
                Verdict::Wait(Some(until))
            } else {
                Verdict::Drop
            };
        }
        self.waits_since = None;
        if self.old_at.take_if(|at| *at <= now).is_some() {
            if open.is_http2() {
                return self.end_within(FAREWELL, now);
            }
            open.note_old();
        }
        let idle_until = open.idle_since().map(|since| {
            let idle = Duration::from_millis(clock().saturating_sub(since));
            now + self.idle_timeout.saturating_sub(idle)
        });
        match idle_until.into_iter().chain(self.old_at).min() {
            Some(until) if until <= now => self.end_within(FAREWELL, now),
            until => Verdict::Wait(until),
        }
    }
}

/// How long its client may take to go on, where that is its turn.
fn patience(open: &Open) -> Option<Duration> {
    if open.has_half_head() {
        Some(HEADER_TIMEOUT)
    } else if open.is_half_closed() {
        Some(HALF_CLOSE_TIMEOUT)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, sync::Arc};

    use tokio::time::advance;

    use super::*;
    use crate::server::places::{Kind, Request};

    const IDLE: Duration = Duration::from_secs(75);
    const AGE: Duration = Duration::from_mins(1);

    fn open() -> Open {
        Open::new(Ipv4Addr::LOCALHOST.into())
    }

    fn lifetime(max_age: Option<Duration>) -> Lifetime {
        Lifetime::new(Limits {
            idle_timeout: IDLE,
            max_age,
        })
    }

    fn begin_request(open: &Open) -> usize {
        open.begin_request(Arc::new(Request::new(Kind::Ordinary)))
    }

    #[tokio::test(start_paused = true)]
    async fn half_a_head_has_five_seconds_however_its_bytes_trickle() {
        let (open, mut lifetime) = (open(), lifetime(None));
        assert!(lifetime.goes_on(&open));
        let begin = Instant::now();
        for _ in 0..5 {
            open.note_bytes();
            assert!(!lifetime.goes_on(&open));
            let verdict = lifetime.verdict(&open);
            assert_eq!(verdict, Verdict::Wait(Some(begin + HEADER_TIMEOUT)));
            advance(HEADER_TIMEOUT / 5).await;
        }
        assert_eq!(lifetime.verdict(&open), Verdict::Drop);
        // The whole head has come.
        begin_request(&open);
        assert!(lifetime.goes_on(&open));
    }

    #[tokio::test(start_paused = true)]
    async fn an_old_connection_over_http_1_waits_for_the_next_request() {
        let (open, mut lifetime) = (open(), lifetime(Some(AGE)));
        advance(AGE).await;
        assert!(matches!(lifetime.verdict(&open), Verdict::Wait(Some(_))));
        assert!(open.is_old());
    }

    #[tokio::test(start_paused = true)]
    async fn an_old_connection_over_http_2_ends_with_its_requests() {
        let (open, mut lifetime) = (open(), lifetime(Some(AGE)));
        open.note_http2();
        let key = begin_request(&open);
        let old_at = Instant::now() + AGE;
        assert_eq!(lifetime.verdict(&open), Verdict::Wait(Some(old_at)));
        advance(AGE).await;
        assert_eq!(lifetime.verdict(&open), Verdict::End);
        advance(10 * FAREWELL).await;
        assert_eq!(lifetime.verdict(&open), Verdict::Wait(None), "it is busy");
        open.end_request(key);
        let verdict = lifetime.verdict(&open);
        assert!(matches!(verdict, Verdict::Wait(Some(_))));
        advance(FAREWELL).await;
        assert_eq!(lifetime.verdict(&open), Verdict::Drop);
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_reads_what_was_sent_and_another_that_needs_room_does_not_wait() {
        let (draining, mut lifetime) = (open(), self::lifetime(None));
        draining.close(Close::Drain);
        assert!(!lifetime.goes_on(&draining));
        let until = Instant::now() + LAST_LOOK;
        assert_eq!(lifetime.verdict(&draining), Verdict::Wait(Some(until)));
        advance(LAST_LOOK).await;
        assert_eq!(lifetime.verdict(&draining), Verdict::End);

        let (idle, mut lifetime) = (open(), self::lifetime(None));
        idle.close(Close::MakeRoom);
        assert_eq!(lifetime.verdict(&idle), Verdict::End);
        assert_eq!(lifetime.verdict(&idle), Verdict::Drop);
    }
}
