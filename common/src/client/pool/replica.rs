//! [`Replica`]: a connected replica, and what each response says about it.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame};
use tokio::{select, time::Instant};
use tonic::{Code, Status};

use super::{
    balance::{Balance, Membership},
    cost::Cost,
    members::Candidate,
    question::{Reply, ask, ask_until_gone},
    state::{End, Event},
};
use crate::{
    client::{
        Failure,
        pushback::Pushback,
        request_body::RequestBody,
        wire::{Connection, ResponseBody, Until},
    },
    context,
    metrics::{self, Kind, Live},
    protocol::code_name,
};
#[cfg(feature = "traces")]
use crate::{trace::Trace, traces};

/// A connected replica, until its connection ends.
pub(super) trait Connected: Candidate {
    /// Shows the replica to operators.
    fn show(self: &Arc<Self>) {}

    /// Waits until the replica is gone.
    fn ended(&self) -> impl Future<Output = End> + Send;
}

/// A replica with its connection.
#[derive(Debug)]
pub(in crate::client) struct Replica {
    address: SocketAddr,
    connection: Connection,
    cost: Cost,
    metrics: Arc<metrics::Replica>,
    balance: Balance<Self>,
    /// Whether to report the next success to the balance.
    is_doubted: AtomicBool,
}

impl Replica {
    pub(super) fn new(membership: &Membership<Self>, connection: Connection) -> Self {
        Self {
            address: membership.address,
            connection,
            cost: Cost::new(),
            metrics: membership.metrics.clone(),
            balance: membership.balance.clone(),
            is_doubted: AtomicBool::new(true),
        }
    }

    /// Asks the other end of a connection whether it serves.
    pub(super) async fn ask(
        membership: &Membership<Self>,
        connection: Connection,
    ) -> io::Result<Self> {
        match ask(&connection).await {
            Reply::Present => Ok(Self::new(membership, connection)),
            Reply::NotServing => Err(io::Error::other("it says that it does not serve")),
            Reply::Unavailable => Err(io::Error::other("it says that it is unavailable")),
            Reply::Nothing => {
                connection.abort();
                Err(io::Error::other("it does not respond"))
            }
        }
    }

