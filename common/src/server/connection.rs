//! One connection: HTTP/1.1 or HTTP/2, whichever the client speaks, within limits.

use std::{cell::Cell, time::Duration};

use http::Request;
use hyper::{body::Incoming, rt::Executor};
use hyper_util::{rt::TokioTimer, server::conn::auto};

use crate::{Deadline, bounded::Bounded, methods::Deadlines};

/// How long a client may take for the head of a request, and, over HTTP/1.1, how long a
/// connection may idle between two.
pub(super) const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(5);

/// A client that does not respond to an HTTP/2 PING is given up, also while it asks for nothing.
/// Clients do not mind PINGs, as servers do (gRFC A8).
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Requests in flight on one HTTP/2 connection. A peer with one connection for each core sends
/// all its traffic over few of them, so the usual 100 to 250 would make it queue; and one
/// connection can't fill the limit of requests in flight.
const MAX_CONCURRENT_STREAMS: u32 = 512;

/// The head of a request that is read over HTTP/2, in bytes. One over
/// [`HEAD_LIMIT`](super::head_limit::HEAD_LIMIT) is refused by the stack; one over this is answered
/// with 431 by hyper, without an id or a line.
const MAX_HEADER_LIST_SIZE: u32 = 64 * 1_024;

/// Bytes that a request may send before its handler reads them.
const STREAM_WINDOW: u32 = 64 * 1_024;

/// Room for all streams of a connection: requests that no handler reads must not stop the others.
/// Half of it is the memory for small frames that wait to be read (RUSTSEC-2026-0258), which h2
/// derives from it, as hyper has no setting.
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * MAX_CONCURRENT_STREAMS;

/// Streams that a client opened and reset before they were served; more is an attack
/// (CVE-2023-44487, "rapid reset"). A peer whose calls all reach their deadline at once is none,
/// as it resets no more than it may have in flight.
const MAX_PENDING_ACCEPT_RESET_STREAMS: usize = MAX_CONCURRENT_STREAMS as usize;

/// Streams that we reset for a client's errors; more is an attack (CVE-2025-8671, "made you
/// reset").
const MAX_LOCAL_ERROR_RESET_STREAMS: usize = 1_024;

/// How much later than the deadline a stream ends whose client makes no room: late enough for
/// the deadline layer to say it properly to all others.
const STALLED_STREAM_GRACE: Duration = Duration::from_millis(500);

/// Bytes that a stream may have waiting for a slow reader.
const MAX_SEND_BUFFER: usize = 64 * 1_024;

thread_local! {
    /// How long the stream may take whose request was given to the stack last.
    static LONGEST: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// The inbound stack as hyper calls it. Nothing in it is ever not ready: what must wait, waits in
/// its future. So it is not asked, which saves a future around all others.
#[derive(Clone)]
pub(super) struct Stack<S> {
    service: S,
    deadlines: Deadlines,
}

impl<S> Stack<S> {
    pub(super) fn new(service: S, deadlines: Deadlines) -> Self {
        Self { service, deadlines }
    }
}

impl<S> hyper::service::Service<Request<Incoming>> for Stack<S>
where
    S: tower::Service<Request<Incoming>> + Clone,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn call(&self, request: Request<Incoming>) -> S::Future {
        LONGEST.set(self.deadlines.of(request.uri().path()));
        self.service.clone().call(request)
    }
}

/// Runs the streams of HTTP/2 connections, none of them for longer than its request may take and
/// a little more.
///
/// The deadline layer ends those that wait for their handler. One whose client makes no room
/// for more of the answer waits in hyper, which does not poll the body then.
#[derive(Debug, Clone, Copy)]
pub(super) struct Streams;

impl<F> Executor<F> for Streams
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, stream: F) {
        // hyper gives a request to the stack, and then, before any other, its stream to this.
        let longest = LONGEST.get().saturating_add(STALLED_STREAM_GRACE);
        // Boxed: tokio moves a task about before and after it runs.
        let stream = Box::pin(stream);
        tokio::spawn(Bounded::begun(Deadline::after(longest), stream));
    }
}

/// What every connection is served with.
pub(super) fn builder() -> auto::Builder<Streams> {
    let mut builder = auto::Builder::new(Streams);
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_READ_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_CONCURRENT_STREAMS)
        .max_header_list_size(MAX_HEADER_LIST_SIZE)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_pending_accept_reset_streams(MAX_PENDING_ACCEPT_RESET_STREAMS)
        .max_local_error_reset_streams(MAX_LOCAL_ERROR_RESET_STREAMS)
        .max_send_buf_size(MAX_SEND_BUFFER)
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT);
    builder
}
