//! [`MeshLayer`]: the inbound layers below another server.

use std::{net::IpAddr, time::Duration};

use http::Extensions;
use tower::Layer;

use super::{
    layers::{
        access::ConnectionInfo,
        guard::{GuardLayer, GuardService},
        problem::{ProblemLayer, ProblemService},
        request::{RequestLayer, RequestService},
        shed::{ShedLayer, ShedService},
    },
    routes::Paths,
};
use crate::{
    dialect::{grpc::GRPC, http::HTTP},
    request::{
        dialect::Dialect,
        methods::{Methods, RouteTable, declared_in},
    },
};

/// The inbound layers of the mesh for another server, such as `axum::serve` or tonic's.
///
/// Each request gets an id, a deadline, a [`Context`](crate::Context) and an access line. A request
/// with an invalid head is refused, as are those beyond [`max_in_flight`](Self::max_in_flight). A
/// handler that is late or panics fails its request alone. Every failure is a
/// [`Problem`](crate::Problem): over HTTP a `problem+json`, over gRPC a status.
///
/// ```
/// use axum::{Router, extract::ConnectInfo, routing::get};
/// use common::server::MeshLayer;
/// use std::{net::SocketAddr, time::Duration};
/// use tokio::net::TcpListener;
/// # use tokio::io::{AsyncReadExt, AsyncWriteExt};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mesh = MeshLayer::http(Duration::from_millis(50))
///     .max_in_flight(100)
///     .peer(|extensions| {
///         let peer: &ConnectInfo<SocketAddr> = extensions.get()?;
///         Some(peer.0.ip())
///     });
/// let router = Router::new()
///     .route("/", get(|| async { "Hello!" }))
///     .route("/late", get(|| std::future::pending::<()>()))
///     .layer(mesh);
/// let listener = TcpListener::bind("127.0.0.1:0").await?;
/// let address = listener.local_addr()?;
/// let service = router.into_make_service_with_connect_info::<SocketAddr>();
/// tokio::spawn(async move { axum::serve(listener, service).await });
/// # let ask = async |path| -> std::io::Result<String> {
/// #     let mut connection = tokio::net::TcpStream::connect(address).await?;
/// #     let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
/// #     connection.write_all(request.as_bytes()).await?;
/// #     let mut response = String::new();
/// #     connection.read_to_string(&mut response).await?;
/// #     Ok(response)
/// # };
/// let response = ask("/").await?;
/// assert!(response.starts_with("HTTP/1.1 200 OK"));
/// assert!(response.contains("x-request-id: "));
/// let response = ask("/late").await?;
/// assert!(response.starts_with("HTTP/1.1 504 Gateway Timeout"));
/// assert!(response.contains("application/problem+json"));
/// # Ok(())
/// # }
/// ```
///
/// Below tonic's server, it is
/// `Server::builder().layer(MeshLayer::grpc(deadline, FILE_DESCRIPTOR_SET))`.
///
/// What only [`server::run`](crate::server::run) does: deadlines of routes, the address of a client
/// behind proxies, the limits on connections and of what clients send, giving way at a limit, the reset
/// of a stream that breaks off over HTTP/1.0, and the drain.
#[derive(Debug, Clone)]
pub struct MeshLayer {
    connection: ConnectionInfo,
    shed: ShedLayer,
}

impl MeshLayer {
    /// A layer for HTTP. `deadline` is that of every request.
    pub fn http(deadline: Duration) -> Self {
        Self::new(HTTP, RouteTable::of_methods(deadline, &Methods::new()))
    }

    /// A layer for gRPC. `descriptors` is the encoded file descriptor set of the services, which
    /// declares the deadlines of methods; those of all others is `deadline`.
    ///
    /// # Panics
    ///
    /// If the descriptors are not an encoded file descriptor set, or declare an invalid deadline.
    pub fn grpc(deadline: Duration, descriptors: &[u8]) -> Self {
        let methods =
            declared_in(descriptors).unwrap_or_else(|error| panic!("descriptors: {error}"));
        Self::new(GRPC, RouteTable::of_methods(deadline, &methods))
    }

