//! [`Replica`]: a replica that is connected, and what each response says about it.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame, SizeHint};
use tokio::{select, time::Instant};
use tonic::{Code, Status};

use super::{
    balance::{Balance, WeakBalance},
    cost::Cost,
    members::Candidate,
    question::{Reply, ask, ask_while_present},
    state::Event,
};
use crate::{
    client::{
        Failure,
        pushback::Pushback,
        request_body::RequestBody,
        wire::{Closed, Connection, ResponseBody, Until},
    },
    metrics,
};

/// Why a replica that was connected gets no new calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Its connection takes none.
    Closed(Closed),
    /// It does not say anything any more.
    Silent,
    /// It says that it does not serve.
    NotServing,
}

/// A replica that is connected, up to its end.
pub(super) trait Connected: Candidate {
    /// Waits for the end.
    fn ended(&self) -> impl Future<Output = End> + Send;
}

/// A replica that is connected.
#[derive(Debug)]
pub(in crate::client) struct Replica {
    address: SocketAddr,
    connection: Connection,
    cost: Cost,
    counted: Arc<metrics::Replica>,
    balance: WeakBalance<Self>,
    /// Whether the balance waits for a success on it.
    is_doubted: AtomicBool,
}

impl Replica {
    /// Asks the replica at the other end of a connection whether it serves.
    pub(super) async fn new(
        address: SocketAddr,
        connection: Connection,
        counted: Arc<metrics::Replica>,
        balance: &Balance<Self>,
    ) -> io::Result<Self> {
        match ask(&connection).await {
            Reply::Present => Ok(Self::unasked(address, connection, counted, balance)),
            Reply::NotServing => Err(io::Error::other("it says that it does not serve")),
            Reply::Unavailable => Err(io::Error::other("it says that it is unavailable")),
            Reply::Nothing => {
                connection.abort();
                Err(io::Error::other("it does not say anything"))
            }
        }
    }

    /// The same without a question.
    pub(super) fn unasked(
        address: SocketAddr,
        connection: Connection,
        counted: Arc<metrics::Replica>,
        balance: &Balance<Self>,
    ) -> Self {
        Self {
            address,
            connection,
            cost: Cost::new(),
            counted,
            balance: balance.downgrade(),
            is_doubted: AtomicBool::new(true),
        }
    }

    /// Makes one attempt of a call on it.
    pub(in crate::client) async fn attempt(
        self: Arc<Self>,
        request: Request<RequestBody>,
        until: Until,
    ) -> Result<Response<ReplicaBody>, Failure> {
        self.counted.picks.add(1);
        let mut call = Call {
            begin: Instant::now(),
            replica: self,
            is_timed: false,
            is_judged: false,
        };
        match call.replica.connection.attempt(request, until).await {
            Ok(response) => {
                match response.body().bare_status(response.headers()) {
                    Some(status) => call.ended(status),
                    // A proxy that speaks no gRPC, for one.
                    None if !response.status().is_success() => call.ended(response.headers()),
                    None => call.responded(),
                }
                Ok(response.map(|body| ReplicaBody { body, call }))
            }
            Err(failure) => {
                call.failed(&failure);
                Err(failure)
            }
        }
    }

    /// Returns whether that changed its state.
    fn tell(&self, event: Event) -> bool {
        let balance = self.balance.upgrade();
        balance.is_some_and(|balance| balance.tell(self.address, event))
    }

    fn succeeded(&self) {
        self.cost.ended(false);
        if self.is_doubted.load(Relaxed) {
            self.is_doubted.store(false, Relaxed);
            // It was ejected, and would hardly be picked for what it did before.
            if self.tell(Event::Succeeded) {
                self.cost.forgive();
            }
        }
    }

    fn failed(&self) {
        self.is_doubted.store(true, Relaxed);
        self.cost.ended(true);
        self.tell(Event::Failed);
    }
}

impl Candidate for Replica {
    fn cost(&self) -> f64 {
        self.cost.of_a_call(self.connection.signs.in_flight())
    }
}

impl Connected for Replica {
    async fn ended(&self) -> End {
        let tell = |event| {
            self.tell(event);
        };
        select! {
            why = self.connection.signs.closed() => End::Closed(why),
            reply = ask_while_present(&self.connection, tell) => {
                if reply == Reply::NotServing {
                    return End::NotServing;
                }
                self.connection.abort();
                End::Silent
            }
        }
    }
}

/// A call on a replica. If it is given up, it counts with the time that it took.
#[derive(Debug)]
struct Call {
    replica: Arc<Replica>,
    begin: Instant,
    is_timed: bool,
    is_judged: bool,
}

impl Call {
    /// The response has begun.
    fn responded(&mut self) {
        self.is_timed = true;
        self.replica.cost.responded(self.begin);
    }

    /// The response has come to its end, with this status.
    fn ended(&mut self, status: &HeaderMap) {
        if std::mem::replace(&mut self.is_judged, true) {
            return;
        }
        let code = status.get(Status::GRPC_STATUS);
        let code = code.map_or(Code::Unknown, |code| Code::from_bytes(code.as_bytes()));
        match code {
            Code::Unavailable
            | Code::ResourceExhausted
            | Code::Internal
            | Code::Unknown
            | Code::DataLoss => {
                self.took_at_least();
                self.replica.failed();
                if let Some(Pushback::After(rest)) = Pushback::of(status) {
                    self.replica.tell(Event::PushedBack(rest));
                }
            }
            // It ran out of time, which may be the fault of whoever gave it too little.
            Code::DeadlineExceeded => self.took_at_least(),
            _ => {
                if !self.is_timed {
                    self.responded();
                }
                self.replica.succeeded();
            }
        }
    }

    /// There is no response.
    fn failed(&mut self, failure: &Failure) {
        let replica = &self.replica;
        match failure {
            Failure::Unprocessed(_) => {
                // At once, or the next attempt would pick it again.
                if let Some(balance) = replica.balance.upgrade() {
                    balance.close(replica.address, replica);
                }
                self.is_timed = true;
            }
            // Its keeper knows of the end of its connection.
            Failure::Broken(_) if replica.connection.signs.is_closed() => self.is_timed = true,
            // These are not its fault.
            Failure::Full | Failure::Request(_) => self.is_timed = true,
            Failure::Broken(_) | Failure::Refused(_) | Failure::NoReplica(_) => {
                replica.failed();
                self.took_at_least();
            }
        }
    }

    fn took_at_least(&mut self) {
        if !self.is_timed {
            self.is_timed = true;
            self.replica.cost.took_at_least(self.begin);
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.took_at_least();
    }
}

pin_project_lite::pin_project! {
    /// The body of a response, whose end says something about its replica.
    #[derive(Debug)]
    pub struct ReplicaBody {
        #[pin]
        body: ResponseBody,
        call: Call,
    }
}

impl ReplicaBody {
    /// The block of headers that has the gRPC status, where the response with this head is a
    /// status and nothing else.
    pub(in crate::client) fn bare_status<'a>(
        &'a self,
        head: &'a HeaderMap,
    ) -> Option<&'a HeaderMap> {
        self.body.bare_status(head)
    }
}

impl Body for ReplicaBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.project();
        let poll = this.body.poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &poll
            && let Some(trailers) = frame.trailers_ref()
        {
            this.call.ended(trailers);
        }
        poll
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
