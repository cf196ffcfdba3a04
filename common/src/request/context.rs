//! [`Context`]: the task-local values of the current request, with its [`RequestId`] and its
//! [`Deadline`].
//!
//! The server sets the context while it works on a request. The client and every log line read it.
//! A spawned task starts without a context, because it may outlive the request; [`spawn`] passes
//! the context on to a task that is part of the request.

use std::{
    cell::RefCell,
    future::Future,
    marker::PhantomData,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{self, Poll},
    time::Duration,
};

use http::HeaderName;
use serde_json::Value;
use tokio::{task::JoinHandle, time::Instant};

use super::{
    dialect::{Dialect, Mismatch},
    id::RequestId,
    identity::Identity,
    log_fields::{self, InvalidLogField, LogFields},
    methods::Terms,
    timings::{Call, Record, RunningAttempt, Timings},
    trace::Trace,
};
use crate::limits;

/// The values that travel with a request.
///
/// The server makes it, and [`current`] returns it. A program that is no server makes its own, so
/// that its log lines and calls have an id and a deadline:
///
/// ```
/// use common::{Context, Deadline, RequestId, context};
/// use std::time::Duration;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let deadline = Deadline::after(Duration::from_secs(30));
/// let context = Context::new(RequestId::fresh(), deadline);
/// let seen = context.scope(async { context::deadline() }).await;
/// assert_eq!(seen, Some(deadline));
/// assert!(context::current().is_none());
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Context {
    /// The instant at which the request must be over.
    pub deadline: Deadline,
    pub(crate) shared: Arc<SharedContext>,
}

/// The part of a [`Context`] that its clones share, as each layer and each call has one.
#[derive(Debug, Clone)]
pub(crate) struct SharedContext {
    pub(crate) request_id: RequestId,
    /// The instant at which the request arrived.
    pub(crate) arrived: Instant,
    /// The dialect that the client speaks, if there is a client.
    pub(crate) dialect: Option<&'static dyn Dialect>,
    /// The reason why that is not the dialect of the port.
    pub(crate) mismatch: Option<&'static Mismatch>,
    /// The timings of the request and its calls, if it is timed.
    pub(crate) timings: Option<Timings>,
    /// The trace of the request, if it has one.
    pub(crate) trace: Option<Arc<Trace>>,
    /// The peer that mutual TLS has shown.
    pub(crate) peer: Option<Identity>,
    /// The address of the client, if it is known.
    pub(crate) address: Option<IpAddr>,
    /// The scheme that the client has used, if it is known.
    pub(crate) scheme: Option<&'static str>,
    /// What is declared about the path of the request.
    pub(crate) terms: Terms,
    /// The fields of its log lines, once there are any.
    pub(crate) log_fields: OnceLock<Arc<LogFields>>,
}

thread_local! {
    /// The context of the request that this thread works on.
    static CURRENT: RefCell<Option<Context>> = const { RefCell::new(None) };
}

/// Keeps a context current until this is dropped. Then the previous one is current again.
pub(crate) struct Entered {
    before: Option<Context>,
    /// Not `Send`: the current context is that of a thread.
    _thread: PhantomData<*const ()>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        CURRENT.set(self.before.take());
    }
}

pin_project_lite::pin_project! {
    /// A future that is polled and dropped in a context: [`Context::scope`].
    #[derive(Debug)]
    #[must_use = "a future does nothing unless it is polled"]
    pub struct Scope<F> {
        #[pin]
        future: Option<F>,
        context: Context,
    }

    impl<F> PinnedDrop for Scope<F> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            let _entered = this.context.clone().enter();
            this.future.set(None);
        }
    }
}

impl<F: Future> Future for Scope<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let _entered = this.context.clone().enter();
        let future = this.future.as_pin_mut();
        future.expect("it is set until it is dropped").poll(cx)
    }
}

