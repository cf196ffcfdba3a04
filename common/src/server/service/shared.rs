//! [`Shared`]: a value that all threads of a process share, with a runtime of its own.

use std::{
    fmt::{self, Debug, Display},
    future::Future,
    panic::resume_unwind,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::future::BoxFuture;
use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use super::process::Process;
use crate::request::context;

/// A value that the whole process shares, such as one pool of database connections: made once,
/// asynchronously, on a runtime that lives as long as the process. Clones share the value.
///
/// [`Builder::shared`](crate::server::Builder::shared) makes it before it calls `faces`. Until then, the
/// ports of the service are closed; the port for operators is open, and says what is missing. An attempt
/// that fails is logged, and repeated after a pause of up to five seconds.
///
/// A connection belongs to the runtime that opened it, and such a client opens connections when it needs
/// one. [`run`](Self::run) runs a future on the runtime of the value, so its connections are there, too.
///
/// ```
/// use axum::{Router, extract::State, routing::get};
/// use common::{Config, server::{Listener, Server, Shared}};
/// use std::{io, net::SocketAddr, time::Duration};
/// use tokio::net::TcpStream;
///
/// /// A client of a database, say.
/// #[derive(Clone)]
/// struct Pool(SocketAddr);
///
/// impl Pool {
///     async fn check(self) -> io::Result<()> {
///         TcpStream::connect(self.0).await.map(drop)
///     }
/// }
///
/// async fn check(State(pool): State<Shared<Pool>>) -> String {
///     let checked = pool.run(pool.get().clone().check()).await;
///     format!("{checked:?}")
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let database = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
/// # let address = database.local_addr()?;
/// let pool = Shared::new("database", move || async move { Ok::<_, io::Error>(Pool(address)) })
///     .ready_while(Pool::check, Duration::from_secs(1));
/// let captured = pool.clone();
/// let server = Server::builder(move |_process| {
///     [Listener::http(0, Router::new().route("/check", get(check)).with_state(captured.clone()))]
/// });
/// server.shared(&pool).bind(&Config::default())?.serve(std::future::ready(())).await?;
/// # Ok(())
/// # }
/// ```
pub struct Shared<T>(Arc<Recipe<T>>);

type Watch<T> = Box<dyn Fn(&Process, T) + Send + Sync>;
type Close<T> = Box<dyn Fn(T) -> BoxFuture<'static, ()> + Send + Sync>;

/// How the value is made and closed, and the value.
struct Recipe<T> {
    name: &'static str,
    make: Box<dyn Fn() -> BoxFuture<'static, Result<T, String>> + Send + Sync>,
    watch: Option<Watch<T>>,
    close: Option<Close<T>>,
    made: OnceLock<Made<T>>,
}

struct Made<T> {
    value: T,
    runtime: Handle,
}

impl<T: Clone + Send + Sync + 'static> Shared<T> {
    /// A value that `make` will make: see [`Builder::shared`](crate::server::Builder::shared). An
    /// attempt fails if it takes longer than ten seconds. `name` is for the log and the operators.
    pub fn new<F, E>(name: &'static str, make: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<T, E>> + Send + 'static,
        E: Display,
    {
        Self(Arc::new(Recipe {
            name,
            make: Box::new(move || {
                let making = make();
                Box::pin(async move { making.await.map_err(|error| error.to_string()) })
            }),
            watch: None,
            close: None,
            made: OnceLock::new(),
        }))
    }

    /// A value that is there already, for tests with [`InMemory`](crate::server::InMemory): it stays on
    /// the runtime of the caller.
    ///
    /// # Panics
    ///
    /// When it is called outside of a tokio runtime.
    pub fn of(value: T) -> Self {
        let shared = Self::new("value", std::future::pending::<Result<T, &str>>);
        shared.0.keep(value);
        shared
    }

    /// Keeps the process from being ready while `check` fails: see
    /// [`Process::ready_while`]. It runs on the runtime of the value, once for the process.
    ///
    /// # Panics
    ///
    /// If there are clones already.
    #[must_use]
    pub fn ready_while<F, E>(
        self,
        check: impl Fn(T) -> F + Clone + Send + Sync + 'static,
        every: Duration,
    ) -> Self
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Display + Send + 'static,
    {
        self.with(|recipe| {
            recipe.watch = Some(Box::new(move |process, value| {
                let check = check.clone();
                process.ready_while(move || check(value.clone()), every);
            }));
        })
    }

    /// Closes the value with `close`, once all workers have drained and all tasks have ended. It has
    /// what is left of `drain_timeout`, and at least half a second.
    ///
    /// # Panics
    ///
    /// If there are clones already.
    #[must_use]
    pub fn close<F>(self, close: impl Fn(T) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.with(|recipe| {
            recipe.close = Some(Box::new(move |value| Box::pin(close(value))));
        })
    }

    fn with(mut self, change: impl FnOnce(&mut Recipe<T>)) -> Self {
        change(Arc::get_mut(&mut self.0).expect("said before the first clone"));
        self
    }

    /// The value. What it does on the runtime of the caller stays there: see [`run`](Self::run).
    ///
    /// # Panics
    ///
    /// If it was not made, as it was not given to [`Builder::shared`](crate::server::Builder::shared).
    pub fn get(&self) -> &T {
        &self.made().value
    }

    /// Runs a future on the runtime of the value, from its first poll until it is dropped. So the
    /// connections that it opens outlive the worker that asks, and no other worker or task can stall them.
    ///
    /// The future begins at once. It is part of the current request: it has the same [context](crate::context),
    /// with its id and deadline, and its log lines have the fields of the current span. It is dropped when the
    /// returned future is. A panic is passed on.
    ///
    /// All such futures share one thread, so they must not compute for long.
    ///
    /// ```
    /// use common::{Context, Deadline, context, server::Shared};
    /// use std::time::Duration;
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let greeting = Shared::of("Hello");
    /// let request = Context::new("order-17".parse().unwrap(), Deadline::after(Duration::from_secs(10)));
    /// let greeted = request.scope(async {
    ///     let word = *greeting.get();
    ///     let greet = async move { context::with_request_id(|id| format!("{word}, {id}!")) };
    ///     greeting.run(greet).await
    /// });
    /// assert_eq!(greeted.await, "Hello, order-17!");
    /// # }
    /// ```
    ///
    /// # Panics
    ///
    /// As [`get`](Self::get).
    pub fn run<F>(&self, future: F) -> SharedRun<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let (runtime, future) = (&self.made().runtime, future.in_current_span());
        SharedRun(AbortOnDropHandle::new(match context::current() {
            Some(context) => runtime.spawn(context.scope(future)),
            None => runtime.spawn(future),
        }))
    }

    fn made(&self) -> &Made<T> {
        let made = self.0.made.get();
        made.unwrap_or_else(|| {
            panic!(
                "the shared value {:?} was not made: give it to Builder::shared",
                self.0.name
            )
        })
    }

    /// The same for [`Builder`](crate::server::Builder), which makes values of any type.
    pub(crate) fn recipe(&self) -> Arc<dyn SharedValue> {
        self.0.clone()
    }
}

