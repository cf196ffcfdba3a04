//! The health check of a connected replica: when it is sent, and what its response says.
//!
//! A slow response alone says nothing. A replica is asked when a call waits and nothing at all
//! comes over the connection. If nothing comes after the question either, the replica is dead. The
//! question is a call of `grpc.health.v1`, as gRPC servers close connections that send many PINGs
//! (gRFC A8).

use std::{mem, time::Duration};

use http::Request;
use tokio::{
    task::yield_now,
    time::{Instant, sleep, timeout},
};
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;
use tower::service_fn;

use super::{
    backoff::Backoff,
    state::{End, Event},
};
use crate::client::{
    Failure,
    request_body::RequestBody,
    serving::check_health,
    wire::{Connection, Counts},
};

/// A call is late when nothing has come over its connection for this long. The check may notice up
/// to this much later.
const LATE_AFTER: Duration = Duration::from_millis(250);

/// A replica is dead when nothing has come for this long after a question.
const DEAD_AFTER: Duration = Duration::from_secs(1);

/// The pauses between questions while nothing but the responses to them comes.
const QUESTION: Backoff = Backoff {
    base: LATE_AFTER,
    factor: 2.0,
    limit: Duration::from_secs(2),
    jitter: 0.0,
};

/// The reply to a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reply {
    /// The replica is there: most responses mean this, and so do bytes of other calls.
    Present,
    /// The replica says that it does not serve.
    NotServing,
    /// The replica, or a proxy before it, says that it is unavailable.
    Unavailable,
    /// Nothing came.
    Nothing,
}

/// Asks a replica whether it serves.
pub(super) async fn ask(connection: &Connection) -> Reply {
    let exchange = service_fn(async |request: Request<tonic::body::Body>| {
        let (head, body) = request.into_parts();
        let request = Request::from_parts(head, RequestBody::message(body).await?);
        let response = connection.exchange(connection.sender(), request).await;
        response.map_err(Failure::into_status)
    });
    let before = connection.signs.counts().reads;
    let reply = timeout(DEAD_AFTER, check_health(exchange, DEAD_AFTER)).await;
    if reply.is_err() {
        // If this worker was stuck, the response may have arrived and is read now.
        yield_now().await;
    }
    match reply {
        Ok(Ok(ServingStatus::NotServing)) => Reply::NotServing,
        Ok(Err(_)) if connection.signs.is_closed() => Reply::Nothing,
        Ok(Err(status)) if status.code() == Code::Unavailable => Reply::Unavailable,
        Err(_) if connection.signs.counts().reads == before => Reply::Nothing,
        _ => Reply::Present,
    }
}

/// Asks whenever a call is late, until the replica is silent or does not serve. Reports the
/// questions and the responses until then.
pub(super) async fn ask_until_gone(connection: &Connection, report: impl Fn(Event)) -> End {
    let mut watch = Watch::new(connection.signs.counts());
    let mut questions = 0;
    let mut next_question = Instant::now();
    loop {
        sleep(LATE_AFTER).await;
        match watch.look(connection.signs.counts()) {
            Activity::Idle => connection.signs.call_begun().await,
            Activity::Responses => questions = 0,
            Activity::Silence => {}
            // A question that has to wait for a free stream would prove nothing.
            Activity::Late if Instant::now() < next_question || !connection.has_free_stream() => {}
            Activity::Late => {
                report(Event::Asked);
                match ask(connection).await {
                    Reply::Nothing => return End::Silent,
                    Reply::NotServing => return End::NotServing,
                    Reply::Present | Reply::Unavailable => report(Event::Responded),
                }
                watch = Watch::new(connection.signs.counts());
                questions += 1;
                next_question = Instant::now() + QUESTION.pause(questions);
            }
        }
    }
}

/// The activity of a connection since the last look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Activity {
    /// Something has come.
    Responses,
    /// Nothing has come, and no call waits.
    Idle,
    /// Nothing has come since a call began.
    Silence,
    /// Nothing has come for the second time: a call is late.
    Late,
}