    /// Makes one attempt of a call.
    pub(in crate::client) async fn attempt(
        self: Arc<Self>,
        request: Request<RequestBody>,
        until: Until,
        method: Arc<str>,
    ) -> Result<Response<ReplicaBody>, Failure> {
        self.metrics.picks.add(1);
        #[cfg(feature = "traces")]
        let attempt = traces::of_attempt();
        let mut call = Call {
            #[cfg(feature = "traces")]
            trace: attempt.as_ref().map(|(_, trace)| trace.clone()),
            is_timed: true,
            replica: self,
            is_judged: false,
            method,
            start: Instant::now(),
            code: None,
            measured: None,
        };
        let sent = call.replica.connection.attempt(request, until);
        #[cfg(feature = "traces")]
        let outcome = match attempt {
            // The id of the span goes with the attempt, and on its log lines.
            Some((context, _)) => context.scope(sent).await,
            None => sent.await,
        };
        #[cfg(not(feature = "traces"))]
        let outcome = sent.await;
        match outcome {
            Ok(response) => {
                match response.body().bare_status(response.headers()) {
                    Some(status) => call.ended(status),
                    // Such as the response of a proxy that does not speak gRPC.
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

    /// Applies an event to the replica's state. Returns whether the state has changed.
    fn apply(&self, event: Event) -> bool {
        self.balance.apply(self.address, event)
    }

    fn succeeded(&self) {
        self.cost.ended(false);
        if self.is_doubted.load(Relaxed) {
            self.is_doubted.store(false, Relaxed);
            // The replica was ejected or late. Its past failures would keep calls away.
            if self.apply(Event::Succeeded) {
                self.cost.forgive();
            }
        }
    }

    fn failed(&self) {
        self.is_doubted.store(true, Relaxed);
        self.cost.ended(true);
        self.apply(Event::Failed);
    }
}

impl Candidate for Replica {
    fn cost(&self) -> f64 {
        self.cost.of_a_call(self.connection.signs.in_flight())
    }
}

impl Live for Replica {
    fn latency(&self) -> Duration {
        self.cost.latency()
    }

    fn in_flight(&self) -> u64 {
        self.connection.signs.in_flight()
    }
}

impl Connected for Replica {
    fn show(self: &Arc<Self>) {
        let live: Arc<dyn Live> = self.clone();
        self.metrics.set_connected(Arc::downgrade(&live));
    }

    async fn ended(&self) -> End {
        let report = |event| {
            self.apply(event);
        };
        let end = select! {
            why = self.connection.signs.closed() => End::Closed(why),
            end = ask_until_gone(&self.connection, report) => end,
        };
        if end == End::Silent {
            self.connection.abort();
        }
        end
    }
}

/// A call with all of its attempts. When this is dropped, the call counts.
#[derive(Debug)]
pub(in crate::client) struct Measured {
    /// The method, as metrics have it.
    method: Arc<str>,
    begin: Instant,
    /// How the call has ended, if it has.
    code: Option<Code>,
}

impl Measured {
    pub(in crate::client) fn begin(method: Arc<str>) -> Self {
        Self {
            method,
            begin: Instant::now(),
            code: None,
        }
    }

    /// Sees the outcome of the last attempt. A response may go on for long.
    pub(in crate::client) fn see(
        mut self,
        mut outcome: Result<Response<ReplicaBody>, Failure>,
    ) -> Result<Response<ReplicaBody>, Failure> {
        match &mut outcome {
            Ok(response) => response.body_mut().end_with(self),
            Err(failure) => self.code = Some(failure.code()),
        }
        outcome
    }
}

impl Drop for Measured {
    fn drop(&mut self) {
        // A call that is given up has met its deadline, or its caller has gone.
        let code = self.code.unwrap_or_else(|| match context::deadline() {
            Some(deadline) if deadline.remaining().is_none() => Code::DeadlineExceeded,
            _ => Code::Cancelled,
        });
        let took = self.begin.elapsed();
        metrics::count_duration(Kind::RpcClient, &self.method, code as u16, took);
    }
}

/// A call on a replica. If it is dropped before its response, its time so far is a lower bound of
/// the latency.
#[derive(Debug)]
struct Call {
    replica: Arc<Replica>,
    /// Whether the time of the call is still to be counted in the cost of the replica.
    is_timed: bool,
    is_judged: bool,
    /// The method, as metrics have it.
    method: Arc<str>,
    start: Instant,
    /// How the call has ended, if it has.
    code: Option<Code>,
    /// The call as a whole, if this is its last attempt.
    measured: Option<Measured>,
    /// The trace of its span, if that is recorded.
    #[cfg(feature = "traces")]
    trace: Option<Arc<Trace>>,
}

impl Call {
    /// Records that the response has begun.
    fn responded(&mut self) {
        if std::mem::take(&mut self.is_timed) {
            self.replica.cost.responded(self.start);
        }
    }

    /// Records that the response has ended with this status.
    fn ended(&mut self, status: &HeaderMap) {
        if std::mem::replace(&mut self.is_judged, true) {
            return;
        }
        let code = status.get(Status::GRPC_STATUS);
        let code = code.map_or(Code::Unknown, |code| Code::from_bytes(code.as_bytes()));
        self.code = Some(code);
        match code {
            Code::Unavailable
            | Code::ResourceExhausted
            | Code::Internal
            | Code::Unknown
            | Code::DataLoss => {
                self.took_at_least();
                self.replica.failed();
                let error = format!("{} to {}", code_name(code), self.method);
                self.replica.metrics.set_last_error(error);
                if let Pushback::After(rest) = Pushback::of(status) {
                    self.replica.apply(Event::PushedBack(rest));
                }
            }
            // The deadline may have been too short.
            Code::DeadlineExceeded => self.took_at_least(),
            _ => {
                self.responded();
                self.replica.succeeded();
            }
        }
    }

    /// Records why the attempt has no response.
    fn failed(&mut self, failure: &Failure) {
        let replica = &self.replica;
        self.code = Some(failure.code());
        match failure {
            Failure::Unprocessed(_) => {
                // At once, or the next attempt would pick the replica again.
                replica.balance.close(replica.address, replica);
                self.is_timed = false;
            }
            // The connection has ended, which the keeper of the replica reports.
            Failure::Broken(_) if replica.connection.signs.is_closed() => self.is_timed = false,
            // These are not the replica's fault.
            Failure::Full | Failure::Request(_) => self.is_timed = false,
            Failure::Broken(_) | Failure::Refused(_) | Failure::NoReplica(_) => replica.failed(),
        }
    }

    fn took_at_least(&mut self) {
        if std::mem::take(&mut self.is_timed) {
            self.replica.cost.took_at_least(self.start);
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.took_at_least();
        let took = self.start.elapsed();
        let code = self.code.unwrap_or(Code::Cancelled);
        metrics::count_duration(Kind::RpcClientAttempt, &self.method, code as u16, took);
        if let Some(measured) = &mut self.measured {
            measured.code = self.code;
        }
        #[cfg(feature = "traces")]
        if let Some(trace) = &self.trace {
            traces::Attempt {
                trace,
                method: &self.method,
                replica: self.replica.address,
                code,
                took,
            }
            .record();
        }
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
    /// Makes this the response of a call, which ends with it.
    fn end_with(&mut self, measured: Measured) {
        self.call.measured = Some(measured);
    }

    /// The headers with the gRPC status, if the response with this `head` is known to be a status
    /// and nothing else.
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
}