impl Context {
    /// The context of a request whose calls are not timed.
    pub fn new(request_id: RequestId, deadline: Deadline) -> Self {
        Self {
            deadline,
            shared: Arc::new(SharedContext {
                request_id,
                arrived: Instant::now(),
                dialect: None,
                mismatch: None,
                timings: None,
                trace: None,
                peer: None,
                address: None,
                scheme: None,
                terms: Terms::of(None, Duration::MAX),
                log_fields: OnceLock::new(),
            }),
        }
    }

    /// The id that is in every log line, header and call of the request.
    pub fn request_id(&self) -> &RequestId {
        &self.shared.request_id
    }

    /// The context of a call to another service that ends at `deadline`, or with its request if that
    /// is sooner. A call outside of any request is a request of its own, with a fresh id.
    pub(crate) fn of_call(deadline: Deadline) -> Self {
        match current() {
            Some(context) => {
                let deadline = deadline.min(context.deadline);
                context.with_deadline(deadline)
            }
            None => Self::new(RequestId::fresh(), deadline),
        }
    }

    /// The context with this change, which its clones do not have. All have the same log fields.
    pub(crate) fn with(mut self, change: impl FnOnce(&mut SharedContext)) -> Self {
        if Arc::get_mut(&mut self.shared).is_none() {
            self.shared.log_fields.get_or_init(Arc::default);
        }
        change(Arc::make_mut(&mut self.shared));
        self
    }

    /// The same request with another deadline.
    #[must_use]
    pub fn with_deadline(self, deadline: Deadline) -> Self {
        Self { deadline, ..self }
    }

    /// Runs `future` in this context.
    pub fn scope<F: Future>(self, future: F) -> Scope<F> {
        Scope {
            future: Some(future),
            context: self,
        }
    }

    /// Runs `work` in this context.
    pub fn sync_scope<R>(self, work: impl FnOnce() -> R) -> R {
        let _entered = self.enter();
        work()
    }

    /// As [`sync_scope`](Self::sync_scope), without a closure, into which large values would be moved.
    pub(crate) fn enter(self) -> Entered {
        Entered {
            before: CURRENT.replace(Some(self)),
            _thread: PhantomData,
        }
    }
}

/// The context of the current request, or `None` outside of any request.
pub fn current() -> Option<Context> {
    with_current(|context| Some(context?.clone()))
}

/// The deadline of the current request, or `None` outside of any request.
pub fn deadline() -> Option<Deadline> {
    with_current(|context| Some(context?.deadline))
}

/// The instant at which the current request arrived, or `None` outside of any request.
pub(crate) fn arrived() -> Option<Instant> {
    with_current(|context| Some(context?.shared.arrived))
}

/// The dialect of the current request, or `None` outside of the server.
pub(crate) fn dialect() -> Option<&'static dyn Dialect> {
    with_current(|context| context?.shared.dialect)
}

/// The reason why the current request is not in the dialect of its port.
pub(crate) fn mismatch() -> Option<&'static Mismatch> {
    with_current(|context| context?.shared.mismatch)
}

/// What is declared about the path of the current request, or `None` outside of any request.
pub(crate) fn terms() -> Option<Terms> {
    with_current(|context| Some(context?.shared.terms))
}

/// The timings of the current request, if it is timed.
pub(crate) fn timings() -> Option<Timings> {
    with_current(|context| context?.shared.timings.clone())
}

/// The first calls that the current request has made, up to 18, in the order of their starts. A
/// running call has the time since its start. The list is empty outside of an HTTP request.
pub fn calls() -> Vec<Call> {
    timings().map_or_else(Vec::new, |timings| timings.calls())
}

/// Records the current request from now on: the attempts of its calls, and its log lines. `None`
/// outside of an HTTP request.
///
/// It is for a page that shows the way of a request. A request that is not recorded pays a branch
/// for each attempt and each line.
pub fn record() -> Option<Record> {
    timings().map(Record::begin)
}

