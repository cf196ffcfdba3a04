//! [`Listener`]: a port of a service, and what it serves; and [`ServedPort`]: the same, ready to serve.

use std::{convert::Infallible, fmt, mem, time::Duration};

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request},
    response::IntoResponse,
    routing::Route,
};
use tower::{Layer, Service, util::MapRequestLayer};

use super::{grpc::Grpc, health, invalid::InvalidFace, process::Process};
use crate::{
    dialect::{grpc::GRPC, http::HTTP},
    endpoints, limits,
    request::{dialect::Dialect, methods::RouteTable},
    server::{
        layers::access::PortSettings,
        routes::{Paths, Routes, noted},
    },
};

/// A port to listen on, and what it serves.
///
/// ```
/// use std::time::Duration;
/// use axum::{Router, routing::get};
/// use common::server::Listener;
///
/// let router = Router::new()
///     .route("/", get(|| async { "Hello!" }))
///     .route("/events", get(|| async { "an endless stream" }));
/// let listener = Listener::http(8082, router)
///     .deadline("/events", None)
///     .body_limit(1_024);
/// # use common::{Config, server::InMemory};
/// # use tower::ServiceExt;
/// # let stack = InMemory::new(&Config::default(), |_process| [listener]).unwrap().stack(0);
/// # let body = axum::body::Body::from(vec![0; 1_025]);
/// # let request = http::Request::get("/").header("content-length", "1025").body(body).unwrap();
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
/// # let response = runtime.block_on(stack.oneshot(request)).unwrap();
/// # assert_eq!(response.status(), 413);
/// ```
#[derive(Debug)]
pub struct Listener {
    port: u16,
    serves: Serves,
    body_limit: usize,
    /// The deadlines of routes.
    deadlines: Vec<(String, Duration)>,
    layers: Layers,
}

/// Layers of a service around all that it responds, the innermost first.
#[derive(Default)]
pub(crate) struct Layers(Vec<Box<dyn FnOnce(Router) -> Router + Send + Sync>>);

impl Layers {
    pub(crate) fn are_none(&self) -> bool {
        self.0.is_empty()
    }

    /// Puts the layers around a router.
    pub(crate) fn around(self, router: Router) -> Router {
        self.0.into_iter().fold(router, |router, add| add(router))
    }
}

impl fmt::Debug for Layers {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_tuple("Layers")
            .field(&self.0.len())
            .finish()
    }
}

#[derive(Debug)]
enum Serves {
    Http(Router),
    Grpc(Grpc),
}

impl Listener {
    /// A port for HTTP/1.1 and HTTP/2. It also serves `/healthz` and `/readyz`, so `router`
    /// must not. Port 0 lets the system choose a port.
    pub fn http(port: u16, router: Router) -> Self {
        Self::new(port, Serves::Http(router))
    }

    /// A port for gRPC. It also serves health, and reflection unless `REFLECTION` is off.
    pub fn grpc(port: u16, services: Grpc) -> Self {
        Self::new(port, Serves::Grpc(services))
    }

    fn new(port: u16, serves: Serves) -> Self {
        Self {
            port,
            serves,
            body_limit: limits::BODY,
            deadlines: Vec::new(),
            layers: Layers::default(),
        }
    }

    /// Sets the limit of the body of a request, or of each message of a gRPC request, in bytes. The
    /// default is [`BODY_LIMIT`](crate::server::BODY_LIMIT). axum's extractors read bodies up to this
    /// limit, too; a route may lower it with axum's `DefaultBodyLimit`. tonic itself refuses messages
    /// of more than 4 MiB (`max_decoding_message_size`).
    #[must_use]
    pub fn body_limit(self, bytes: usize) -> Self {
        Self {
            body_limit: bytes,
            ..self
        }
    }

    /// Sets the longest that the requests of a route may take, in place of `DEADLINE`; `None` is no
    /// limit, for streams that last until one side ends them. `route` is a path of the router, as
    /// it is written there (`/events/{id}`).
    ///
    /// Requests that may take longer than `DEADLINE` have at most a quarter of `MAX_IN_FLIGHT`. A
    /// drain cuts them off after a second;
    /// [`context::draining`](crate::context::draining) tells them before.
    ///
    /// The deadlines of gRPC methods are declared in their `.proto` file. The service does not
    /// start if the router does not have the route, or the port is for gRPC.
    #[must_use]
    pub fn deadline(mut self, route: impl Into<String>, longest: Option<Duration>) -> Self {
        let longest = longest.unwrap_or(Duration::MAX);
        self.deadlines.push((route.into(), longest));
        self
    }

