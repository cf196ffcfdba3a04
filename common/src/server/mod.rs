//! The server: the stack that every inbound request passes, HTTP and gRPC alike, and what
//! carries it.
//!
//! From the outside in:
//!
//! - [`run`]: the process. Its main thread accepts connections and waits for signals.
//! - [`Worker`]: one thread per core, each with its own runtime, routers and channels.
//!   Connections are handed out to them evenly. Nothing is shared between them while a request
//!   is served, so nothing is locked and no thread wakes another.
//! - connection: hyper's HTTP/1.1 and HTTP/2, told apart by the first bytes, within limits.
//! - **the inbound stack**: the function `inbound` in this file, top to bottom, a layer a line.
//! - the router of the service: an [`axum::Router`], for gRPC one made by [`Grpc`].
//!
//! What is answered below the stack, by hyper itself (a request line that is none, heads of over
//! 64 KiB), has neither id nor line: there is no request yet.

mod accept;
mod access;
mod caught_body;
mod connection;
mod context;
mod deadline;
mod face;
mod failure;
mod grpc;
mod head_limit;
mod health;
mod linger;
mod long_lived;
pub(crate) mod probe;
mod query;
mod readiness;
mod reset;
mod route;
mod run;
mod shed;
mod signals;
mod socket;
mod timing;
mod tonic_status;
mod worker;

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use axum::{BoxError, Router};
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower::{Service, ServiceBuilder};
use tower_http::{catch_panic::CatchPanicLayer, limit::RequestBodyLimitLayer};

use self::{
    access::AccessLayer, context::ContextLayer, deadline::DeadlineLayer, face::Face,
    failure::FailureLayer, linger::LingerLayer, shed::Capacity, timing::TimingLayer,
};
pub use self::{
    grpc::Grpc,
    query::Query,
    run::{Listener, run},
    worker::Worker,
};

/// The longest body of a request, in bytes: what gRPC implementations take for one message.
pub const BODY_LIMIT: usize = 4 * 1024 * 1024;

/// The inbound stack around a router, without a connection below it: for tests of a service's
/// faces.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), axum::BoxError> {
/// use axum::{Router, body::Body, routing::get};
/// use common::server;
/// use http::Request;
/// use std::time::Duration;
/// use tower::ServiceExt;
///
/// let router = Router::new().route("/", get(|| async { "Hello!" }));
/// let stack = server::stack(router, Duration::from_secs(10));
///
/// let request = Request::get("/nowhere").body(Body::empty())?;
/// let answer = stack.oneshot(request).await?;
/// assert_eq!(answer.status(), 404);
/// assert!(answer.headers().contains_key("x-request-id"));
/// assert_eq!(answer.headers()["content-type"], "application/problem+json");
/// # Ok(())
/// # }
/// ```
pub fn stack<B>(
    router: Router,
    deadline: Duration,
) -> impl Service<
    Request<B>,
    Response = Response<impl Body<Data = Bytes, Error = BoxError> + Send>,
    Error = BoxError,
    Future: Send,
> + Clone
+ Send
+ 'static
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static,
{
    let face = Face::http(router, deadline);
    let peer = (Ipv4Addr::LOCALHOST, 0).into();
    inbound(face, peer, Capacity::new(usize::MAX, Duration::ZERO))
}

/// The inbound stack, for the requests of one connection.
fn inbound<B>(
    face: Face,
    peer: SocketAddr,
    capacity: Capacity,
) -> impl Service<
    Request<B>,
    Response = Response<impl Body<Data = Bytes, Error = BoxError> + Send>,
    Error = BoxError,
    Future: Send,
> + Clone
+ Send
+ 'static
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static,
{
    ServiceBuilder::new()
        // 1. Id and deadline: first, so that all below, and each of its log lines, has them,
        //    and last on the way out, so that no answer leaves without its id.
        .layer(ContextLayer {
            deadlines: face.deadlines.clone(),
        })
        // 2. Where the time went: above what makes answers, so that failures say it, too.
        .layer(TimingLayer)
        // 3. The access line: above what makes answers of failures, to see the status that the
        //    client sees.
        .layer(AccessLayer {
            remote_address: peer.ip().to_canonical().to_string().into(),
        })
        // 4. Failures as problem+json or gRPC status: above all that can fail ...
        .layer(FailureLayer)
        //    ... and panics as failures; one request fails, the worker lives.
        .layer(CatchPanicLayer::custom(failure::panicked))
        // 5. The limits of a head, of the requests in flight, and of those among them that live
        //    long: they answer at once, and so stand above all that waits.
        .layer(capacity.layer(face.deadlines))
        // 6. The deadline, enforced: below what turns it into an answer, above all that waits.
        .layer(DeadlineLayer)
        // 7. The body limit: next to those who read the body. What they leave of it is read
        //    above the limit, or an early answer may not reach the client.
        .layer(LingerLayer)
        .map_request(reset::made_visible)
        .layer(RequestBodyLimitLayer::new(face.body_limit))
        // 8. The handlers.
        .service(face.router)
}
