//! The peer of service1 with logs: tonic's own server, and request ids, spans and bunyan records
//! as in the documentation of tower-http and the formatter.

use axum::http::{HeaderName, HeaderValue, Request as HttpRequest};
use plain::{
    ProcessNameRequest, ProcessNameResponse,
    service1_server::{self, Service1Server},
};
use tonic::{Request, Response, Status, transport::Server};
use tower::ServiceBuilder;
use tower_http::{
    request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer},
    trace::TraceLayer,
};
use tracing::{Span, info, info_span};
use tracing_bunyan_formatter::{BunyanFormattingLayer, JsonStorageLayer};
use tracing_subscriber::{Registry, filter::LevelFilter, layer::SubscriberExt};

const REQUEST_ID: HeaderName = HeaderName::from_static("request_id");

struct Service1;

#[tonic::async_trait]
impl service1_server::Service1 for Service1 {
    async fn process_name(
        &self,
        request: Request<ProcessNameRequest>,
    ) -> Result<Response<ProcessNameResponse>, Status> {
        let name = request.into_inner().name.to_uppercase();
        info!(
            action = "process_name",
            status = "success",
            processed_name = name,
            "name processed"
        );
        Ok(Response::new(ProcessNameResponse { name }))
    }
}

/// The span of a request. Each record within it has its fields.
fn span<B>(request: &HttpRequest<B>) -> Span {
    let request_id = request.headers().get(REQUEST_ID);
    let request_id = request_id.and_then(|id: &HeaderValue| id.to_str().ok());
    info_span!("request", request_id)
}

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let subscriber = Registry::default()
        .with(LevelFilter::INFO)
        .with(JsonStorageLayer)
        .with(BunyanFormattingLayer::new(
            "service1".into(),
            std::io::stdout,
        ));
    tracing::subscriber::set_global_default(subscriber)?;

    let port: u16 = std::env::var("GRPC_PORT")?.parse()?;
    let layers = ServiceBuilder::new()
        .layer(SetRequestIdLayer::new(REQUEST_ID, MakeRequestUuid))
        .layer(TraceLayer::new_for_grpc().make_span_with(span))
        .layer(PropagateRequestIdLayer::new(REQUEST_ID));
    Server::builder()
        .layer(layers)
        .add_service(Service1Server::new(Service1))
        .serve(([127, 0, 0, 1], port).into())
        .await?;
    Ok(())
}