    fn new(port: &'static dyn Dialect, routes: RouteTable) -> Self {
        Self {
            connection: ConnectionInfo::of_other_server(port, Paths::Methods(routes)),
            shed: ShedLayer::of_other_server(usize::MAX),
        }
    }

    /// Limits the requests in flight, over all clones of the layer; without it, there is no limit.
    /// Health checks and scrapes of metrics have a limit of their own.
    #[must_use]
    pub fn max_in_flight(self, requests: usize) -> Self {
        Self {
            shed: ShedLayer::of_other_server(requests),
            ..self
        }
    }

    /// Tells the layer where the server puts the address of the client: for the access line, for
    /// [`context::peer_address`](crate::context::peer_address), and for the shares of the last permits.
    #[must_use]
    pub fn peer(self, find: fn(&Extensions) -> Option<IpAddr>) -> Self {
        Self {
            connection: self.connection.with_peer(find),
            ..self
        }
    }
}

impl<S> Layer<S> for MeshLayer {
    type Service = RequestService<ProblemService<ShedService<GuardService<S>>>>;

    /// Puts the layers on a service, in the order of `stack`, which says why.
    fn layer(&self, inner: S) -> Self::Service {
        let layers = (
            RequestLayer::new(self.connection.clone()),
            ProblemLayer::new(None),
            self.shed.clone(),
            GuardLayer,
        );
        layers.layer(inner)
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use axum::{
        Router,
        body::{Body, Bytes},
        extract::DefaultBodyLimit,
        routing::{get, post},
    };
    use http::{Request, StatusCode, header::CONTENT_TYPE};
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    use super::*;

    /// The status of the response to this request, which is a problem if it is a failure.
    async fn status_of(layer: MeshLayer, request: http::request::Builder) -> StatusCode {
        let router = Router::new()
            .route("/", get(async || "Hello!"))
            .route("/late", get(pending::<()>))
            .route(
                "/panic",
                get(async || -> () { panic!("the handler panics") }),
            )
            .layer(layer);
        let request = request.body(Body::empty()).expect("a request");
        let Ok(response) = router.oneshot(request).await;
        if !response.status().is_success() {
            let content_type = &response.headers()[CONTENT_TYPE];
            assert_eq!(content_type, "application/problem+json");
        }
        response.status()
    }

    #[tokio::test(start_paused = true)]
    async fn every_request_gets_a_response() {
        let layer = || MeshLayer::http(Duration::from_secs(1));
        let get = |path| Request::get(path).header("host", "a");
        for (request, layer, status) in [
            (get("/"), layer(), 200),
            (Request::get("/"), layer(), 400),
            (get("/nowhere"), layer(), 404),
            (get("/panic"), layer(), 500),
            (get("/late"), layer(), 504),
            (get("/"), layer().max_in_flight(0), 503),
        ] {
            let case = format!("{request:?}");
            assert_eq!(status_of(layer, request).await, status, "{case}");
        }
    }

    #[tokio::test]
    async fn the_response_to_a_long_body_names_no_limit_that_the_layer_does_not_know() {
        let router = Router::new()
            .route("/", post(async |_: Bytes| ()))
            .layer(DefaultBodyLimit::max(9))
            .layer(MeshLayer::http(Duration::from_secs(1)));
        let request = Request::post("/").header("host", "a");
        let request = request.body(Body::from("0123456789")).expect("a request");
        let Ok(response) = router.oneshot(request).await;
        assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
        let problem = response.into_body().collect().await.expect("it is whole");
        let problem = String::from_utf8(problem.to_bytes().to_vec()).expect("it is JSON");
        assert!(!problem.contains("bytes"), "{problem}");
    }
}