/// What [`Shared::run`] returns: the output of the future. Dropping it drops the future.
///
/// It never completes once the process has ended.
#[derive(Debug)]
#[must_use = "dropping it drops the future that it runs"]
pub struct SharedRun<T>(AbortOnDropHandle<T>);

impl<T> Future for SharedRun<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        match ready!(Pin::new(&mut self.0).poll(cx)) {
            Ok(output) => Poll::Ready(output),
            Err(error) => match error.try_into_panic() {
                Ok(panic) => resume_unwind(panic),
                Err(_) => Poll::Pending, // the runtime has ended, and with it the process
            },
        }
    }
}

/// A shared value of some type.
pub(crate) trait SharedValue: Send + Sync {
    fn name(&self) -> &'static str;

    fn is_made(&self) -> bool;

    /// Tries to make the value. It will be on the current runtime.
    fn make(&self) -> BoxFuture<'_, Result<(), String>>;

    /// Lets the readiness of the process follow the value.
    fn watch(&self, process: &Process);

    /// Closes the value, if it was made.
    fn close(&self) -> BoxFuture<'static, ()>;
}

impl<T> Recipe<T> {
    fn keep(&self, value: T) {
        let runtime = Handle::current();
        let _ = self.made.set(Made { value, runtime }); // `make` is called until it is made
    }
}

