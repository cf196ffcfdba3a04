//! The watch over the calls of a connection, as long as one is in flight: also after a GOAWAY, and
//! when the replica has left the pool.
//!
//! A slow response alone says nothing. When a call is late and nothing at all comes over its
//! connection, a health check is sent. Two decisions follow from the lack of a reply, with two
//! patiences:
//!
//! | nothing has come for | what follows |
//! |---|---|
//! | 125 ms after the health check | calls that may go elsewhere do ([`Suspicion::Silent`]) |
//! | 1 s after the health check | another connection to the replica is tried ([`Suspicion::Suspect`]), and a PING is sent |
//! | 20 s after the PING | the connection is broken off, with the calls on it |
//!
//! A pause of some seconds, as of a garbage collection or a migration, costs no stream.
//!
//! gRPC's servers allow health checks at any rate, unlike PINGs: where a PING would be one too many, SETTINGS
//! take its place.

use std::{
    pin::pin,
    sync::{Arc, Weak},
    time::Duration,
};

use axum::BoxError;
use bytes::Bytes;
use http::Request;
use http_body::Body;
use tokio::{
    select,
    task::yield_now,
    time::{Instant, sleep, sleep_until, timeout},
};
use tonic::{Code, Status, client::GrpcService};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tower::service_fn;

use super::{
    activity::{Closed, ConnectionActivity, Counts, Suspicion},
    connection::{Connection, Questions},
    request_body::RequestBody,
};
use crate::{
    client::ending::{failure::Failure, reading},
    request::{
        context::{Context, Deadline},
        id::RequestId,
    },
};

/// A call is late when nothing has come over its connection for this long. The check may notice up
/// to this much later.
const LATE_AFTER: Duration = Duration::from_millis(250);

/// The longest pause between two health checks while nothing but the replies to them comes. The pauses
/// double up to it.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Streams whose responses have begun may be quiet for hours: a health check is sent after so many
/// looks without a byte, which take 10 s.
const QUIET_LOOKS: u32 = 40;

/// The ticks from a health check to each suspicion: 125 ms, which a busy replica may take for a reply, and as
/// long as a new connection has for its first one.
const SILENT: u32 = 1;
const SUSPECT: u32 = REPLY;

/// The ticks from a health check to SETTINGS in place of a PING that a server would not forgive: 6 s. Their
/// acknowledgement ends the suspicion, which a replica deserves that serves HTTP/2 and no call.
const UNFORGIVEN: u32 = 48;

/// The ticks from a PING to the end of the connection: 20 s (gRPC's default, gRFC A8).
const BROKEN: u32 = 160;

/// Watches the calls of a connection while polled. Keeps the connection open only during health checks.
pub(crate) async fn watch(
    connection: Weak<Connection>,
    activity: Arc<ConnectionActivity>,
    mut questions: Questions,
) {
    loop {
        activity.call_begun().await;
        watch_calls(&connection, &activity, &mut questions).await;
    }
}