    /// Puts a layer around all that the port responds: also around the responses of the stack itself,
    /// such as the 404 of an unknown path, the 413 of a long body, the 503 of a refused request and the
    /// 504 at the deadline. It is for what every client must get, such as CORS, HSTS or compression. A
    /// layer for some routes, or one that only handlers need, belongs on the router.
    ///
    /// ```
    /// # use axum::{Router, body::Body, routing::get};
    /// use common::server::Listener;
    /// use http::{HeaderValue, Response};
    /// use tower::util::MapResponseLayer;
    ///
    /// let router = Router::new().route("/", get(|| async { "Hello!" }));
    /// let listener = Listener::http(8082, router).layer(MapResponseLayer::new(
    ///     |mut response: Response<Body>| {
    ///         let year = HeaderValue::from_static("max-age=31536000");
    ///         response.headers_mut().insert("strict-transport-security", year);
    ///         response
    ///     },
    /// ));
    /// # use common::{Config, server::InMemory};
    /// # use tower::ServiceExt;
    /// # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    /// # let stack = InMemory::new(&Config::default(), |_process| [listener]).unwrap().stack(0);
    /// # let request = http::Request::get("/nowhere").body(Body::empty()).unwrap();
    /// # let response = runtime.block_on(stack.oneshot(request)).unwrap();
    /// # assert_eq!(response.status(), 404);
    /// # assert!(response.headers().contains_key("strict-transport-security"));
    /// ```
    ///
    /// What the layer does is in the context of the request, holds its permit, counts in its access line
    /// and ends at its deadline. The last of several layers is the outermost. Each worker applies a layer
    /// once. A layer must pass on the extensions of a request.
    ///
    /// Some responses pass no layer: those that hyper writes itself (a malformed request, a head of over
    /// 24 KiB), those of a layer that fails or is late itself, and the 503 of a long-lived request that
    /// the drain ends before it has a response.
    #[must_use]
    pub fn layer<L>(mut self, layer: L) -> Self
    where
        L: Layer<Route> + Clone + Send + Sync + 'static,
        L::Service: Service<Request> + Clone + Send + Sync + 'static,
        <L::Service as Service<Request>>::Response: IntoResponse + 'static,
        <L::Service as Service<Request>>::Error: Into<Infallible> + 'static,
        <L::Service as Service<Request>>::Future: Send + 'static,
    {
        let add = |router: Router| router.layer(layer);
        self.layers.0.push(Box::new(add));
        self
    }

    /// The same without reflection, if it is a gRPC port.
    pub(crate) fn without_reflection(self) -> Self {
        let serves = match self.serves {
            Serves::Grpc(services) => Serves::Grpc(services.without_reflection()),
            http @ Serves::Http(_) => http,
        };
        Self { serves, ..self }
    }

    pub(crate) fn take_layers(&mut self) -> Layers {
        mem::take(&mut self.layers)
    }

    /// The port as it is bound.
    pub(crate) fn port(&self) -> ListenerPort {
        let dialect = match self.serves {
            Serves::Http(_) => HTTP,
            Serves::Grpc(_) => GRPC,
        };
        ListenerPort {
            dialect,
            number: self.port,
        }
    }

    /// Adds what every port serves. `deadline` is that of the requests that have no other.
    pub(crate) fn build(
        self,
        process: &Process,
        deadline: Duration,
    ) -> Result<ServedPort, InvalidFace> {
        let dialect = self.port().dialect;
        let (router, paths) = match self.serves {
            Serves::Http(router) => {
                let router = with_health(router, process)?;
                let mut table = Routes::new(&router, deadline);
                for (route, deadline) in self.deadlines {
                    let added = table.add_deadline(route, deadline);
                    added.map_err(InvalidFace::UnknownRoute)?;
                }
                let router = with_body_limit(router, self.body_limit);
                (router, Paths::Routes(table.into()))
            }
            Serves::Grpc(services) => {
                if let Some((route, _)) = self.deadlines.into_iter().next() {
                    return Err(InvalidFace::GrpcRoute(route));
                }
                let (router, methods) = services.build(process)?;
                let methods = RouteTable::of_methods(deadline, &methods);
                (router, Paths::Methods(methods))
            }
        };
        Ok(ServedPort {
            router,
            dialect,
            paths,
            body_limit: self.body_limit,
            has_layers: false,
            settings: PortSettings::default(),
        })
    }
}

/// Adds the routes that every HTTP port has.
fn with_health(router: Router, process: &Process) -> Result<Router, InvalidFace> {
    let table = Routes::new(&router, Duration::MAX);
    for path in endpoints::ALL {
        if table.has(path) {
            return Err(InvalidFace::PathTaken(path));
        }
    }
    Ok(router
        .merge(health::routes(process.readiness().clone()))
        .route_layer(MapRequestLayer::new(noted))
        .with_state(()))
}

