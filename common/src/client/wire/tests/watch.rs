//! The watch over calls in flight, on a clock that runs ahead.

use std::{
    mem,
    sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::Relaxed},
    thread,
};

use tokio::{
    sync::Notify,
    task::JoinHandle,
    time::{Instant, sleep},
};

use super::raw::{DATA, GOAWAY, HEADERS, PING, Raw, SETTINGS, raw};
use super::*;
use crate::{
    client::wire::activity::{Closed, Suspicion},
    limits,
};

const SECOND: Duration = Duration::from_secs(1);
const MAX_CONCURRENT_STREAMS: u16 = 3;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

/// The request of a health check: an empty message.
const QUESTION: &[u8] = &[0; 5];

/// `:status: 200` as HPACK.
const HEAD: &[u8] = b"\x88";

/// A replica that takes calls and answers none of them.
#[derive(Debug, Default)]
struct Replica {
    answers_questions: AtomicBool,
    answers_pings: AtomicBool,
    acknowledges_settings: AtomicBool,
    health_checks: AtomicUsize,
    pings: AtomicUsize,
    /// The stream of the last call.
    call: AtomicU32,
    changed: Notify,
}

impl Replica {
    /// A connection to a replica that allows this many streams.
    async fn start(streams: u32) -> (Arc<Connection>, Arc<Self>, Order) {
        let (connection, mut raw) = raw().await;
        let replica = Arc::new(Self::default());
        replica.answer(true);
        raw.send_settings(&[(MAX_CONCURRENT_STREAMS, streams)])
            .await;
        let (order, orders) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(replica.clone().serve(raw, orders));
        while connection.max_streams() != u64::from(streams) {
            tokio::task::yield_now().await;
        }
        (connection, replica, order)
    }

    fn answer(&self, answers: bool) {
        self.answers_questions.store(answers, Relaxed);
        self.answers_pings.store(answers, Relaxed);
        self.changed.notify_one();
    }

    async fn serve(self: Arc<Self>, mut raw: Raw, mut orders: Orders) {
        let (mut health_checks, mut pings, mut settings) = (Vec::new(), Vec::new(), 0);
        loop {
            tokio::select! {
                // Reads whole frames only: what the connection writes is whole.
                frame = raw.next() => match frame.kind {
                    DATA if frame.payload == QUESTION => {
                        self.health_checks.fetch_add(1, Relaxed);
                        health_checks.push(frame.stream);
                    }
                    DATA => self.call.store(frame.stream, Relaxed),
                    PING => {
                        self.pings.fetch_add(1, Relaxed);
                        pings.push(frame.payload);
                    }
                    SETTINGS if frame.flags & ACK == 0 => settings += 1,
                    _ => {}
                },
                () = self.changed.notified() => {}
                Some((kind, flags, stream, payload)) = orders.recv() => {
                    raw.send(kind, flags, stream, payload).await;
                }
            }
            if self.answers_questions.load(Relaxed) {
                for stream in health_checks.drain(..) {
                    raw.respond(stream).await;
                }
            }
            if self.answers_pings.load(Relaxed) {
                for payload in pings.drain(..) {
                    raw.send(PING, ACK, 0, &payload).await;
                }
            }
            if self.acknowledges_settings.load(Relaxed) {
                for _ in 0..mem::take(&mut settings) {
                    raw.send(SETTINGS, ACK, 0, &[]).await;
                }
            }
        }
    }

    fn health_checks(&self) -> usize {
        self.health_checks.load(Relaxed)
    }

    fn pings(&self) -> usize {
        self.pings.load(Relaxed)
    }
}

