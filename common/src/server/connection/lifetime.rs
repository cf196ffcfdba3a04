//! [`Lifetime`]: decides when a connection ends: when it is idle or old, when its client is too
//! slow to send a head or to close, when the service drains, or when another connection needs its
//! permit; and [`ConnectionLimits`], which it decides by.

use std::time::Duration;

use http::HeaderValue;
use tokio::time::Instant;

use super::state::ConnectionState;
use crate::{
    config::settings::Config,
    limits,
    request::dialect::Dialect,
    server::capacity::handle::{Close, ConnectionHandle},
    sync::now as clock,
};

/// The time limits of connections.
#[derive(Debug, Clone, Default)]
pub(crate) struct ConnectionLimits {
    /// The longest that a write waits for a client that reads nothing.
    pub(crate) write_timeout: Duration,
    /// The longest time without a request. By default it is [`limits::IDLE_TIMEOUT`], and none for
    /// HTTP/2 on a gRPC port: the callers are services, which keep their connections.
    pub(crate) idle_timeout: Option<Duration>,
    /// The longest time in all. Requests in flight complete. Over HTTP/1 one more request follows,
    /// and its response has `Connection: close`.
    pub(crate) max_age: Option<Duration>,
    /// The time in which clients go elsewhere before the service drains.
    pub(crate) drain_delay: Duration,
    /// The value of `Keep-Alive`, which tells clients over HTTP/1 when to leave a connection.
    pub(crate) keep_alive: Option<HeaderValue>,
}

impl ConnectionLimits {
    pub(crate) fn of(config: &Config) -> Self {
        Self {
            write_timeout: config.deadline,
            idle_timeout: config.idle_timeout,
            max_age: config.max_connection_age,
            drain_delay: config.drain_delay,
            keep_alive: keep_alive(config.idle_timeout.unwrap_or(limits::IDLE_TIMEOUT)),
        }
    }
}

/// The value of `Keep-Alive` for this idle timeout: whole seconds, and none if not one is left.
fn keep_alive(idle_timeout: Duration) -> Option<HeaderValue> {
    let margin = limits::KEEP_ALIVE_MARGIN.min(idle_timeout / 2);
    let seconds = idle_timeout.saturating_sub(margin).as_secs();
    if seconds == 0 {
        return None;
    }
    HeaderValue::try_from(format!("timeout={seconds}")).ok()
}

/// The lifetime of one connection.
#[derive(Debug)]
pub(crate) struct Lifetime {
    idle_timeout: Duration,
    serves_mesh: bool,
    /// An idle connection over HTTP/2 stays open.
    keeps_http2: bool,
    /// The instant at which the connection reaches its maximum age; `None` afterwards.
    old_at: Option<Instant>,
    /// The longest time from [`Close::Leave`] to GOAWAY.
    longest_stay: Duration,
    /// The connection was told to leave when it was opened.
    is_newcomer: bool,
    /// The instant of GOAWAY, once the client is told to go elsewhere.
    leaves_at: Option<Instant>,
    /// The instant since which the client has owed the rest of a head, or a close.
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
    /// It had requests when it was to end. Their responses have until this instant to arrive.
    LastResponse(Instant),
}

/// What to do with the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    /// Nothing until the next event, or until this instant.
    Wait(Option<Instant>),
    /// Shut it down after its requests in flight.
    End,
    Drop,
}

impl Lifetime {
    pub(crate) fn new(
        limits: &ConnectionLimits,
        port: &dyn Dialect,
        handle: &ConnectionHandle,
    ) -> Self {
        Self {
            idle_timeout: limits.idle_timeout.unwrap_or(limits::IDLE_TIMEOUT),
            serves_mesh: port.serves_mesh(),
            keeps_http2: limits.idle_timeout.is_none() && port.serves_mesh(),
            old_at: limits.max_age.map(|age| Instant::now() + age),
            longest_stay: limits.drain_delay / 2,
            is_newcomer: handle.told_to_close().is_some(),
            leaves_at: None,
            waits_since: None,
            phase: Phase::Serving,
        }
    }

    /// Whether the last verdict still holds. Each poll of a connection asks this, so it does not read the
    /// clock.
    pub(crate) fn still_holds(&mut self, connection: &ConnectionState) -> bool {
        let still_holds = matches!(self.phase, Phase::Serving)
            && connection.handle.told_to_close().is_none()
            && patience(connection).is_none();
        if still_holds {
            self.waits_since = None;
        }
        still_holds
    }

