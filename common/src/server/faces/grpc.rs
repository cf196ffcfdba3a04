//! [`Grpc`]: the router of a gRPC port, with health and reflection.

use std::convert::Infallible;

use axum::{Router, response::IntoResponse};
use http::Request;
use tokio::sync::watch;
use tonic::{body::Body, server::NamedService, service::Routes};
use tonic_health::{ServingStatus, server::HealthReporter};
use tower::Service;

use super::{readiness::State, worker::Worker};
use crate::methods::declared_in;

/// The gRPC services of one port, with `grpc.health.v1` and reflection (v1 and v1alpha).
///
/// The listener of the port is a [`Listener::grpc`](crate::server::Listener::grpc).
#[derive(Debug)]
pub struct Grpc {
    routes: Routes,
    names: Vec<&'static str>,
    descriptors: &'static [u8],
}

impl Grpc {
    /// A face without services. `descriptors` is the encoded file descriptor set of the services to
    /// add.
    pub fn new(descriptors: &'static [u8]) -> Self {
        Self {
            routes: Routes::default(),
            names: Vec::new(),
            descriptors,
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

    /// Builds the router for a worker.
    ///
    /// # Panics
    ///
    /// If the descriptors are not an encoded file descriptor set, or declare an invalid deadline.
    /// The message names the fault.
    pub fn into_router(self, worker: &Worker) -> Router {
        const VALID: &str = "the build script of the protocol crate wrote the descriptors";
        let methods = declared_in(self.descriptors)
            .unwrap_or_else(|error| panic!("the descriptors of {:?}: {error}", self.names));
        worker.declare(methods);
        for built_in in [
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
        ] {
            worker.declare(declared_in(built_in).expect("tonic wrote them"));
        }
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(self.descriptors)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let (reporter, health) = tonic_health::server::health_reporter();
        tokio::spawn(report_health(
            reporter,
            self.names,
            worker.readiness().subscribe(),
        ));
        self.routes
            .add_service(health)
            .add_service(reflection().build_v1().expect(VALID))
            .add_service(reflection().build_v1alpha().expect(VALID))
            .prepare()
            .into_axum_router()
    }
}

/// Reports the health of each service, and of the server as a whole (`""`), to `grpc.health.v1`:
/// serving while the process is ready.
async fn report_health(
    reporter: HealthReporter,
    names: Vec<&'static str>,
    mut readiness: watch::Receiver<State>,
) {
    loop {
        let status = match *readiness.borrow_and_update() {
            State::Ready => ServingStatus::Serving,
            State::Starting(_) | State::Draining => ServingStatus::NotServing,
        };
        for name in names.iter().chain(&[""]) {
            reporter.set_service_status(name, status).await;
        }
        if readiness.changed().await.is_err() {
            return;
        }
    }
}