type Order = tokio::sync::mpsc::UnboundedSender<(u8, u8, u32, &'static [u8])>;
type Orders = tokio::sync::mpsc::UnboundedReceiver<(u8, u8, u32, &'static [u8])>;

/// A call that the replica has and does not answer.
async fn call(
    connection: &Arc<Connection>,
    replica: &Replica,
) -> JoinHandle<Result<Response<ResponseBody>, Failure>> {
    let before = replica.call.load(Relaxed);
    let connection = connection.clone();
    let call = tokio::spawn(async move { connection.attempt(request(), ReadUntil::Head).await });
    while replica.call.load(Relaxed) == before {
        tokio::task::yield_now().await;
    }
    call
}

/// A call whose response has begun, and nothing more.
async fn open_stream(
    connection: &Arc<Connection>,
    replica: &Replica,
    order: &Order,
) -> ResponseBody {
    let call = call(connection, replica).await;
    let stream = replica.call.load(Relaxed);
    order.send((HEADERS, END_HEADERS, stream, HEAD)).unwrap();
    call.await.unwrap().unwrap().into_body()
}

/// So a replica that stands still is known to, however few calls try it.
#[tokio::test(start_paused = true)]
async fn a_replica_is_asked_after_a_single_call_that_was_dropped_without_a_response() {
    let (connection, replica, _order) = Replica::start(100).await;
    replica.answer(false);
    let call = call(&connection, &replica).await;
    sleep(SECOND / 50).await;
    call.abort();
    let mut suspicions = connection.activity.suspicions();
    let silent = suspicions.wait_for(|doubt| *doubt == Suspicion::Silent);
    assert!(timeout(SECOND, silent).await.is_ok());
    replica.answer(true);
    let answered = suspicions.wait_for(|doubt| *doubt == Suspicion::None);
    assert!(timeout(SECOND, answered).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_answers_questions_is_asked_again_and_again_but_not_doubted_for_long() {
    let (connection, replica, _order) = Replica::start(100).await;
    let call = call(&connection, &replica).await;
    let mut suspicions = connection.activity.suspicions();
    sleep(60 * SECOND).await;
    assert!((25..40).contains(&replica.health_checks()), "{replica:?}");
    assert_eq!(replica.pings(), 0);
    assert_eq!(*suspicions.borrow_and_update(), Suspicion::None);
    assert!(!call.is_finished() && !connection.activity.is_closed());
}

#[tokio::test(start_paused = true)]
async fn a_pause_of_seconds_raises_doubts_and_ends_no_call() {
    let (connection, replica, order) = Replica::start(100).await;
    let mut stream = open_stream(&connection, &replica, &order).await;
    let call = call(&connection, &replica).await;
    replica.answer(false);
    sleep(SECOND).await;
    assert_eq!(connection.activity.suspicion(), Suspicion::Silent);
    sleep(9 * SECOND).await;
    assert_eq!(connection.activity.suspicion(), Suspicion::Suspect);
    assert_eq!((replica.health_checks(), replica.pings()), (1, 1));
    replica.answer(true);
    sleep(SECOND).await;
    assert_eq!(connection.activity.suspicion(), Suspicion::None);
    let on = replica.call.load(Relaxed);
    order.send((DATA, 0, on - 2, b"data")).unwrap();
    assert_eq!(
        stream.frame().await.unwrap().unwrap().data_ref().unwrap(),
        "data"
    );
    order.send((HEADERS, END_HEADERS, on, HEAD)).unwrap();
    assert!(call.await.unwrap().is_ok());
    assert!(!connection.activity.is_closed());
}

#[tokio::test(start_paused = true)]
async fn a_connection_without_a_byte_for_twenty_seconds_is_broken_off() {
    let (connection, replica, _order) = Replica::start(100).await;
    replica.answer(false);
    let begin = Instant::now();
    let call = call(&connection, &replica).await;
    assert!(call.await.unwrap().is_err());
    let took = begin.elapsed();
    assert!((20 * SECOND..23 * SECOND).contains(&took), "{took:?}");
    assert_eq!(connection.activity.closed().await, Closed::Silent);
}

#[tokio::test(start_paused = true)]
async fn no_ping_follows_another_within_five_minutes_unless_the_replica_has_sent_something() {
    let (connection, replica, order) = Replica::start(100).await;
    let mut stream = open_stream(&connection, &replica, &order).await;
    replica.answers_questions.store(false, Relaxed);
    let _call = call(&connection, &replica).await;
    sleep(100 * SECOND).await;
    assert_eq!(
        replica.pings(),
        1,
        "an acknowledgement allows no other PING"
    );
    assert_eq!(connection.activity.suspicion(), Suspicion::Suspect);
    let on = replica.call.load(Relaxed) - 2;
    order.send((DATA, 0, on, b"data")).unwrap();
    stream.frame().await.unwrap().unwrap();
    sleep(10 * SECOND).await;
    assert_eq!(replica.pings(), 2);
    sleep(limits::PING_INTERVAL).await;
    assert_eq!(replica.pings(), 3);
    assert!(!connection.activity.is_closed());
}

#[tokio::test(start_paused = true)]
async fn where_no_stream_is_free_a_ping_takes_the_place_of_the_question() {
    for answers in [true, false] {
        let (connection, replica, _order) = Replica::start(1).await;
        replica.answer(answers);
        let _call = call(&connection, &replica).await;
        sleep(2 * SECOND).await;
        assert_eq!((replica.health_checks(), replica.pings()), (0, 1));
        sleep(100 * SECOND).await;
        assert_eq!((replica.health_checks(), replica.pings()), (0, 1));
        assert_eq!(connection.activity.is_closed(), !answers);
    }
}

/// Its servers would not forgive a second PING.
#[tokio::test(start_paused = true)]
async fn a_replica_that_falls_silent_after_a_ping_is_asked_by_settings_and_broken_off() {
    for (streams, within) in [(1, 24 * SECOND), (100, 31 * SECOND)] {
        let (connection, replica, _order) = Replica::start(streams).await;
        replica.answers_questions.store(false, Relaxed);
        replica.acknowledges_settings.store(true, Relaxed);
        let call = call(&connection, &replica).await;
        sleep(60 * SECOND).await;
        assert_eq!(replica.pings(), 1);
        assert!(!call.is_finished(), "it is slow, and acknowledges all");
        replica.answer(false);
        replica.acknowledges_settings.store(false, Relaxed);
        let begin = Instant::now();
        assert!(
            timeout(within, call)
                .await
                .expect("it is broken off")
                .unwrap()
                .is_err()
        );
        let took = begin.elapsed();
        assert!(took > 12 * SECOND, "{took:?}");
        assert_eq!(replica.pings(), 1);
        assert_eq!(connection.activity.closed().await, Closed::Silent);
    }
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_never_acknowledges_settings_is_not_doubted_for_that() {
    let (connection, replica, _order) = Replica::start(1).await;
    let call = call(&connection, &replica).await;
    sleep(10 * SECOND).await;
    assert_eq!(replica.pings(), 1);
    sleep(250 * SECOND).await;
    assert_eq!(connection.activity.suspicion(), Suspicion::None);
    assert!(!call.is_finished() && !connection.activity.is_closed());
}

#[tokio::test(start_paused = true)]
async fn the_calls_that_a_goaway_spares_are_watched() {
    let (connection, replica, order) = Replica::start(100).await;
    let call = call(&connection, &replica).await;
    assert_eq!(replica.call.load(Relaxed), 1);
    order
        .send((GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0]))
        .unwrap();
    assert_eq!(connection.activity.closed().await, Closed::GoingAway);
    sleep(100 * SECOND).await;
    assert!(!call.is_finished());
    assert_eq!((replica.health_checks(), replica.pings()), (0, 1));
    replica.answer(false);
    sleep(limits::PING_INTERVAL).await;
    assert!(call.await.unwrap().is_err());
    assert_eq!((replica.health_checks(), replica.pings()), (0, 2));
}

#[tokio::test(start_paused = true)]
async fn a_quiet_stream_is_watched_when_nobody_else_holds_its_connection() {
    let (connection, replica, order) = Replica::start(100).await;
    let mut stream = open_stream(&connection, &replica, &order).await;
    drop(connection);
    sleep(60 * SECOND).await;
    assert!((5..7).contains(&replica.health_checks()), "{replica:?}");
    replica.answer(false);
    let begin = Instant::now();
    assert!(stream.frame().await.unwrap().is_err());
    let took = begin.elapsed();
    assert!((20 * SECOND..35 * SECOND).contains(&took), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_goaway_that_meets_a_question_ends_no_call() {
    let (connection, replica, order) = Replica::start(100).await;
    replica.answer(false);
    let call = call(&connection, &replica).await;
    while replica.health_checks() == 0 {
        sleep(Duration::from_millis(10)).await;
    }
    // The question is above the last stream.
    order
        .send((GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0]))
        .unwrap();
    assert_eq!(connection.activity.closed().await, Closed::GoingAway);
    assert_eq!(connection.activity.suspicion(), Suspicion::None);
    order.send((HEADERS, END_HEADERS, 1, HEAD)).unwrap();
    assert!(call.await.unwrap().is_ok());
}

#[tokio::test]
async fn a_worker_that_was_stuck_does_not_take_a_replica_for_silent() {
    let head = Origin::in_memory(RequestIdNames::Both);
    let connection = Connection::open(listen(), head, Arc::default()).await;
    let connection = connection.unwrap();
    let mut suspicions = connection.activity.suspicions();
    let watching = tokio::spawn(async move {
        suspicions
            .wait_for(|doubt| *doubt == Suspicion::HealthCheckSent)
            .await
            .unwrap();
        // The question has not left yet.
        thread::sleep(2 * SECOND);
        let next = suspicions
            .wait_for(|doubt| *doubt != Suspicion::HealthCheckSent)
            .await;
        *next.unwrap()
    });
    let call = connection.attempt(request(), ReadUntil::Head);
    tokio::select! {
        _ = call => unreachable!("there is no response"),
        doubt = watching => assert_eq!(doubt.unwrap(), Suspicion::None),
    }
}
