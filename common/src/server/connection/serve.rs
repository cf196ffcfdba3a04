//! [`serve`]: serves a connection to its end. hyper gets its settings from [`builder`], the inbound stack as a
//! [`HyperService`], and the [`StreamExecutor`] of its HTTP/2 streams.

use std::{
    cell::RefCell,
    convert::Infallible,
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use axum::BoxError;
use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response};
use http_body::Body;
use hyper::{body::Incoming, rt::Executor};
use hyper_util::{
    rt::TokioIo,
    server::{conn::auto, graceful::GracefulConnection},
};
use tokio::time::{Instant, Sleep, sleep_until};
use tracing::debug;

use super::{
    error,
    lifetime::{ConnectionLimits, Due, Lifetime},
    poll_timer::PollTimer,
    socket::Socket,
    state::ConnectionState,
    turns::Turns,
};
use crate::{
    body::WithDeadline,
    limits,
    request::{context::Deadline, dialect::Dialect},
    telemetry::metrics,
    transport::Transport,
};

/// Serves a connection to a port of this dialect to its end. `service` is the inbound stack of its
/// requests.
pub(crate) async fn serve<S, B>(
    socket: Transport,
    port: &dyn Dialect,
    limits: &ConnectionLimits,
    connection: Arc<ConnectionState>,
    service: S,
) where
    S: tower::Service<Request<Incoming>, Response = Response<B>, Error = Infallible, Future: Send>
        + Send
        + 'static,
    B: Body<Data = Bytes, Error = BoxError> + Send + 'static,
{
    if port.serves_mesh() {
        connection.handle.usage.note_of_mesh();
    }
    let lifetime = Lifetime::new(limits, port, &connection.handle);
    let executor = StreamExecutor::new(connection.clone());
    let service = HyperService::new(service, connection.clone(), &executor);
    let socket = TokioIo::new(Socket::new(
        socket,
        connection.clone(),
        limits.write_timeout,
    ));
    let clock = PollTimer::default();
    let served = builder(port, executor, clock.clone())
        .serve_connection(socket, service)
        .into_owned();
    let served = ServeConnection::new(served, connection.clone(), lifetime, clock);
    if let Err(error) = served.await {
        if let Some((code, reason)) = error::sent_by_h2(&*error) {
            return error::note(connection.handle.address, code, reason);
        }
        debug!(
            action = "connection",
            status = "failure",
            peer = %connection.handle.address,
            %error,
            "a connection broke"
        );
    }
}

pin_project_lite::pin_project! {
    /// Serves a connection, and ends it when its [`Lifetime`] says so, or when it is preempted.
    struct ServeConnection<C> {
        #[pin]
        connection: C,
        state: Arc<ConnectionState>,
        lifetime: Lifetime,
        // What hyper reads the time from.
        clock: PollTimer,
        // Whether the last poll was another chance for a client that takes nothing.
        had_chance: bool,
        // Fires when the lifetime needs the next look.
        timer: Pin<Box<Sleep>>,
        is_timer_set: bool,
        // The waker that is registered with the handle.
        waker: Option<Waker>,
    }

    impl<C> PinnedDrop for ServeConnection<C> {
        fn drop(this: Pin<&mut Self>) {
            this.state.outbound.close();
        }
    }
}

impl<C> ServeConnection<C> {
    fn new(
        connection: C,
        state: Arc<ConnectionState>,
        lifetime: Lifetime,
        clock: PollTimer,
    ) -> Self {
        state.outbound.watch();
        Self {
            connection,
            state,
            lifetime,
            clock,
            had_chance: false,
            timer: Box::pin(sleep_until(Instant::now() + limits::IDLE_TIMEOUT)),
            is_timer_set: false,
            waker: None,
        }
    }

