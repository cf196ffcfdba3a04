//! The peer of service2: only `axum::serve`, on tokio's default runtime.

use axum::{
    Json, Router,
    extract::{Query, State},
    http::StatusCode,
    routing::get,
    serve::ListenerExt,
};
use plain::{ProcessNameRequest, service1_client::Service1Client};
use serde::Deserialize;
use tokio::net::TcpListener;
use tonic::transport::{Channel, Endpoint};

#[derive(Deserialize)]
struct Params {
    #[serde(default)]
    name: String,
}

async fn say_hello(
    State(mut service1): State<Service1Client<Channel>>,
    Query(Params { name }): Query<Params>,
) -> Result<Json<String>, StatusCode> {
    let answer = service1.process_name(ProcessNameRequest { name }).await;
    let name = answer
        .map_err(|_| StatusCode::BAD_GATEWAY)?
        .into_inner()
        .name;
    Ok(Json(format!("Hello, {name}!")))
}

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let port: u16 = std::env::var("PORT")?.parse()?;
    let channel = Endpoint::from_shared(format!("http://{}", std::env::var("SERVICE1_CHANNEL")?))?
        .connect_lazy();
    let router = Router::new()
        .route("/api/v1/say-hello", get(say_hello))
        .with_state(Service1Client::new(channel));
    // TCP_NODELAY, as in ours. tonic sets it by default, on both sides. If it can't be set, the
    // connection is served without it.
    let listener = TcpListener::bind(("127.0.0.1", port))
        .await?
        .tap_io(|socket| drop(socket.set_nodelay(true)));
    axum::serve(listener, router).await?;
    Ok(())
}
