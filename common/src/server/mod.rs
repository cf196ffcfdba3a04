//! The server: the stack that every inbound request passes, HTTP and gRPC alike, and what
//! carries it.
//!
//! From the outside in:
//!
//! - [`run`]: the process. Its main thread accepts connections and waits for signals.
//! - [`Worker`]: one thread per core, each with its own runtime, routers and channels.
//!   Connections are handed out to them evenly. While a request is served they share its place
//!   among those in flight, which is a count, and nothing else.
//! - connection: hyper's HTTP/1.1 and HTTP/2, told apart by the first bytes, within limits;
//!   `lifetime` says when it ends.
//! - **the inbound stack**: the function `inbound` in this file, top to bottom, a layer a line.
//! - the router of the service: an [`axum::Router`], for gRPC one made by [`Grpc`].
//!
//! What is answered below the stack, by hyper itself (a request line that is none, heads of over
//! 24 KiB, or 64 KiB over HTTP/2), has neither id nor line: there is no request yet.

mod accept;
mod access;
mod caught_body;
mod connection;
mod connections;
mod context;
mod control_frames;
mod deadline;
mod drive;
mod evictable;
mod face;
mod failure;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod grpc;
mod head;
mod health;
mod http1;
mod lifetime;
mod long_lived;
mod messages;
mod places;
pub(crate) mod probe;
mod query;
mod readiness;
mod reset;
mod route;
mod run;
mod shed;
mod signals;
mod socket;
mod streams;
mod timing;
mod tonic_status;
mod worker;

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use axum::{BoxError, Router};
use bytes::Bytes;
use http::{HeaderValue, Request, Response, Version, header::HOST};
use http_body::Body;
use tower::{Service, ServiceBuilder};
use tower_http::{catch_panic::CatchPanicLayer, limit::RequestBodyLimitLayer};

use self::{
    access::AccessLayer,
    connections::{Connections, Open},
    context::ContextLayer,
    deadline::DeadlineLayer,
    face::Face,
    failure::FailureLayer,
    http1::Http1Layer,
    messages::Rules,
    places::{Places, Share},
    shed::Capacity,
    timing::TimingLayer,
};
pub use self::{
    face::BODY_LIMIT,
    grpc::Grpc,
    query::Query,
    run::{Listener, run},
    worker::Worker,
};
use crate::{methods::Methods, protocol::Protocol};

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
    alone(Face::http(router, deadline))
}

/// The same for a port that speaks gRPC; its router is that of
/// [`tonic::service::Routes`](https://docs.rs/tonic/latest/tonic/service/struct.Routes.html).
pub fn grpc_stack<B>(
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
    alone(Face::grpc(router, deadline, &Methods::new()))
}

/// The stack of a face that shares its worker with no other.
fn alone<B>(
    face: Face,
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
    let open = Arc::new(Open::new(Ipv4Addr::LOCALHOST.into()));
    let places = Places::new(usize::MAX, Arc::new(Connections::new(1)));
    let capacity = Capacity::new(Share::new(Arc::new(places), 1), Duration::ZERO);
    let stack = inbound(face, open, capacity);
    ServiceBuilder::new().map_request(with_host).service(stack)
}

/// A request that came over no connection needs no host.
fn with_host<B>(mut request: Request<B>) -> Request<B> {
    if request.version() < Version::HTTP_2 && !request.headers().contains_key(HOST) {
        let host = HeaderValue::from_static("localhost");
        request.headers_mut().insert(HOST, host);
    }
    request
}

/// The inbound stack, for the requests of one connection.
fn inbound<B>(
    face: Face,
    open: Arc<Open>,
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
    let messages = Rules {
        protocol: face.protocol,
        methods: face.deadlines.clone(),
        limit: face.body_limit,
    };
    let body_limit = match face.protocol {
        Protocol::Http => face.body_limit,
        Protocol::Grpc => usize::MAX, // a stream of messages
    };
    ServiceBuilder::new()
        // 1. Id and deadline: first, so that all below, and each of its log lines, has them,
        //    and last on the way out, so that no answer leaves without its id.
        .layer(ContextLayer {
            port: face.protocol,
            deadlines: face.deadlines.clone(),
        })
        // 2. Where the time went: above what makes answers, so that failures say it, too.
        .layer(TimingLayer)
        // 3. The access line: above what makes answers of failures, to see the status that the
        //    client sees.
        .layer(AccessLayer {
            connection: Arc::new(access::Connection {
                remote_address: open.address.to_string(),
                methods: face.deadlines.clone(),
            }),
        })
        // 4. Failures as problem+json or gRPC status: above all that can fail ...
        .layer(FailureLayer {
            body_limit: face.body_limit,
        })
        //    ... and panics as failures; one request fails, the worker lives.
        .layer(CatchPanicLayer::custom(failure::panicked))
        // 5. What HTTP/1 needs help with, as what an early answer leaves of a body: above all that
        //    may answer early.
        .layer(Http1Layer { open: open.clone() })
        //    What is wrong with a head, and the limits of requests in flight: they answer at once,
        //    and so stand above all that waits.
        .layer(capacity.layer(open, face.protocol, face.deadlines))
        // 6. The deadline, enforced: below what turns it into an answer, above all that waits.
        .layer(DeadlineLayer)
        // 7. The limits of a body and of its messages: next to those who read them.
        .map_request(reset::made_visible)
        .layer(RequestBodyLimitLayer::new(body_limit))
        .map_request(move |request| messages.apply(request))
        // 8. The handlers.
        .service(face.router)
}