/// Begins an attempt of the current call. `None` unless the current request is recorded.
pub(crate) fn begin_attempt(is_hedge: bool, replica: SocketAddr) -> Option<RunningAttempt> {
    with_current(|context| {
        let context = context?;
        let timings = context.shared.timings.as_ref()?;
        let left = context.deadline.remaining().unwrap_or_default();
        RunningAttempt::begin(timings, is_hedge, replica, left)
    })
}

/// Runs `work` with these timings in the current context.
pub(crate) fn with_timings<R>(timings: Timings, work: impl FnOnce() -> R) -> R {
    match current() {
        Some(context) => context
            .with(|shared| shared.timings = Some(timings))
            .sync_scope(work),
        None => work(),
    }
}

/// Who the client of the current request is, as its certificate says. `None` without mutual TLS, and
/// outside of any request.
///
/// ```
/// assert_eq!(common::context::peer(), None);
/// ```
pub fn peer() -> Option<Identity> {
    with_current(|context| context?.shared.peer.clone())
}

/// The address of the client of the current request: that of the peer of the socket, or the one that
/// the proxies of `TRUSTED_PROXIES` name. It is the `remote_address` of the access line. `None` outside
/// of any request.
///
/// ```
/// assert_eq!(common::context::peer_address(), None);
/// ```
pub fn peer_address() -> Option<IpAddr> {
    with_current(|context| context?.shared.address)
}

/// The scheme that the client of the current request has used, `http` or `https`: that of the port, or the
/// one that a proxy of `TRUSTED_PROXIES` names in `X-Forwarded-Proto`. `None` outside of any request,
/// and below another server.
pub fn scheme() -> Option<&'static str> {
    with_current(|context| context?.shared.scheme)
}

/// Calls `read` with the context of the current request, or with `None` outside of any request.
pub(crate) fn with_current<R>(read: impl FnOnce(Option<&Context>) -> R) -> R {
    CURRENT.with_borrow(|context| read(context.as_ref()))
}

/// Adds a field to every log line of the current request from now on: to its access line, and to the
/// lines of its handler, its body, and the tasks and the blocking work that are part of it.
///
/// A text of more than 256 bytes is cut in the log. A list or an object becomes its JSON text. If a
/// line has a field of the same name, that of the line wins.
///
/// # Errors
///
/// If the name is not allowed, the request has eight fields already or one with this name, or there is
/// no request.
///
/// ```
/// use common::{Context, Deadline, RequestId, context::{self, InvalidLogField}};
/// use std::time::Duration;
///
/// let deadline = Deadline::after(Duration::from_secs(10));
/// Context::new(RequestId::fresh(), deadline).sync_scope(|| {
///     context::log_field("caller", "acme")?;
///     context::log_field("attempt", 1)?;
///     assert_eq!(context::log_field("pid", 2), Err(InvalidLogField::Reserved));
///     # Ok::<_, InvalidLogField>(())
/// })?;
/// # Ok::<_, InvalidLogField>(())
/// ```
pub fn log_field(name: &'static str, value: impl Into<Value>) -> Result<(), InvalidLogField> {
    let value = log_fields::checked(name, value.into())?;
    with_current(|context| {
        let context = context.ok_or(InvalidLogField::NoRequest)?;
        let fields = context.shared.log_fields.get_or_init(Default::default);
        fields.add(name, value)
    })
}

/// Calls `read` with the current request id, or with `""` outside of any request.
pub fn with_request_id<R>(read: impl FnOnce(&str) -> R) -> R {
    let id = with_current(|context| Some(context?.request_id().clone()));
    read(id.as_ref().map_or("", RequestId::as_str))
}