    pub(crate) fn verdict(&mut self, connection: &ConnectionState) -> Due {
        let now = Instant::now();
        let must_make_room = connection.handle.told_to_close() == Some(Close::MakeRoom);
        match self.phase {
            Phase::Serving => match connection.handle.told_to_close() {
                None | Some(Close::Leave) => self.while_serving(connection, now),
                Some(Close::MakeRoom) => self.end_within(Duration::ZERO, now),
                Some(Close::Drain) => {
                    self.phase = Phase::LastRead(now + limits::LAST_READ);
                    Due::Wait(Some(now + limits::LAST_READ))
                }
            },
            Phase::LastRead(_) if must_make_room => self.end_within(Duration::ZERO, now),
            Phase::LastRead(until) if until > now => Due::Wait(Some(until)),
            Phase::LastRead(_) => self.end_within(limits::GOAWAY_GRACE, now),
            Phase::Ending(_) | Phase::LastResponse(_) if connection.is_busy() => {
                self.phase = Phase::LastResponse(now + limits::GOAWAY_GRACE);
                let is_gone = connection.is_half_closed();
                let patience = is_gone.then_some(limits::HALF_CLOSE_TIMEOUT);
                self.give_up_after(patience, now).unwrap_or(Due::Wait(None))
            }
            Phase::Ending(at) if at > now && !must_make_room => Due::Wait(Some(at)),
            Phase::LastResponse(at) if at > now => Due::Wait(Some(at)),
            Phase::Ending(_) | Phase::LastResponse(_) => Due::Drop,
        }
    }

    /// The longest time without a request. No limit is a year, so that the timer is set once, and not at each
    /// poll.
    fn idle_timeout(&self, connection: &ConnectionState) -> Duration {
        if self.keeps_http2 && connection.is_http2.get() {
            limits::MAX_DURATION
        } else {
            self.idle_timeout
        }
    }

    /// The instant of GOAWAY, if the client is to go elsewhere. Clients of open connections leave one
    /// by one. A newcomer gets a response first, or it would only come back.
    ///
    /// On a gRPC port it comes after the delay. A call that GOAWAY refuses is sent again, so that none is
    /// lost; and a caller that asks whether a replica serves, and has no other, would not come back.
    fn leaves_at(&mut self, connection: &ConnectionState, now: Instant) -> Option<Instant> {
        if connection.handle.told_to_close().is_none()
            || !connection.is_http2.get()
            || self.serves_mesh
        {
            return None;
        }
        if self.is_newcomer && connection.has_responded.get() {
            return Some(now);
        }
        let stay = if self.is_newcomer {
            limits::NEWCOMER_STAY
        } else {
            self.longest_stay.mul_f64(fastrand::f64())
        };
        Some(*self.leaves_at.get_or_insert(now + stay))
    }

    fn end_within(&mut self, patience: Duration, now: Instant) -> Due {
        self.phase = Phase::Ending(now + patience);
        Due::End
    }

    /// Gives up a client that owes something, after this long. `None` if it owes nothing.
    fn give_up_after(&mut self, patience: Option<Duration>, now: Instant) -> Option<Due> {
        let Some(patience) = patience else {
            self.waits_since = None;
            return None;
        };
        let until = *self.waits_since.get_or_insert(now) + patience;
        Some(if until > now {
            Due::Wait(Some(until))
        } else {
            Due::Drop
        })
    }

    fn while_serving(&mut self, connection: &ConnectionState, now: Instant) -> Due {
        if let Some(due) = self.give_up_after(patience(connection), now) {
            return due;
        }
        if self.old_at.take_if(|at| *at <= now).is_some() {
            if connection.is_http2.get() {
                return self.end_within(limits::GOAWAY_GRACE, now);
            }
            connection.handle.close(Close::Leave);
        }
        let leaves_at = self.leaves_at(connection, now);
        let idle_until = connection.handle.usage.idle_since().map(|since| {
            let idle = Duration::from_millis(clock().saturating_sub(since));
            now + self.idle_timeout(connection).saturating_sub(idle)
        });
        let instants = idle_until.into_iter().chain(self.old_at).chain(leaves_at);
        match instants.min() {
            Some(until) if until <= now => self.end_within(limits::GOAWAY_GRACE, now),
            until => Due::Wait(until),
        }
    }
}

