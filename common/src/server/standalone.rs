//! [`stack`] and [`serve_io`]: a listener without a process, for tests of a service.

use std::{convert::Infallible, net::Ipv4Addr, num::NonZeroUsize, sync::Arc, time::Duration};

use axum::BoxError;
use bytes::Bytes;
use http::{HeaderValue, Request, Response, Version, header::HOST};
use http_body::Body;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use tower::{Service, ServiceBuilder};

use super::{
    capacity::{
        Capacity, connections::Connections, long_lived::LongLived, open::Open, permits::Permits,
    },
    in_memory::InMemory,
    service::{
        listener::{Listener, ServedPort},
        process::Process,
    },
    stack::inbound,
};
use crate::{config::settings::Config, request::protocol::Protocol};

/// The inbound stack around a listener, without a socket.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), axum::BoxError> {
/// use axum::{Router, body::Body, routing::get};
/// use common::server::{self, Listener};
/// use http::Request;
/// use std::time::Duration;
/// use tower::ServiceExt;
///
/// let router = Router::new().route("/", get(|| async { "Hello!" }));
/// let stack = server::stack(Listener::http(8080, router), Duration::from_secs(10));
///
/// let request = Request::get("/nowhere").body(Body::empty())?;
/// let response = stack.oneshot(request).await?;
/// assert_eq!(response.status(), 404);
/// assert!(response.headers().contains_key("x-request-id"));
/// assert_eq!(response.headers()["content-type"], "application/problem+json");
/// # Ok(())
/// # }
/// ```
///
/// # Panics
///
/// If the listener is invalid. The message says why.
pub fn stack<B>(
    listener: Listener,
    deadline: Duration,
) -> impl Service<
    Request<B>,
    Response = Response<impl Body<Data = Bytes, Error = BoxError> + Send>,
    Error = Infallible,
    Future: Send,
> + Clone
+ Send
+ 'static
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static,
{
    let open = Arc::new(Open::new(Ipv4Addr::LOCALHOST.into()));
    let connections = Arc::new(Connections::new(1));
    let face = face(listener, deadline);
    let protocol = face.protocol;
    let stack = inbound(face, open, capacity(connections), None);
    ServiceBuilder::new()
        .map_request(move |request| as_sent(request, protocol))
        .service(stack)
}

/// Serves an open connection, such as a [`tokio::io::duplex`], to its end, as a worker does.
/// [`Channel::with_io`](crate::client::Channel::with_io) makes a client for the other end:
///
/// ```
/// # use std::time::Duration;
/// use common::client::{self, Channel};
/// use common::server::{self, Grpc, Listener};
/// use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tonic::Status> {
/// # use tonic_health::pb::FILE_DESCRIPTOR_SET;
/// let deadline = Duration::from_secs(10);
/// let (ours, theirs) = tokio::io::duplex(64 * 1_024);
/// let listener = Listener::grpc(50051, Grpc::new(FILE_DESCRIPTOR_SET));
/// tokio::spawn(server::serve_io(listener, deadline, theirs));
///
/// let target = "service:50051".parse().expect("it is a host and a port");
/// let channel = Channel::plain(&target, FILE_DESCRIPTOR_SET, &client::Config::default(), deadline);
/// let mut health = HealthClient::new(channel.with_io(ours));
/// let reply = health.check(HealthCheckRequest::default()).await?;
/// assert_eq!(reply.into_inner().status, 1); // SERVING
/// # Ok(())
/// # }
/// ```
///
/// # Panics
///
/// If the listener is invalid. The message says why.
pub async fn serve_io(
    listener: Listener,
    deadline: Duration,
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) {
    let config = Config {
        deadline,
        max_in_flight: NonZeroUsize::MAX,
        ..Config::default()
    };
    let service = InMemory::new(&config, |_process| [listener]);
    let service = service.unwrap_or_else(|error| panic!("{error}"));
    service.serve(0, Ipv4Addr::LOCALHOST.into(), io).await;
}

fn face(listener: Listener, deadline: Duration) -> ServedPort {
    let face = listener.build(&Process::new(), deadline);
    face.unwrap_or_else(|error| panic!("{error}"))
}

/// A capacity without a limit on the requests in flight.
fn capacity(connections: Arc<Connections>) -> Arc<Capacity> {
    let places = Arc::new(Permits::new(usize::MAX, connections));
    let long_lived = LongLived::new(CancellationToken::new(), Duration::ZERO);
    Arc::new(Capacity::new(places, 1, long_lived))
}

/// Adds what a client sends and tests may leave out: the version of a gRPC call, and the host that
/// HTTP/1.1 requires.
fn as_sent<B>(mut request: Request<B>, port: Protocol) -> Request<B> {
    if port == Protocol::Grpc {
        *request.version_mut() = Version::HTTP_2;
    }
    if request.version() < Version::HTTP_2 && !request.headers().contains_key(HOST) {
        let host = HeaderValue::from_static("localhost");
        request.headers_mut().insert(HOST, host);
    }
    request
}