/// Spawns a task that is part of the current request, with the same context.
///
/// A task of [`tokio::spawn`] starts without a context, and the `request_id` of its log lines is
/// `""`.
///
/// ```
/// use common::{Context, Deadline, context};
/// use std::time::Duration;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let deadline = Deadline::after(Duration::from_secs(10));
/// let request = Context::new("order-17".parse().unwrap(), deadline);
/// request
///     .scope(async {
///         let id = || context::with_request_id(str::to_owned);
///         assert_eq!(context::spawn(async move { id() }).await.unwrap(), "order-17");
///         assert_eq!(tokio::spawn(async move { id() }).await.unwrap(), "");
///     })
///     .await;
/// # }
/// ```
pub fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    match current() {
        Some(context) => tokio::spawn(context.scope(future)),
        None => tokio::spawn(future),
    }
}

/// Runs work that blocks, such as a query of a database, on a thread that may block. The work is
/// part of the current request: its log lines have the id, and [`current`] is the same.
///
/// A worker is one thread, so whatever blocks it stops all of its requests, connections and timers
/// meanwhile: a query, a file, a lock that is held for long, a computation of more than a
/// millisecond or so. Peers take a worker that is silent for seconds for dead.
///
/// Work that has begun continues when its request ends. The runtime of a worker has at most 512 such
/// threads; further work waits for one.
///
/// ```
/// use common::{Context, Deadline, RequestId, context};
/// use std::time::Duration;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let deadline = Deadline::after(Duration::from_secs(10));
/// let request = Context::new("order-17".parse().unwrap(), deadline);
/// let id = request.scope(async {
///     context::spawn_blocking(|| context::with_request_id(str::to_owned)).await
/// });
/// assert_eq!(id.await.unwrap(), "order-17");
/// # }
/// ```
pub fn spawn_blocking<R: Send + 'static>(
    work: impl FnOnce() -> R + Send + 'static,
) -> JoinHandle<R> {
    match current() {
        Some(context) => tokio::task::spawn_blocking(move || context.sync_scope(work)),
        None => tokio::task::spawn_blocking(work),
    }
}

/// The instant at which a request must be over, in every service that it enters.
///
/// A deadline is an instant, not a duration, so that time spent anywhere counts against it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

impl Deadline {
    /// The gRPC header that carries the time left until a deadline
    /// ([gRPC over HTTP/2](https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md)).
    pub const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

    /// The deadline that is `timeout` from now. A timeout of more than a year counts as a year.
    pub fn after(timeout: Duration) -> Self {
        Self::after_from(Instant::now(), timeout)
    }

    /// The deadline that is `timeout` from `begin`, with the same cap.
    pub(crate) fn after_from(begin: Instant, timeout: Duration) -> Self {
        Self(begin + timeout.min(limits::MAX_DURATION))
    }

    /// The instant itself, for timers.
    pub fn instant(self) -> Instant {
        self.0
    }

    /// The time left, or `None` once the deadline has passed.
    pub fn remaining(self) -> Option<Duration> {
        let left = self.0.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }
}

/// The deadline of a request or of a call has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the deadline has passed")]
pub struct DeadlineExceeded;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn blocking_work_is_part_of_its_request() {
        let deadline = Deadline::after(Duration::from_secs(10));
        let context = Context::new("order-17".parse().unwrap(), deadline);
        let id = || with_request_id(str::to_owned);
        let within = context.scope(async { spawn_blocking(id).await }).await;
        assert_eq!(within.unwrap(), "order-17");
        assert_eq!(spawn_blocking(id).await.unwrap(), "");
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_timeout_is_capped() {
        let left = Deadline::after(Duration::MAX).remaining();
        assert_eq!(left, Some(limits::MAX_DURATION));
    }

    #[tokio::test(start_paused = true)]
    async fn no_time_is_left_after_the_deadline() {
        let deadline = Deadline::after(Duration::from_secs(10));
        tokio::time::advance(Duration::from_secs(4)).await;
        assert_eq!(deadline.remaining(), Some(Duration::from_secs(6)));
        tokio::time::advance(Duration::from_secs(6)).await;
        assert_eq!(deadline.remaining(), None);
    }
}
