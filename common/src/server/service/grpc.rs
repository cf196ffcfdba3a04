//! [`Grpc`]: the router of a gRPC port, with health and reflection.

use std::convert::Infallible;

use axum::{Router, response::IntoResponse, routing::Route};
use http::Request;
use tokio::sync::watch;
use tonic::{body::Body, server::NamedService, service::Routes};
use tonic_health::{ServingStatus, server::HealthReporter};
use tower::{Layer, Service, ServiceExt};

use super::{invalid::InvalidFace, process::Process, readiness::ReadinessState};
use crate::{
    dialect::grpc::mark_malformed,
    request::methods::{Methods, declared_in},
};

/// The gRPC services of one port, with `grpc.health.v1`, and with reflection (v1 and v1alpha) unless
/// `REFLECTION` is off.
///
/// A [`Listener::grpc`](crate::server::service::listener::Listener::grpc) serves it:
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), axum::BoxError> {
/// use axum::body::Body;
/// use common::{Config, server::{Grpc, InMemory, Listener}};
/// use http::Request;
/// use tower::ServiceExt;
///
/// // A service adds the servers that tonic generated, with `add_service`.
/// let services = Grpc::new(tonic_health::pb::FILE_DESCRIPTOR_SET);
/// let listener = Listener::grpc(50051, services);
/// let service = InMemory::new(&Config::default(), |_process| [listener])?;
///
/// let call = Request::post("/grpc.health.v1.Health/Check")
///     .header("content-type", "application/grpc")
///     .header("request_id", "order-17")
///     .body(Body::from(&[0_u8; 5][..]))?; // an empty message
/// let response = service.stack(0).oneshot(call).await?;
/// assert_eq!(response.status(), 200);
/// assert_eq!(response.headers()["request_id"], "order-17");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Grpc {
    routes: Routes,
    names: Vec<&'static str>,
    /// `None` for a router without health and reflection.
    descriptors: Option<&'static [u8]>,
    has_reflection: bool,
}

impl Grpc {
    /// A face without services. `descriptors` is the encoded file descriptor set of the services to
    /// add. Its options declare which methods may be retried and which may take long.
    pub fn new(descriptors: &'static [u8]) -> Self {
        Self {
            routes: Routes::default(),
            names: Vec::new(),
            descriptors: Some(descriptors),
            has_reflection: true,
        }
    }

    /// A face of a router that serves gRPC by other means than tonic's servers. It has no health,
    /// no reflection, and nothing declared about its methods.
    pub fn from_router(router: Router) -> Self {
        Self {
            routes: Routes::from(router),
            names: Vec::new(),
            descriptors: None,
            has_reflection: false,
        }
    }

    /// Adds a service: a server that tonic generated.
    #[must_use]
    pub fn add_service<S>(mut self, service: S) -> Self
    where
        S: Service<Request<Body>, Error = Infallible>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Response: IntoResponse,
        S::Future: Send + 'static,
    {
        self.names.push(S::NAME);
        self.routes = self.routes.add_service(service);
        self
    }

    /// Applies a layer to the services added so far, such as one that authenticates callers.
    #[must_use]
    pub fn layer<L>(mut self, layer: L) -> Self
    where
        L: Layer<Route> + Clone + Send + Sync + 'static,
        L::Service: Service<Request<axum::body::Body>> + Clone + Send + Sync + 'static,
        <L::Service as Service<Request<axum::body::Body>>>::Response: IntoResponse + 'static,
        <L::Service as Service<Request<axum::body::Body>>>::Error: Into<Infallible> + 'static,
        <L::Service as Service<Request<axum::body::Body>>>::Future: Send + 'static,
    {
        self.routes = self.routes.into_axum_router().layer(layer).into();
        self
    }

    pub(crate) fn without_reflection(self) -> Self {
        Self {
            has_reflection: false,
            ..self
        }
    }

    /// Adds health and reflection. Returns the router, and what is declared about its methods.
    pub(crate) fn build(self, process: &Process) -> Result<(Router, Methods), InvalidFace> {
        const BUILT_IN: &str = "the descriptors of the built-in services are valid";
        let Some(descriptors) = self.descriptors else {
            return Ok((self.routes.prepare().into_axum_router(), Methods::new()));
        };
        let mut methods = Methods::new();
        let reflection = [
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
        ];
        let reflection = reflection.into_iter().filter(|_| self.has_reflection);
        for built_in in reflection.chain([tonic_health::pb::FILE_DESCRIPTOR_SET]) {
            methods.extend(declared_in(built_in).expect(BUILT_IN));
        }
        let names = self.names.clone();
        let invalid = move |error: &dyn std::error::Error| InvalidFace::Descriptors {
            services: names.clone(),
            reason: error.to_string(),
        };
        methods.extend(declared_in(descriptors).map_err(|error| invalid(&error))?);
        let (reporter, health) = tonic_health::server::health_reporter();
        tokio::spawn(report_health(
            reporter,
            self.names,
            process.readiness().subscribe(),
        ));
        let mut services = self.routes;
        if self.has_reflection {
            let reflection = || {
                tonic_reflection::server::Builder::configure()
                    .register_encoded_file_descriptor_set(descriptors)
                    .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            };
            let v1 = reflection().build_v1().map_err(|error| invalid(&error))?;
            let v1alpha = reflection()
                .build_v1alpha()
                .map_err(|error| invalid(&error))?;
            services = services.add_service(v1).add_service(v1alpha);
        }
        let router = services
            .into_axum_router()
            .route_service(HEALTH, with_marked_refusals(health));
        Ok((router.with_state(()), methods))
    }
}

/// The paths of the health service.
const HEALTH: &str = "/grpc.health.v1.Health/{*rest}";

/// The health service is generated without our codec, which marks what can't be decoded.
fn with_marked_refusals<S>(
    health: S,
) -> impl Service<
    Request<axum::body::Body>,
    Response = http::Response<Body>,
    Error = Infallible,
    Future: Send,
> + Clone
+ Send
+ Sync
where
    S: Service<Request<Body>, Response = http::Response<Body>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + Sync,
{
    health
        .map_request(|request: Request<axum::body::Body>| request.map(Body::new))
        .map_response(mark_malformed)
}

/// Reports the health of each service, and of the server as a whole (`""`), to `grpc.health.v1`:
/// serving while the process is ready.
async fn report_health(
    reporter: HealthReporter,
    names: Vec<&'static str>,
    mut readiness: watch::Receiver<ReadinessState>,
) {
    loop {
        let status = match *readiness.borrow_and_update() {
            ReadinessState::Ready => ServingStatus::Serving,
            ReadinessState::Waiting(_) | ReadinessState::Draining => ServingStatus::NotServing,
        };
        for name in names.iter().chain(&[""]) {
            reporter.set_service_status(name, status).await;
        }
        if readiness.changed().await.is_err() {
            return;
        }
    }
}