/// Compares the counts of a connection with those of the last look.
#[derive(Debug)]
struct Watch {
    last: Counts,
    was_silent: bool,
}

impl Watch {
    /// Starts with these counts. A call that is waiting now is late at the next look.
    fn new(now: Counts) -> Self {
        Self {
            last: now,
            was_silent: now.begun > now.settled,
        }
    }

    fn look(&mut self, now: Counts) -> Activity {
        if now.reads != self.last.reads {
            *self = Self::new(now);
            return Activity::Responses;
        }
        // A call that was dropped in between, such as the loser of a hedge, had no response either.
        if now.begun == now.settled && now.begun == self.last.begun {
            self.was_silent = false;
            return Activity::Idle;
        }
        if mem::replace(&mut self.was_silent, true) {
            Activity::Late
        } else {
            Activity::Silence
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use h2::server;
    use http::Response;
    use tokio::{net::TcpListener, runtime};

    use super::*;
    use crate::client::{RequestIdNames, wire::Head};

    /// Listens on a thread of its own and responds to each call with `UNIMPLEMENTED`.
    fn listen() -> std::net::SocketAddr {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        thread::spawn(move || {
            let runtime = runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                let listener = TcpListener::from_std(listener).unwrap();
                let (socket, _) = listener.accept().await.unwrap();
                let mut streams = server::handshake(socket).await.unwrap();
                while let Some(Ok((_, mut stream))) = streams.accept().await {
                    let response = Response::builder().header("grpc-status", "12").body(());
                    stream.send_response(response.unwrap(), true).unwrap();
                }
            });
        });
        address
    }

    #[tokio::test]
    async fn a_worker_that_was_stuck_does_not_take_the_replica_for_dead() {
        let head = Head::in_memory(RequestIdNames::Both);
        let connection = Connection::open(listen(), head).await.unwrap();
        assert_eq!(ask(&connection).await, Reply::Present);
        for _ in 0..3 {
            let question = ask(&connection);
            let stuck = async {
                // The question is on its way when the worker is stuck.
                for _ in 0..3 {
                    yield_now().await;
                }
                thread::sleep(DEAD_AFTER + LATE_AFTER);
            };
            let (reply, ()) = tokio::join!(question, stuck);
            assert_eq!(reply, Reply::Present);
        }
    }

    fn counts(reads: u64, begun: u64, settled: u64) -> Counts {
        Counts {
            reads,
            begun,
            settled,
        }
    }

    #[test]
    fn a_connection_without_calls_is_idle() {
        let mut watch = Watch::new(counts(3, 5, 5));
        for _ in 0..3 {
            assert_eq!(watch.look(counts(3, 5, 5)), Activity::Idle);
        }
    }

    #[test]
    fn a_call_is_late_when_nothing_came_between_two_looks() {
        let mut watch = Watch::new(counts(3, 5, 5));
        assert_eq!(watch.look(counts(3, 6, 5)), Activity::Silence);
        assert_eq!(watch.look(counts(3, 6, 5)), Activity::Late);
        assert_eq!(watch.look(counts(4, 6, 6)), Activity::Responses);
        assert_eq!(watch.look(counts(4, 6, 6)), Activity::Idle);
    }

    #[test]
    fn a_slow_call_is_not_late_while_other_responses_come() {
        let mut watch = Watch::new(counts(3, 5, 4));
        for more in 1..10 {
            let now = counts(3 + more, 5 + more, 4 + more);
            assert_eq!(watch.look(now), Activity::Responses);
        }
    }

    #[test]
    fn dropped_calls_are_late_too() {
        let mut watch = Watch::new(counts(3, 5, 5));
        assert_eq!(watch.look(counts(3, 6, 6)), Activity::Silence);
        assert_eq!(watch.look(counts(3, 7, 7)), Activity::Late);
    }
}