/// Lets axum's extractors read bodies up to the limit of the port. A route may lower it.
fn with_body_limit(router: Router, bytes: usize) -> Router {
    if bytes > limits::AXUM_BODY {
        router.layer(DefaultBodyLimit::max(bytes))
    } else {
        router
    }
}

/// A port to bind, and its dialect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ListenerPort {
    pub(crate) dialect: &'static dyn Dialect,
    pub(crate) number: u16,
}

/// The router of one port, and the rules for its requests.
#[derive(Debug, Clone)]
pub(crate) struct ServedPort {
    pub(crate) router: Router,
    pub(crate) dialect: &'static dyn Dialect,
    pub(crate) paths: Paths,
    /// The longest body of an HTTP request, or message of a gRPC request, in bytes.
    pub(crate) body_limit: usize,
    /// Whether layers of the service are around the router, and parts of the stack between the two.
    pub(crate) has_layers: bool,
    pub(crate) settings: PortSettings,
}

#[cfg(test)]
mod tests {
    use axum::{
        BoxError,
        body::Body,
        routing::{get, post},
    };
    use bytes::Bytes;
    use futures_util::stream;
    use http::{Request, StatusCode};
    use tower::ServiceExt;

    use super::*;
    use crate::server::testing::in_memory;

    const DEADLINE: Duration = Duration::from_secs(10);

    fn router() -> Router {
        let handler = || async { "well" };
        Router::new()
            .route("/events/{id}", get(handler))
            .route("/{rest}", get(handler))
    }

    fn complaint(listener: Listener) -> String {
        let built = listener.build(&Process::new(), DEADLINE);
        built.expect_err("it is invalid").to_string()
    }

    #[test]
    fn a_route_has_its_own_deadline() {
        let listener = Listener::http(0, router())
            .deadline("/events/{id}", None)
            .deadline("/{rest}", Some(DEADLINE / 2));
        let paths = listener.build(&Process::new(), DEADLINE).unwrap().paths;
        assert_eq!(paths.terms("/events/1").longest, Duration::MAX);
        assert_eq!(paths.terms("/other").longest, DEADLINE / 2);
        assert_eq!(paths.terms("/healthz").longest, DEADLINE);
        assert_eq!(paths.terms("/no/route").longest, DEADLINE);
    }

    #[tokio::test]
    async fn extractors_read_bodies_up_to_the_limit_of_the_port() {
        const LIMIT: usize = limits::AXUM_BODY + 1;
        let echo = async |body: Bytes| body.len().to_string();
        let router = Router::new()
            .route("/", post(echo))
            .route("/low", post(echo).layer(DefaultBodyLimit::max(1)));
        let status = async |path, length| {
            let listener = Listener::http(0, router.clone()).body_limit(LIMIT);
            // Without a length, the extractor is the first to see it.
            let body = stream::iter([Ok::<_, BoxError>(Bytes::from(vec![0; length]))]);
            let request = Request::post(path).body(Body::from_stream(body)).unwrap();
            let stack = in_memory(listener, DEADLINE).stack(0);
            let response = stack.oneshot(request).await;
            response.unwrap().status()
        };
        assert_eq!(status("/", LIMIT).await, StatusCode::OK);
        let too_large = StatusCode::PAYLOAD_TOO_LARGE;
        assert_eq!(status("/", LIMIT + 1).await, too_large);
        assert_eq!(status("/low", 2).await, too_large);
    }

    #[test]
    fn a_deadline_needs_a_route_of_the_router() {
        for route in ["/evnts/{id}", "/events/{name}", "/events/1", "", "{"] {
            let listener = Listener::http(0, router()).deadline(route, None);
            let complaint = complaint(listener);
            assert!(complaint.contains(&format!("{route:?}")), "{complaint}");
        }
        let grpc = Listener::grpc(0, Grpc::new(b"")).deadline("/a.S/Get", None);
        assert!(complaint(grpc).contains("(mesh.deadline)"));
    }

    #[test]
    fn a_router_must_not_serve_the_paths_of_every_port() {
        for path in endpoints::ALL {
            let router = router().route(path, post(|| async { "mine" }));
            let complaint = complaint(Listener::http(0, router));
            assert!(complaint.contains(path), "{complaint}");
        }
        let nested = Router::new().nest("/healthz", router());
        assert!(
            Listener::http(0, nested)
                .build(&Process::new(), DEADLINE)
                .is_ok()
        );
    }

    #[test]
    fn invalid_descriptors_are_named() {
        let complaint = complaint(Listener::grpc(0, Grpc::new(b"no descriptors")));
        assert!(complaint.contains("descriptor set"), "{complaint}");
    }
}