    /// Registers the task with the handle of the connection, if it is new there.
    fn listen(self: Pin<&mut Self>, cx: &Context<'_>) {
        let this = self.project();
        let is_known = |waker: &Waker| waker.will_wake(cx.waker());
        if !this.waker.as_ref().is_some_and(is_known) {
            this.state.handle.wake_to_close(cx.waker());
            *this.waker = Some(cx.waker().clone());
        }
    }

    /// Whether the connection is preempted, because its client takes nothing.
    ///
    /// Another worker has seen that. This one may have been busy while the client took something. So
    /// its streams, which this poll may have woken, run once more before the connection ends.
    fn is_preempted(self: Pin<&mut Self>, cx: &Context<'_>) -> bool {
        let this = self.project();
        let handle = &this.state.handle;
        if !handle.is_preempted() {
            return false;
        }
        handle.stay_if_taken();
        let is_last = mem::replace(this.had_chance, handle.is_preempted());
        if *this.had_chance && !is_last {
            cx.waker().wake_by_ref();
        }
        *this.had_chance && is_last
    }
}

impl<C> Future for ServeConnection<C>
where
    C: GracefulConnection,
{
    type Output = Result<(), C::Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.clock.note_poll();
        self.as_mut().listen(cx);
        loop {
            if let Poll::Ready(end) = self.as_mut().project().connection.poll(cx) {
                self.state.outbound.end(end.is_ok());
                return Poll::Ready(end);
            }
            if !self.state.outbound.is_writing() {
                self.state.outbound.drained();
            }
            if self.state.release_end() {
                continue;
            }
            if self.as_mut().is_preempted(cx) {
                metrics::of_this_thread()
                    .preempted
                    .add(self.state.handle.usage.in_flight() as u64);
                return Poll::Ready(Ok(()));
            }
            let mut this = self.as_mut().project();
            // The timer never fires too late: its instants only move forward.
            let has_timer = *this.is_timer_set && !this.timer.is_elapsed();
            if this.lifetime.still_holds(this.state) && has_timer {
                return Poll::Pending;
            }
            match this.lifetime.verdict(this.state) {
                Due::Drop => return Poll::Ready(Ok(())),
                Due::End => this.connection.as_mut().graceful_shutdown(),
                Due::Wait(None) => return Poll::Pending,
                Due::Wait(Some(until)) => {
                    // The timer may fire too early, and is then set again.
                    if this.timer.deadline() > until || this.timer.is_elapsed() {
                        this.timer.as_mut().reset(until);
                    }
                    *this.is_timer_set = true;
                    if this.timer.as_mut().poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                }
            }
        }
    }
}

/// hyper's settings for a connection to a port of this dialect.
pub(super) fn builder(
    port: &dyn Dialect,
    executor: StreamExecutor,
    clock: PollTimer,
) -> auto::Builder<StreamExecutor> {
    let max_streams = if port.serves_mesh() {
        let max_in_flight = executor.connection.capacity.permits.max_in_flight();
        u32::try_from(max_in_flight)
            .unwrap_or(u32::MAX)
            .clamp(limits::MAX_STREAMS, limits::MAX_GRPC_STREAMS)
    } else {
        limits::MAX_STREAMS
    };
    // Room for the windows of all streams: requests that no handler reads must not block the
    // others. From this window h2 derives the memory for small frames that wait to be read
    // (RUSTSEC-2026-0258), half as much; hyper has no setting for it.
    let connection_window = limits::STREAM_WINDOW * max_streams;
    // Streams that the client resets before they are served. More are an attack (CVE-2023-44487,
    // "rapid reset"). A peer whose calls all reach their deadline at once resets no more streams
    // than it may have open.
    let max_pending_resets = max_streams as usize;
    let mut builder = auto::Builder::new(executor);
    builder
        .http1()
        .max_buf_size(limits::HTTP1_BUFFER)
        // hyper's timeout also runs while a connection is idle; that of `Lifetime` does not.
        .header_read_timeout(None);
    builder
        .http2()
        .timer(clock)
        .max_concurrent_streams(max_streams)
        .max_header_list_size(limits::READ_HEAD)
        .initial_stream_window_size(limits::STREAM_WINDOW)
        .initial_connection_window_size(connection_window)
        .max_pending_accept_reset_streams(max_pending_resets)
        // h2 counts them over the life of a connection, which many clients of a proxy may share.
        // `FrameLimits` bounds their rate.
        .max_local_error_reset_streams(None)
        .max_send_buf_size(limits::SEND_BUFFER)
        // As other servers of gRPC: `date` is for caches.
        .auto_date_header(!port.serves_mesh())
        .keep_alive_interval(limits::KEEPALIVE_INTERVAL)
        .keep_alive_timeout(limits::KEEPALIVE_TIMEOUT);
    builder
}

