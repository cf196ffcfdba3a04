//! What hyper gets for a connection: its settings from [`builder`], the inbound stack as a [`HyperService`],
//! and the [`StreamExecutor`] of its HTTP/2 streams.

use std::{
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::FutureExt;
use http::Request;
use hyper::{body::Incoming, rt::Executor};
use hyper_util::{rt::TokioTimer, server::conn::auto};

use super::{state::ConnectionState, turns::Turns};
use crate::{
    body::WithDeadline,
    limits,
    request::{context::Deadline, dialect::Dialect},
};

/// hyper's settings for a connection to a port of this dialect.
pub(super) fn builder(
    port: &dyn Dialect,
    executor: StreamExecutor,
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
        .timer(TokioTimer::new())
        .max_concurrent_streams(max_streams)
        .max_header_list_size(limits::READ_HEAD)
        .initial_stream_window_size(limits::STREAM_WINDOW)
        .initial_connection_window_size(connection_window)
        .max_pending_accept_reset_streams(max_pending_resets)
        // h2 counts them over the life of a connection, which many clients of a proxy may share.
        // `FrameLimits` bounds their rate.
        .max_local_error_reset_streams(None)
        .max_send_buf_size(limits::SEND_BUFFER)
        .keep_alive_interval(limits::KEEPALIVE_INTERVAL)
        .keep_alive_timeout(limits::KEEPALIVE_TIMEOUT);
    builder
}

/// The inbound stack as a service of hyper. Its layers are always ready, because they wait in their
/// futures. So `poll_ready` is not called, which saves a future around the others.
pub(super) struct HyperService<S> {
    service: S,
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
            service,
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
    S: tower::Service<Request<Incoming>> + Clone,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = YieldFirst<S::Future>;

    fn call(&self, request: Request<Incoming>) -> YieldFirst<S::Future> {
        self.connection.inbound.note_request();
        YieldFirst {
            lets_hyper_look: self.turns.are_many(),
            future: self.service.clone().call(request),
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
