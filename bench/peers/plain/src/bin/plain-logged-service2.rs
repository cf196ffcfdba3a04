//! The peer of service2 with logs: `axum::serve`, a timeout on calls, and request ids, spans and
//! bunyan records as in the documentation of tower-http and the formatter.

use std::time::Duration;

use axum::{
    Extension, Json, Router,
    extract::{self, Query, State},
    http::{HeaderValue, StatusCode},
    routing::get,
    serve::ListenerExt,
};
use plain::{ProcessNameRequest, service1_client::Service1Client};
use serde::Deserialize;
use tokio::net::TcpListener;
use tonic::{
    Request,
    transport::{Channel, Endpoint},
};
use tower::ServiceBuilder;
use tower_http::{
    LatencyUnit, ServiceBuilderExt,
    request_id::{MakeRequestUuid, RequestId},
    trace::{DefaultOnResponse, TraceLayer},
};
use tracing::{Level, Span, info, info_span, warn};
use tracing_bunyan_formatter::{BunyanFormattingLayer, JsonStorageLayer};
use tracing_subscriber::{Registry, filter::LevelFilter, layer::SubscriberExt};

/// The time limit of a call to service1.
const TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
struct Params {
    #[serde(default)]
    name: String,
}

async fn say_hello(
    State(mut service1): State<Service1Client<Channel>>,
    Extension(request_id): Extension<RequestId>,
    Query(Params { name }): Query<Params>,
) -> Result<Json<String>, StatusCode> {
    let mut request = Request::new(ProcessNameRequest { name });
    if let Ok(request_id) = request_id.header_value().as_bytes().try_into() {
        request.metadata_mut().insert("request_id", request_id);
    }
    match service1.process_name(request).await {
        Ok(answer) => {
            let hello = format!("Hello, {}!", answer.into_inner().name);
            info!(
                action = "say_hello",
                status = "success",
                hello,
                "said hello"
            );
            Ok(Json(hello))
        }
        Err(error) => {
            warn!(action = "say_hello", status = "failure", %error, "no name to say hello to");
            Err(StatusCode::BAD_GATEWAY)
        }
    }
}

/// The span of a request. Each record within it has its fields.
fn span(request: &extract::Request) -> Span {
    let request_id = request.headers().get("x-request-id");
    let request_id = request_id.and_then(|id: &HeaderValue| id.to_str().ok());
    info_span!("request", method = %request.method(), uri = %request.uri(), request_id)
}

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let subscriber = Registry::default()
        .with(LevelFilter::INFO)
        .with(JsonStorageLayer)
        .with(BunyanFormattingLayer::new(
            "service2".into(),
            std::io::stdout,
        ));
    tracing::subscriber::set_global_default(subscriber)?;

    let port: u16 = std::env::var("PORT")?.parse()?;
    let channel = Endpoint::from_shared(format!("http://{}", std::env::var("SERVICE1_CHANNEL")?))?
        .timeout(TIMEOUT)
        .connect_lazy();
    let access_line = DefaultOnResponse::new()
        .level(Level::INFO)
        .latency_unit(LatencyUnit::Micros);
    let layers = ServiceBuilder::new()
        .set_x_request_id(MakeRequestUuid)
        .layer(
            TraceLayer::new_for_http()
                .make_span_with(span)
                .on_response(access_line),
        )
        .propagate_x_request_id();
    let router = Router::new()
        .route("/api/v1/say-hello", get(say_hello))
        .with_state(Service1Client::new(channel))
        .layer(layers);
    // TCP_NODELAY, as in ours. tonic sets it by default, on both sides. If it can't be set, the
    // connection is served without it.
    let listener = TcpListener::bind(("127.0.0.1", port))
        .await?
        .tap_io(|socket| drop(socket.set_nodelay(true)));
    axum::serve(listener, router).await?;
    Ok(())
}