/// The inbound stack as a service of hyper. Its layers are always ready, because they wait in their
/// futures. So `poll_ready` is not called, which saves a future around the others, and no request needs a
/// clone of the stack.
pub(super) struct HyperService<S> {
    service: RefCell<S>,
    connection: Arc<ConnectionState>,
    turns: Turns,
}

impl<S> HyperService<S> {
    /// The stack of a connection whose streams this executor runs.
    pub(super) fn new(
        service: S,
        connection: Arc<ConnectionState>,
        executor: &StreamExecutor,
    ) -> Self {
        Self {
            service: RefCell::new(service),
            connection,
            turns: executor.turns.clone(),
        }
    }
}

/// hyper owns the stack for as long as it serves the connection.
impl<S> Drop for HyperService<S> {
    fn drop(&mut self) {
        self.turns.end();
    }
}

impl<S> hyper::service::Service<Request<Incoming>> for HyperService<S>
where
    S: tower::Service<Request<Incoming>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = YieldFirst<S::Future>;

    fn call(&self, request: Request<Incoming>) -> YieldFirst<S::Future> {
        self.connection.inbound.note_request();
        YieldFirst {
            lets_hyper_look: self.turns.are_many(),
            future: self.service.borrow_mut().call(request),
        }
    }
}

pin_project_lite::pin_project! {
    /// The response to a request. If the request had to wait for many others, its client may have reset it
    /// by now, and hyper looks for that only after a poll of this future.
    pub(super) struct YieldFirst<F> {
        lets_hyper_look: bool,
        #[pin]
        future: F,
    }
}

impl<F: Future> Future for YieldFirst<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        if mem::take(this.lets_hyper_look) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        this.future.poll(cx)
    }
}

/// Runs the HTTP/2 streams of a connection in [turns](Turns), each for little longer than its request
/// may take.
///
/// The guard layer ends a request at its deadline, unless the client reads nothing of the response:
/// hyper does not poll the body then.
#[derive(Clone)]
pub(super) struct StreamExecutor {
    connection: Arc<ConnectionState>,
    turns: Turns,
}

impl StreamExecutor {
    pub(super) fn new(connection: Arc<ConnectionState>) -> Self {
        Self {
            connection,
            turns: Turns::default(),
        }
    }
}

impl<F> Executor<F> for StreamExecutor
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, stream: F) {
        // hyper calls the stack with a request, and executes its stream before the next call.
        if let Some(deadline) = self.connection.take_admitted() {
            let end = Deadline::after_from(deadline.instant(), limits::STALLED_STREAM_GRACE);
            let stream = WithDeadline::begun(end, stream);
            self.turns.add(Box::pin(stream.map(drop)));
            return;
        }
        let ConnectionState {
            handle, capacity, ..
        } = &*self.connection;
        // Without it, the stream is dropped, which resets it.
        if let Some(refusal) = capacity.permits.refuse(handle) {
            let end = Deadline::after(limits::REFUSAL_TIMEOUT);
            let stream = WithDeadline::begun(end, stream);
            let stream = stream.map(|_| drop(refusal));
            self.turns.add_refused(Box::pin(stream));
        }
    }
}