/// How long to wait for a client that owes the rest of a head, or a close.
fn patience(connection: &ConnectionState) -> Option<Duration> {
    if connection.has_half_head() {
        Some(limits::HEADER_TIMEOUT)
    } else if connection.is_half_closed() {
        Some(limits::HALF_CLOSE_TIMEOUT)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::time::advance;

    use super::*;
    use crate::{
        dialect::{grpc::GRPC, http::HTTP},
        server::capacity::worker_capacity::WorkerCapacity,
    };

    const AGE: Duration = Duration::from_mins(1);
    const DELAY: Duration = Duration::from_secs(10);

    fn connection() -> ConnectionState {
        ConnectionState::alone(Arc::new(WorkerCapacity::alone(1)))
    }

    fn lifetime(max_age: Option<Duration>) -> Lifetime {
        let limits = ConnectionLimits {
            max_age,
            ..ConnectionLimits::default()
        };
        Lifetime::new(&limits, HTTP, &connection().handle)
    }

    /// The lifetime of a connection of a service that drains, or soon will.
    fn draining(connection: &ConnectionState) -> Lifetime {
        let limits = ConnectionLimits {
            drain_delay: DELAY,
            ..ConnectionLimits::default()
        };
        Lifetime::new(&limits, HTTP, &connection.handle)
    }

    #[tokio::test(start_paused = true)]
    async fn half_a_head_times_out_after_five_seconds_even_if_bytes_trickle_in() {
        let (connection, mut lifetime) = (connection(), lifetime(None));
        assert!(lifetime.still_holds(&connection));
        let begin = Instant::now();
        for _ in 0..5 {
            connection.inbound.note_bytes(b"G");
            assert!(!lifetime.still_holds(&connection));
            let verdict = lifetime.verdict(&connection);
            assert_eq!(verdict, Due::Wait(Some(begin + limits::HEADER_TIMEOUT)));
            advance(limits::HEADER_TIMEOUT / 5).await;
        }
        assert_eq!(lifetime.verdict(&connection), Due::Drop);
        // The rest of the head has come.
        connection.handle.usage.begin();
        assert!(lifetime.still_holds(&connection));
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_ends_in_time_but_callers_over_grpc_stay() {
        let configured = Some(Duration::from_secs(7));
        for (idle_timeout, port, is_http2, expected) in [
            (None, HTTP, false, limits::IDLE_TIMEOUT),
            (None, HTTP, true, limits::IDLE_TIMEOUT),
            (None, GRPC, false, limits::IDLE_TIMEOUT),
            (None, GRPC, true, limits::MAX_DURATION),
            (configured, HTTP, true, Duration::from_secs(7)),
            (configured, GRPC, true, Duration::from_secs(7)),
        ] {
            let connection = connection();
            let limits = ConnectionLimits {
                idle_timeout,
                ..ConnectionLimits::default()
            };
            let mut lifetime = Lifetime::new(&limits, port, &connection.handle);
            if is_http2 {
                connection.is_http2.set(true);
            }
            let Due::Wait(Some(until)) = lifetime.verdict(&connection) else {
                panic!("{port:?} {is_http2}");
            };
            // The connection was idle for a moment already.
            let left = until - Instant::now();
            assert!(left <= expected, "{port:?} {is_http2}");
            assert!(
                left + Duration::from_secs(1) > expected,
                "{port:?} {is_http2}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_old_connection_over_http_1_waits_for_the_next_request() {
        let (connection, mut lifetime) = (connection(), lifetime(Some(AGE)));
        advance(AGE).await;
        assert!(matches!(lifetime.verdict(&connection), Due::Wait(Some(_))));
        assert_eq!(connection.handle.told_to_close(), Some(Close::Leave));
        assert!(matches!(lifetime.verdict(&connection), Due::Wait(Some(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn an_old_connection_over_http_2_ends_with_its_requests() {
        let (connection, mut lifetime) = (connection(), lifetime(Some(AGE)));
        connection.is_http2.set(true);
        connection.handle.usage.begin();
        let old_at = Instant::now() + AGE;
        assert_eq!(lifetime.verdict(&connection), Due::Wait(Some(old_at)));
        advance(AGE).await;
        assert_eq!(lifetime.verdict(&connection), Due::End);
        advance(10 * limits::GOAWAY_GRACE).await;
        assert_eq!(lifetime.verdict(&connection), Due::Wait(None), "busy");
        connection.handle.usage.end();
        let verdict = lifetime.verdict(&connection);
        assert!(matches!(verdict, Due::Wait(Some(_))));
        advance(limits::GOAWAY_GRACE).await;
        assert_eq!(lifetime.verdict(&connection), Due::Drop);
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_goodbye_http_2_leaves_within_half_the_delay_and_http_1_waits_for_a_request() {
        let connections = [(); 20].map(|()| {
            let connection = connection();
            let lifetime = draining(&connection);
            connection.is_http2.set(true);
            connection.handle.close(Close::Leave);
            (connection, lifetime)
        });
        let leave_at =
            connections.map(
                |(connection, mut lifetime)| match lifetime.verdict(&connection) {
                    Due::Wait(Some(until)) => until - Instant::now(),
                    verdict => panic!("{verdict:?}"),
                },
            );
        assert!(leave_at.iter().all(|after| *after <= DELAY / 2));
        assert!(leave_at.iter().max() > leave_at.iter().min(), "spread");

        let http1 = connection();
        let mut lifetime = draining(&http1);
        http1.handle.close(Close::Leave);
        advance(DELAY).await;
        assert!(matches!(lifetime.verdict(&http1), Due::Wait(Some(_))));
        http1.handle.close(Close::Drain);
        let until = Instant::now() + limits::LAST_READ;
        assert_eq!(lifetime.verdict(&http1), Due::Wait(Some(until)));
    }

    #[tokio::test]
    async fn on_a_grpc_port_a_connection_stays_after_the_goodbye() {
        let connection = connection();
        let mut lifetime = Lifetime::new(&ConnectionLimits::default(), GRPC, &connection.handle);
        connection.is_http2.set(true);
        connection.handle.close(Close::Leave);
        let Due::Wait(Some(until)) = lifetime.verdict(&connection) else {
            panic!("it ends");
        };
        assert!(until > Instant::now() + DELAY);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_comes_after_the_goodbye_leaves_after_a_response_or_a_second() {
        for has_response in [true, false] {
            let connection = connection();
            connection.handle.close(Close::Leave);
            let mut lifetime = draining(&connection);
            connection.is_http2.set(true);
            let until = Instant::now() + limits::NEWCOMER_STAY;
            assert_eq!(lifetime.verdict(&connection), Due::Wait(Some(until)));
            if has_response {
                connection.has_responded.set(true);
            } else {
                advance(limits::NEWCOMER_STAY).await;
            }
            assert_eq!(lifetime.verdict(&connection), Due::End);
        }
    }

    #[test]
    fn clients_are_told_a_shorter_time_than_the_idle_timeout() {
        let told = |millis| {
            let value = keep_alive(Duration::from_millis(millis))?;
            Some(value.to_str().expect("ASCII").to_owned())
        };
        let told = [75_000, 7_000, 2_000, 1_500].map(told);
        let value = |seconds| Some(format!("timeout={seconds}"));
        assert_eq!(told, [value(70), value(3), value(1), None]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_reads_what_was_sent_and_making_room_does_not_wait() {
        let (draining, mut lifetime) = (connection(), self::lifetime(None));
        draining.handle.close(Close::Drain);
        assert!(!lifetime.still_holds(&draining));
        let until = Instant::now() + limits::LAST_READ;
        assert_eq!(lifetime.verdict(&draining), Due::Wait(Some(until)));
        advance(limits::LAST_READ).await;
        assert_eq!(lifetime.verdict(&draining), Due::End);

        let (ending, mut slow) = (draining, lifetime);
        let (idle, mut lifetime) = (connection(), self::lifetime(None));
        idle.handle.close(Close::MakeRoom);
        assert_eq!(lifetime.verdict(&idle), Due::End);
        assert_eq!(lifetime.verdict(&idle), Due::Drop);

        // After its last read, the first one waits for its client.
        assert!(matches!(slow.verdict(&ending), Due::Wait(Some(_))));
        ending.handle.close(Close::MakeRoom);
        assert_eq!(slow.verdict(&ending), Due::Drop);

        // A request has come in the meantime. Its response may arrive.
        let (busy, mut lifetime) = (connection(), self::lifetime(None));
        busy.handle.usage.begin();
        busy.handle.close(Close::MakeRoom);
        assert_eq!(lifetime.verdict(&busy), Due::End);
        assert_eq!(lifetime.verdict(&busy), Due::Wait(None));
        busy.handle.usage.end();
        assert!(matches!(lifetime.verdict(&busy), Due::Wait(Some(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_leaves_is_given_up_in_a_drain_too() {
        let (connection, mut lifetime) = (connection(), lifetime(None));
        connection.handle.usage.begin();
        connection.handle.close(Close::Drain);
        assert!(matches!(lifetime.verdict(&connection), Due::Wait(Some(_))));
        advance(limits::LAST_READ).await;
        assert_eq!(lifetime.verdict(&connection), Due::End);
        assert_eq!(lifetime.verdict(&connection), Due::Wait(None));
        assert!(connection.note_end(), "a request is in flight");
        let until = Instant::now() + limits::HALF_CLOSE_TIMEOUT;
        assert_eq!(lifetime.verdict(&connection), Due::Wait(Some(until)));
        advance(limits::HALF_CLOSE_TIMEOUT).await;
        assert_eq!(lifetime.verdict(&connection), Due::Drop);
    }
}
