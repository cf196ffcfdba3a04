//! [`serve`]: serves a connection to its end.

use std::{
    convert::Infallible,
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use axum::BoxError;
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper_util::{rt::TokioIo, server::graceful::GracefulConnection};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, Sleep, sleep_until},
};
use tracing::debug;

use super::{
    error,
    hyper_service::{HyperService, StreamExecutor, builder},
    lifetime::{ConnectionLimits, Due, Lifetime},
    socket::Socket,
    state::ConnectionState,
};
use crate::{limits, request::dialect::Dialect, telemetry::metrics};

/// Serves a connection to a port of this dialect to its end. `service` is the inbound stack of its
/// requests.
pub(crate) async fn serve<T, S, B>(
    socket: T,
    port: &dyn Dialect,
    limits: &ConnectionLimits,
    connection: Arc<ConnectionState>,
    service: S,
) where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: tower::Service<Request<Incoming>, Response = Response<B>, Error = Infallible, Future: Send>
        + Clone
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
    let served = builder(port, executor)
        .serve_connection(socket, service)
        .into_owned();
    let served = ServeConnection::new(served, connection.clone(), lifetime);
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
    fn new(connection: C, state: Arc<ConnectionState>, lifetime: Lifetime) -> Self {
        state.outbound.watch();
        Self {
            connection,
            state,
            lifetime,
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
