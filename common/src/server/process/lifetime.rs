//! [`Lifetime`]: decides when a connection ends: when it is idle or old, when its client is too
//! slow to send a head or to close, when the service drains, or when another connection needs its
//! place.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    limits,
    server::capacity::open::{Close, Open, now as clock},
};

/// The limits on the lifetime of connections.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// The longest time without a request.
    pub(crate) idle_timeout: Duration,
    /// The longest time in all. Requests in flight complete. Over HTTP/1 one more request follows,
    /// and its response has `Connection: close`.
    pub(crate) max_age: Option<Duration>,
}

/// The lifetime of one connection.
#[derive(Debug)]
pub(crate) struct Lifetime {
    idle_timeout: Duration,
    /// The instant at which the connection reaches its maximum age; `None` afterwards.
    old_at: Option<Instant>,
    /// The instant since which the client has been due to send or to close.
    waits_since: Option<Instant>,
    phase: Phase,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    Serving,
    /// The service drains, and requests are read until this instant.
    LastRead(Instant),
    /// The connection ends after its last request, or at this instant if it has none.
    Ending(Instant),
}

/// What to do with the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing until the next event, or until this instant.
    Wait(Option<Instant>),
    /// Shut it down after its requests in flight.
    End,
    Drop,
}

impl Lifetime {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            idle_timeout: limits.idle_timeout,
            old_at: limits.max_age.map(|age| Instant::now() + age),
            waits_since: None,
            phase: Phase::Serving,
        }
    }

    /// Whether the last verdict still holds. Every poll of a connection calls this, so it does not
    /// read the clock.
    pub(crate) fn goes_on(&mut self, open: &Open) -> bool {
        let goes_on = matches!(self.phase, Phase::Serving)
            && open.told_to_close().is_none()
            && patience(open).is_none();
        if goes_on {
            self.waits_since = None;
        }
        goes_on
    }

    pub(crate) fn verdict(&mut self, open: &Open) -> Verdict {
        let now = Instant::now();
        match self.phase {
            Phase::Serving => match open.told_to_close() {
                None => self.while_serving(open, now),
                Some(Close::MakeRoom) => self.end_within(Duration::ZERO, now),
                Some(Close::Drain) => {
                    self.phase = Phase::LastRead(now + limits::LAST_READ);
                    Verdict::Wait(Some(now + limits::LAST_READ))
                }
            },
            Phase::LastRead(until) if until > now => Verdict::Wait(Some(until)),
            Phase::LastRead(_) => self.end_within(limits::GOAWAY_GRACE, now),
            Phase::Ending(_) if open.is_busy() => {
                self.phase = Phase::Ending(now + limits::GOAWAY_GRACE);
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
                return self.end_within(limits::GOAWAY_GRACE, now);
            }
            open.note_old();
        }
        let idle_until = open.idle_since().map(|since| {
            let idle = Duration::from_millis(clock().saturating_sub(since));
            now + self.idle_timeout.saturating_sub(idle)
        });
        match idle_until.into_iter().chain(self.old_at).min() {
            Some(until) if until <= now => self.end_within(limits::GOAWAY_GRACE, now),
            until => Verdict::Wait(until),
        }
    }
}

/// The time that the client has, if it is due to send or to close.
fn patience(open: &Open) -> Option<Duration> {
    if open.has_half_head() {
        Some(limits::HEADER_TIMEOUT)
    } else if open.is_half_closed() {
        Some(limits::HALF_CLOSE_TIMEOUT)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, sync::Arc};

    use tokio::time::advance;

    use super::*;
    use crate::server::capacity::{in_flight::Request, kind::Kind};

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
    async fn half_a_head_times_out_after_five_seconds_even_if_bytes_trickle_in() {
        let (open, mut lifetime) = (open(), lifetime(None));
        assert!(lifetime.goes_on(&open));
        let begin = Instant::now();
        for _ in 0..5 {
            open.note_bytes();
            assert!(!lifetime.goes_on(&open));
            let verdict = lifetime.verdict(&open);
            assert_eq!(verdict, Verdict::Wait(Some(begin + limits::HEADER_TIMEOUT)));
            advance(limits::HEADER_TIMEOUT / 5).await;
        }
        assert_eq!(lifetime.verdict(&open), Verdict::Drop);
        // The rest of the head has come.
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
        advance(10 * limits::GOAWAY_GRACE).await;
        assert_eq!(lifetime.verdict(&open), Verdict::Wait(None), "busy");
        open.end_request(key);
        let verdict = lifetime.verdict(&open);
        assert!(matches!(verdict, Verdict::Wait(Some(_))));
        advance(limits::GOAWAY_GRACE).await;
        assert_eq!(lifetime.verdict(&open), Verdict::Drop);
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_reads_what_was_sent_and_making_room_does_not_wait() {
        let (draining, mut lifetime) = (open(), self::lifetime(None));
        draining.close(Close::Drain);
        assert!(!lifetime.goes_on(&draining));
        let until = Instant::now() + limits::LAST_READ;
        assert_eq!(lifetime.verdict(&draining), Verdict::Wait(Some(until)));
        advance(limits::LAST_READ).await;
        assert_eq!(lifetime.verdict(&draining), Verdict::End);

        let (idle, mut lifetime) = (open(), self::lifetime(None));
        idle.close(Close::MakeRoom);
        assert_eq!(lifetime.verdict(&idle), Verdict::End);
        assert_eq!(lifetime.verdict(&idle), Verdict::Drop);
    }
}