/// Sends a health check whenever a call is late, until none is in flight.
async fn watch_calls(
    connection: &Weak<Connection>,
    activity: &ConnectionActivity,
    questions: &mut Questions,
) {
    let mut looks = Looks::new(activity.counts());
    let mut pause = LATE_AFTER;
    let mut next_check = Instant::now();
    loop {
        patience(LATE_AFTER).await;
        match looks.look(activity.counts()) {
            Activity::Idle => return,
            Activity::Responses => pause = LATE_AFTER,
            Activity::Silence => {}
            Activity::Late if Instant::now() < next_check => {}
            Activity::Late => {
                let Some(connection) = connection.upgrade() else {
                    return;
                };
                wait_for_bytes(&connection, questions).await;
                looks = Looks::new(activity.counts());
                next_check = Instant::now() + pause;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

/// Sends a health check, and waits until anything comes or the connection ends.
///
/// A health check that has to wait for a free stream would prove nothing, and after a GOAWAY there is no
/// stream: a PING is sent then, or SETTINGS. Of a server that never acknowledges SETTINGS nothing is asked
/// where it would not forgive the PING.
async fn wait_for_bytes(connection: &Arc<Connection>, questions: &mut Questions) {
    let activity = &connection.activity;
    let before = activity.counts().reads;
    let mut is_asking = connection.has_free_stream() && activity.takes_streams();
    if !is_asking && !questions.ask(activity).await {
        return;
    }
    let mut since_ping = (!is_asking).then_some(0);
    let mut health_check = pin!(check(connection));
    activity.set_suspicion(Suspicion::HealthCheckSent);
    let mut ticks = 0;
    loop {
        select! {
            biased;
            reply = &mut health_check, if is_asking => {
                is_asking = false;
                note_reply(reply, activity);
            }
            () = patience(TICK) => ticks += 1,
        }
        if activity.counts().reads != before {
            activity.set_suspicion(Suspicion::None);
            if is_asking {
                let reply = timeout(TICK * REPLY, health_check).await;
                note_reply(reply.ok().flatten(), activity);
            }
            return;
        }
        // Nobody else holds the connection, so nobody cares.
        if connection.has_ended() || Arc::strong_count(connection) == 1 {
            return;
        }
        if ticks == SILENT {
            activity.set_suspicion(Suspicion::Silent);
        }
        if ticks >= SUSPECT {
            activity.set_suspicion(Suspicion::Suspect);
            since_ping = since_ping.or_else(|| questions.ping(activity).then_some(ticks));
        }
        if ticks >= UNFORGIVEN && since_ping.is_none() && questions.ask_by_settings().await {
            since_ping = Some(ticks);
        }
        if since_ping.is_some_and(|since| ticks - since >= BROKEN) {
            connection.break_off();
            return;
        }
    }
}

fn note_reply(reply: Option<HealthReply>, activity: &ConnectionActivity) {
    if reply == Some(HealthReply::NotServing) {
        activity.close(Closed::NotServing);
    }
}

/// The activity of a connection since the last look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Activity {
    /// Something has come.
    Responses,
    /// No call is in flight.
    Idle,
    /// Nothing has come, but no call is late.
    Silence,
    /// Nothing has come for the second time while a call waits, or for long while a stream is open.
    Late,
}

/// Compares the counts of a connection with those of the last look.
#[derive(Debug)]
struct Looks {
    last: Counts,
    was_silent: bool,
    /// The looks in a row without a byte.
    quiet: u32,
}

impl Looks {
    /// Starts with these counts. A call that is waiting now is late at the next look.
    fn new(now: Counts) -> Self {
        Self {
            last: now,
            was_silent: now.begun > now.settled,
            quiet: 0,
        }
    }

    fn look(&mut self, now: Counts) -> Activity {
        if now.reads != self.last.reads {
            *self = Self::new(now);
            return Activity::Responses;
        }
        self.quiet += 1;
        if self.was_silent {
            return Activity::Late;
        }
        // A call that was dropped, such as the loser of a hedge, had no response either.
        self.was_silent = now.begun > now.settled || now.begun > self.last.begun;
        if now.begun == now.ended && !self.was_silent {
            Activity::Idle
        } else if self.was_silent || self.quiet < QUIET_LOOKS {
            Activity::Silence
        } else {
            Activity::Late
        }
    }
}

/// The clock of health checks. Time counts in ticks that leave out the [time for which this worker was
/// stuck](patience).
pub(crate) const TICK: Duration = Duration::from_millis(125);

/// The ticks that a reply may take: 1 s.
pub(crate) const REPLY: u32 = 8;

/// The deadline that a health check carries.
const DEADLINE: Duration = Duration::from_secs(20);

/// The reply to a health check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HealthReply {
    /// The replica is there, as most responses mean.
    Present,
    /// The replica says that it does not serve.
    NotServing,
    /// The replica, or a proxy before it, says that it is unavailable.
    Unavailable,
}

impl Connection {
    /// Asks whether the other end serves. Any bytes mean that it does, unless it says otherwise; an
    /// error says why it does not.
    pub(crate) async fn serves(&self) -> Result<(), &'static str> {
        let before = self.activity.counts().reads;
        let mut health_check = pin!(check(self));
        let mut reply = None;
        for _ in 0..REPLY {
            select! {
                biased;
                it = &mut health_check => {
                    reply = it;
                    break;
                }
                () = patience(TICK) => {}
            }
        }
        match reply {
            Some(HealthReply::Present) => Ok(()),
            Some(HealthReply::NotServing) => Err("it says that it does not serve"),
            Some(HealthReply::Unavailable) => Err("it says that it is unavailable"),
            None if self.activity.takes_streams() && self.activity.counts().reads > before => {
                Ok(())
            }
            None => Err("it does not respond"),
        }
    }
}

/// Asks a replica whether it serves. There is no reply if the connection ends before.
pub(crate) async fn check(connection: &Connection) -> Option<HealthReply> {
    let exchange = service_fn(async |request: Request<tonic::body::Body>| {
        let (head, body) = request.into_parts();
        let request = Request::from_parts(head, RequestBody::message(body).await?);
        let response = connection.exchange(Box::new(request)).await;
        let response = response.map_err(Failure::into_status);
        response.map(reading::without_invalid)
    });
    let reply = check_health(exchange, DEADLINE).await;
    let is_unavailable = |status: &Status| status.code() == Code::Unavailable;
    match reply {
        Ok(ServingStatus::NotServing) => Some(HealthReply::NotServing),
        Err(_) if !connection.activity.takes_streams() => None,
        Err(status) if is_unavailable(&status) => Some(HealthReply::Unavailable),
        _ => Some(HealthReply::Present),
    }
}

/// Calls `grpc.health.v1` over `service`, in a context of its own whose deadline is in `limit`.
pub(crate) async fn check_health<S>(service: S, limit: Duration) -> Result<ServingStatus, Status>
where
    S: GrpcService<tonic::body::Body, Error: Into<BoxError>>,
    S::ResponseBody: Body<Data = Bytes, Error: Into<BoxError> + Send> + Send + 'static,
{
    let mut health = HealthClient::new(service);
    let check = health.check(HealthCheckRequest::default());
    let context = Context::new(RequestId::fresh(), Deadline::after(limit));
    Ok(context.scope(check).await?.into_inner().status())
}

/// The most that timers are late by on a worker that is not stuck: they have whole milliseconds, and
/// wait for the tasks of one look at the sockets.
const LATE: Duration = Duration::from_millis(5);

/// Waits for this time, as long as a peer may take. A worker that computes for seconds neither sends a
/// health check nor reads the reply meanwhile: the time by which the wait was too long does not count, so
/// the peer gets as much again. In the end the connections of this worker read what has arrived.
async fn patience(time: Duration) {
    patience_by(time, sleep_until).await;
}

/// As [`patience`], with another timer, which is given the end of the time.
pub(crate) async fn patience_by<F>(time: Duration, timer: impl FnOnce(Instant) -> F)
where
    F: Future<Output = ()>,
{
    let end = Instant::now() + time;
    timer(end).await;
    let late = end.elapsed();
    if late > LATE {
        sleep(late.min(time)).await;
    }
    yield_now().await;
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, thread};

    use tokio::task::yield_now;

    use super::*;
    use crate::client::{
        config::RequestIdNames,
        wire::{origin::Origin, tests::listen},
    };

    fn counts(reads: u64, begun: u64, settled: u64, ended: u64) -> Counts {
        Counts {
            reads,
            begun,
            settled,
            ended,
        }
    }

    #[test]
    fn a_connection_without_calls_is_idle() {
        let mut looks = Looks::new(counts(3, 5, 5, 5));
        for _ in 0..3 {
            assert_eq!(looks.look(counts(3, 5, 5, 5)), Activity::Idle);
        }
    }

    #[test]
    fn a_call_is_late_when_nothing_came_between_two_looks() {
        let mut looks = Looks::new(counts(3, 5, 5, 5));
        assert_eq!(looks.look(counts(3, 6, 5, 5)), Activity::Silence);
        assert_eq!(looks.look(counts(3, 6, 5, 5)), Activity::Late);
        assert_eq!(looks.look(counts(4, 6, 6, 6)), Activity::Responses);
        assert_eq!(looks.look(counts(4, 6, 6, 6)), Activity::Idle);
    }

    #[test]
    fn a_slow_call_is_not_late_while_other_responses_come() {
        let mut looks = Looks::new(counts(3, 5, 4, 4));
        for more in 1..10 {
            let now = counts(3 + more, 5 + more, 4 + more, 4 + more);
            assert_eq!(looks.look(now), Activity::Responses);
        }
    }

    #[test]
    fn dropped_calls_are_late_too() {
        let mut looks = Looks::new(counts(3, 5, 5, 5));
        assert_eq!(looks.look(counts(3, 6, 6, 6)), Activity::Silence);
        assert_eq!(looks.look(counts(3, 7, 7, 7)), Activity::Late);
        // It waited when the watch began, and was gone at the first look.
        let mut looks = Looks::new(counts(3, 6, 5, 5));
        assert_eq!(looks.look(counts(3, 6, 6, 6)), Activity::Late);
    }

    #[test]
    fn a_stream_may_be_quiet_for_ten_seconds() {
        let mut looks = Looks::new(counts(3, 5, 5, 4));
        for _ in 1..QUIET_LOOKS {
            assert_eq!(looks.look(counts(3, 5, 5, 4)), Activity::Silence);
        }
        assert_eq!(looks.look(counts(3, 5, 5, 4)), Activity::Late);
        assert_eq!(looks.look(counts(4, 5, 5, 4)), Activity::Responses);
        assert_eq!(looks.look(counts(4, 5, 5, 4)), Activity::Silence);
    }

    #[tokio::test]
    async fn a_worker_that_was_stuck_does_not_take_the_replica_for_dead() {
        let head = Origin::in_memory(RequestIdNames::Both);
        let connection = Connection::open(listen(), head, Arc::default())
            .await
            .unwrap();
        assert_eq!(connection.serves().await, Ok(()));
        for _ in 0..3 {
            let health_check = connection.serves();
            let stuck = async {
                // The question is on its way when the worker is stuck.
                for _ in 0..3 {
                    yield_now().await;
                }
                thread::sleep(TICK * (REPLY + 2));
            };
            let (reply, ()) = tokio::join!(health_check, stuck);
            assert_eq!(reply, Ok(()));
        }
    }

    const TIME: Duration = Duration::from_millis(50);

    #[tokio::test(start_paused = true)]
    async fn a_wait_takes_its_time() {
        let begin = Instant::now();
        patience(TIME).await;
        assert_eq!(begin.elapsed(), TIME);
    }

    #[tokio::test]
    async fn the_time_for_which_the_worker_was_stuck_does_not_count() {
        let stuck = async {
            thread::sleep(10 * TIME);
            Instant::now()
        };
        let ((), free_again) = tokio::join!(patience(TIME), stuck);
        assert!(free_again.elapsed() >= TIME);
    }
}
