//! [`InMemory`]: a service without sockets and threads, for tests.

use std::{
    convert::Infallible,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use axum::BoxError;
use bytes::Bytes;
use http::{HeaderValue, Request, Response, Version, header::HOST};
use http_body::Body;
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, duplex},
    time::timeout,
};
use tokio_util::task::TaskTracker;
use tower::{Service, ServiceBuilder};

use super::{
    connection::state::ConnectionState,
    service::{invalid::InvalidFace, listener::Listener, process::Process},
    stack::inbound,
    worker::{Worker, WorkerSettings},
};
use crate::{config::settings::Config, request::dialect::Dialect, transport::Transport};

/// The bytes that a connection holds before its reader takes them.
const PIPE: usize = 64 * 1_024;

/// A service in memory, for tests of a service: the stacks, the limits and the drain of a
/// [`Server`](super::Server) with one worker. It has neither sockets nor threads, so it runs in a
/// runtime whose clock is paused. Clones share their state.
///
/// A test sends single requests to the [`stack`](Self::stack) of a listener:
///
/// ```
/// use axum::{Router, body::Body, routing::get};
/// use common::{Config, server::{InMemory, Listener}};
/// use http::Request;
/// use tower::ServiceExt;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), axum::BoxError> {
/// let router = Router::new().route("/", get(|| async { "Hello!" }));
/// let service = InMemory::new(&Config::default(), |_process| [Listener::http(0, router)])?;
///
/// let request = Request::get("/nowhere").body(Body::empty())?;
/// let response = service.stack(0).oneshot(request).await?;
/// assert_eq!(response.status(), 404);
/// assert!(response.headers().contains_key("x-request-id"));
/// assert_eq!(response.headers()["content-type"], "application/problem+json");
/// # Ok(())
/// # }
/// ```
///
/// Or it [`connect`](Self::connect)s a client, such as one of
/// [`Channel::with_io`](crate::client::Channel::with_io):
///
/// ```
/// # use std::time::Duration;
/// use common::{Config, client::{self, Channel}, server::{Grpc, InMemory, Listener}};
/// use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use tonic_health::pb::FILE_DESCRIPTOR_SET;
/// let faces = [Listener::grpc(0, Grpc::new(FILE_DESCRIPTOR_SET))];
/// let service = InMemory::new(&Config::default(), |_process| faces)?;
///
/// let (target, config) = ("service:1".parse()?, client::Config::default());
/// let deadline = Duration::from_secs(10);
/// let channel = Channel::plain(&target, FILE_DESCRIPTOR_SET, &config, deadline);
/// let mut health = HealthClient::new(channel.with_io(service.connect(0)));
/// let reply = health.check(HealthCheckRequest::default()).await?;
/// assert_eq!(reply.into_inner().status, 1); // SERVING
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct InMemory {
    worker: Arc<Worker>,
    open: TaskTracker,
}

impl InMemory {
    /// Builds the faces of the service, without serving them. Certificates and ports are left out.
    ///
    /// # Errors
    ///
    /// If a face is invalid.
    pub fn new<L>(config: &Config, faces: impl FnOnce(&Process) -> L) -> Result<Self, InvalidFace>
    where
        L: IntoIterator<Item = Listener>,
    {
        let settings = WorkerSettings {
            workers: 1,
            ..WorkerSettings::new(config, config.max_connections.get())
        };
        let ports = settings.build(faces(&settings.process))?;
        Ok(Self {
            worker: Arc::new(Worker::new(settings, ports)),
            open: TaskTracker::new(),
        })
    }

    /// The inbound stack of a listener, as a service for requests that no connection has carried.
    /// `listener` counts those of the service from 0.
    ///
    /// What a test may leave out is added: the version of a gRPC call, and the host that HTTP/1.1
    /// requires.
    ///
    /// # Panics
    ///
    /// If there is no such listener.
    pub fn stack<B>(
        &self,
        listener: usize,
    ) -> impl Service<
        Request<B>,
        Response = Response<impl Body<Data = Bytes, Error = BoxError> + Send + use<B>>,
        Error = Infallible,
        Future: Send,
    > + Clone
    + Send
    + use<B>
    where
        B: Body<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static,
    {
        let port = self.worker.ports[listener].clone();
        let dialect = port.dialect;
        let connection = ConnectionState::alone(self.worker.capacity.clone());
        let stack = inbound(port, Arc::new(connection), None);
        ServiceBuilder::new()
            .map_request(move |request| as_sent(request, dialect))
            .service(stack)
    }

    /// Opens a connection from this host, which a task serves to its end. Returns the end of the
    /// client.
    ///
    /// # Panics
    ///
    /// If there is no such listener, or outside of a tokio runtime.
    pub fn connect(&self, listener: usize) -> DuplexStream {
        let (ours, theirs) = duplex(PIPE);
        tokio::spawn(self.serve(listener, Ipv4Addr::LOCALHOST.into(), theirs));
        ours
    }

    /// Serves an open connection of a client with this address to its end.
    ///
    /// # Panics
    ///
    /// If there is no such listener.
    pub fn serve<S>(
        &self,
        listener: usize,
        client: IpAddr,
        io: S,
    ) -> impl Future<Output = ()> + Send + use<S>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        assert!(
            listener < self.worker.ports.len(),
            "there is no listener {listener}"
        );
        let worker = self.worker.clone();
        self.open.track_future(async move {
            let permit = worker.settings.connections.admit(client).await;
            worker
                .serve(listener, permit.handle.clone(), None, Transport::of(io))
                .await;
        })
    }

    /// Drains as [`Server::serve`](super::Server::serve) does, and returns when the last connection has
    /// ended, or `drain_timeout` has passed. Connections that are open then are left to the caller.
    ///
    /// ```
    /// # use axum::{Router, routing::get};
    /// # use common::{Config, server::{InMemory, Listener}};
    /// use tokio::io::{AsyncReadExt, AsyncWriteExt};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let router = Router::new().route("/", get(|| async { "Hello!" }));
    /// # let service = InMemory::new(&Config::default(), |_process| [Listener::http(0, router)])?;
    /// let mut client = service.connect(0);
    /// client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await?;
    /// service.drain().await; // the request was sent before, so it gets its response
    /// let mut response = String::new();
    /// client.read_to_string(&mut response).await?;
    /// assert!(response.ends_with("\r\n\r\nHello!"));
    /// assert_eq!(service.connections(), 0);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn drain(&self) {
        let settings = &self.worker.settings;
        settings.announce_drain().await;
        settings.process.begin_drain();
        settings.drain();
        self.open.close();
        let _ = timeout(settings.drain_timeout, self.open.wait()).await;
    }

    /// The number of connections that are being served.
    pub fn connections(&self) -> usize {
        self.open.len()
    }

    /// The number of requests that hold a permit of `max_in_flight`.
    pub fn in_flight(&self) -> usize {
        self.worker.capacity.permits.in_flight()
    }
}

/// Adds what a client sends and a test may leave out.
fn as_sent<B>(mut request: Request<B>, port: &dyn Dialect) -> Request<B> {
    if port.serves_mesh() {
        *request.version_mut() = Version::HTTP_2;
    }
    if request.version() < Version::HTTP_2 && !request.headers().contains_key(HOST) {
        let host = HeaderValue::from_static("localhost");
        request.headers_mut().insert(HOST, host);
    }
    request
}
