//! An outbound HTTP client: the context, the deadline, the timing and the retries of the gRPC
//! client, for services that speak HTTP.
//!
//! ```
//! use axum::{body, extract::State};
//! use common::{Problem, client::http};
//! use std::time::Duration;
//!
//! /// The longest document that is read, in bytes.
//! const DOCUMENT: usize = 64 * 1_024;
//!
//! /// A handler that asks another service.
//! async fn show_rate(State(rates): State<http::Client>) -> Result<Vec<u8>, Problem> {
//!     let response = rates.get("http://rates.internal/api/v1/rate").await?;
//!     let document = body::to_bytes(response.into_body(), DOCUMENT).await;
//!     Ok(document.map_err(http::Error::broken)?.into())
//! }
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! // Once on each worker. Clone it for each handler.
//! let rates = http::Client::new("rates", Duration::from_secs(10));
//! let problem = show_rate(State(http::Client::new("rates", Duration::ZERO))).await;
//! assert_eq!(problem.unwrap_err().status(), 504, "no time is left for the call");
//! # }
//! ```

mod connector;
mod error;
mod retry;
#[cfg(test)]
mod tests;

use std::{
    pin::Pin,
    sync::Arc,
    task::{self, Poll},
    time::Duration,
};

use ::http::{Request, Response, Uri, uri::PathAndQuery};
use axum::body::Body;
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{self, connect::Connect},
    rt::{TokioExecutor, TokioTimer},
};
use tokio::time::Instant;
use tower::Service;

pub use self::{connector::Connector, error::Error};
use super::{
    retry::budget::{Budget, Calls},
    retry_policy::RetryPolicy,
};
use crate::{
    body::{
        deadline::{DeadlineBody, WithDeadline},
        wrappers::HoldingBody,
    },
    calls::{CALLS, ServiceCalls},
    limits,
    request::{context::Context, deadline::Deadline, protocol::Protocol},
};

/// The longest name of a service, in bytes.
const MAX_NAME: usize = 64;

/// A client of a service that speaks HTTP, as a [`tower::Service`].
///
/// - Each call carries the id of the current request in `x-request-id`, in place of any other. A
///   call outside of a request has a fresh id.
/// - A call never outlives the deadline of its request. That includes its response: the body breaks
///   off at the deadline. With no time left, no call is made.
/// - The time of a call is in the `Server-Timing` of its request, under the name of the service.
/// - A call is retried if that is safe: its method is safe (`GET`, `HEAD`, `OPTIONS`, `TRACE`: RFC
///   9110, 9.2.1), its body is empty, and it got no response, or one of 502, 503 or 504. A
///   `Retry-After` in seconds is respected. The retries of each client, with its clones, have a
///   budget like that of a gRPC channel. There are no hedges.
/// - A call to a service that hangs fails at once, while as many calls are in flight, over all
///   clients, as [`max_calls`](field@crate::Config::max_calls) allows.
///
/// Redirects are responses like any other. Bodies stream. Bound what you read of them, with
/// [`axum::body::to_bytes`] or [`http_body_util::Limited`].
///
/// A client has its own pool of connections, whose tasks run on the worker where the first call is
/// made. So make one for each worker, and clone it for each call.
#[derive(Debug)]
pub struct Client<C = Connector> {
    shared: Arc<Shared<C>>,
}

impl<C> Clone for Client<C> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
        }
    }
}

#[derive(Debug)]
struct Shared<C> {
    /// The name of the service, as the path under which its calls are timed.
    name: Uri,
    deadline: Duration,
    client: legacy::Client<C, Body>,
    policy: RetryPolicy,
    budget: Budget,
    calls: Calls,
    in_flight: Arc<ServiceCalls>,
}

impl Client {
    /// A client of the service that is called `name` in timings and log lines, over plain HTTP.
    /// `deadline` bounds each call.
    ///
    /// # Panics
    ///
    /// If the name is not 1 to 64 letters, digits, `-`, `_` and `.`.
    pub fn new(name: &str, deadline: Duration) -> Self {
        Self::with_connector(name, deadline, Connector::default())
    }
}

impl<C: Connect + Clone + Send + Sync + 'static> Client<C> {
    /// A client with another connector, such as one for TLS. The connector bounds the time to
    /// connect.
    ///
    /// # Panics
    ///
    /// If the name is not 1 to 64 letters, digits, `-`, `_` and `.`.
    pub fn with_connector(name: &str, deadline: Duration, connector: C) -> Self {
        let is_valid = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        assert!(
            (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(is_valid),
            "the name {name:?} is not 1 to {MAX_NAME} letters, digits, '-', '_' and '.'"
        );
        let path = PathAndQuery::try_from(format!("/{name}")).expect("it was checked");
        let policy = RetryPolicy::default();
        let budget = Budget::new(&policy);
        let client = legacy::Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(limits::HTTP_IDLE_TIMEOUT)
            .pool_max_idle_per_host(limits::MAX_IDLE_HTTP_CONNECTIONS)
            .http1_max_buf_size(limits::HTTP1_BUFFER)
            .build(connector);
        Self {
            shared: Arc::new(Shared {
                name: path.into(),
                deadline,
                client,
                calls: budget.join(),
                in_flight: Arc::default(),
                budget,
                policy,
            }),
        }
    }

    /// Sends a `GET`. `uri` is absolute, such as `http://rates.internal/api/v1/rate`.
    ///
    /// # Errors
    ///
    /// If the URI is invalid, or there is no response. A response with any status is not an error.
    pub async fn get(&self, uri: &str) -> Result<Response<Body>, Error> {
        let request = Request::get(uri).body(Body::empty());
        let request = request.map_err(|_| Error::InvalidUri)?;
        self.clone().call(request).await
    }
}

impl<C: Connect + Clone + Send + Sync + 'static> Service<Request<Body>> for Client<C> {
    type Response = Response<Body>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut task::Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let shared = self.shared.clone();
        let now = Instant::now();
        let context = Context::of_call(Deadline::after_from(now, shared.deadline));
        let timing = context.shared.timings.as_ref();
        let timing = timing.map(|timings| timings.begin(&shared.name));
        let deadline = context.deadline;
        let in_flight = CALLS.begin(&shared.in_flight, false);
        Box::pin(context.scope(async move {
            let in_flight = in_flight.map_err(|_| Error::TooManyCalls)?;
            let sent = WithDeadline::start(now, deadline, || shared.send(request));
            let response = sent.await.map_err(|_| Error::DeadlineExceeded)?;
            in_flight.note_response();
            let response = response?;
            Ok(response.map(|body: Incoming| {
                let body = DeadlineBody::new(body, deadline, Protocol::Http);
                let body = HoldingBody::until_data(body, in_flight);
                Body::new(HoldingBody::until_end(body, timing))
            }))
        }))
    }
}