impl<T: Clone + Send + Sync + 'static> SharedValue for Recipe<T> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn is_made(&self) -> bool {
        self.made.get().is_some()
    }

    fn make(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async {
            self.keep((self.make)().await?);
            Ok(())
        })
    }

    fn watch(&self, process: &Process) {
        if let (Some(watch), Some(made)) = (&self.watch, self.made.get()) {
            watch(process, made.value.clone());
        }
    }

    fn close(&self) -> BoxFuture<'static, ()> {
        match (&self.close, self.made.get()) {
            (Some(close), Some(made)) => close(made.value.clone()),
            _ => Box::pin(std::future::ready(())),
        }
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Debug for Shared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_made = self.0.made.get().is_some();
        let mut shared = f.debug_struct("Shared");
        shared
            .field("name", &self.0.name)
            .field("is_made", &is_made);
        shared.finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, thread};

    use tokio::sync::oneshot;

    use super::*;
    use crate::Deadline;

    /// A shared value on a runtime whose thread is called `shared`. It ends when the sender is dropped.
    fn shared() -> (Shared<()>, oneshot::Sender<()>) {
        let (give, given) = std::sync::mpsc::channel();
        let (end, ended) = oneshot::channel::<()>();
        let work = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build();
            runtime.expect("a runtime").block_on(async {
                give.send(Shared::of(())).expect("the test waits");
                drop(ended.await);
            });
        };
        let named = thread::Builder::new().name("shared".into());
        named.spawn(work).expect("a thread");
        (given.recv().expect("it is made"), end)
    }

    fn thread_name() -> String {
        thread::current().name().unwrap_or_default().to_owned()
    }

    /// Tells where it is dropped, and for which request.
    struct Dropped(Cell<Option<oneshot::Sender<(String, String)>>>);

    impl Drop for Dropped {
        fn drop(&mut self) {
            let id = context::with_request_id(str::to_owned);
            let report = self.0.take().expect("it is dropped once");
            let _ = report.send((thread_name(), id));
        }
    }

    fn request() -> crate::Context {
        let deadline = Deadline::after(Duration::from_secs(10));
        crate::Context::new("order-17".parse().unwrap(), deadline)
    }

    #[tokio::test]
    async fn all_of_a_future_runs_on_the_runtime_of_the_value_in_its_request() {
        let (shared, _end) = shared();
        let here = thread_name();
        let running = async {
            let asked = context::deadline();
            let seen = shared.run(async { (thread_name(), context::deadline()) });
            (seen.await, asked)
        };
        let ((thread, deadline), asked) = request().scope(running).await;
        assert_eq!((thread.as_str(), deadline), ("shared", asked));
        assert!(here != "shared" && asked.is_some());
    }

    #[tokio::test]
    async fn a_future_is_dropped_there_with_its_caller() {
        let (shared, _end) = shared();
        let (report, dropped) = oneshot::channel();
        let guard = Dropped(Cell::new(Some(report)));
        let running = request().sync_scope(|| {
            shared.run(async move {
                let _guard = guard;
                std::future::pending::<()>().await;
            })
        });
        drop(running);
        let (thread, id) = dropped.await.expect("it is dropped");
        assert_eq!((thread.as_str(), id.as_str()), ("shared", "order-17"));
    }

    #[tokio::test]
    #[should_panic(expected = "the future panics")]
    async fn a_panic_is_that_of_the_caller() {
        let (shared, _end) = shared();
        shared.run(async { panic!("the future panics") }).await;
    }

    #[tokio::test]
    #[should_panic(expected = "give it to Builder::shared")]
    async fn a_value_that_nobody_makes_is_told() {
        Shared::new("database", async || Ok::<_, &str>(())).get();
    }
}
