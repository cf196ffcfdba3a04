//! A third service: REST in front, gRPC to service1 behind, and all that the mesh gives.

use axum::{Json, Router, extract::State, routing::get};
use clap::Parser;
use common::client::{self, Channel, Client, Target};
use common::server::{self, Listener, Query};
use protos::app::grpc::{ProcessNameRequest, service1_client::Service1Client};

#[derive(Parser)]
struct Config {
    #[command(flatten)]
    common: common::Config,

    #[command(flatten)]
    client: client::Config,

    /// The port for HTTP
    #[arg(long, env, default_value_t = 8082)]
    port: u16,

    /// Where service1 speaks gRPC: host:port or a URL; several are separated by commas
    #[arg(long, env, default_value = "localhost:50051")]
    service1_channel: Target,
}

async fn say_goodbye(
    State(mut service1): State<Service1Client<Client>>,
    query: Query,
) -> Result<Json<String>, common::Problem> {
    let name = query.get("name")?.unwrap_or_default();
    let answer = service1.process_name(ProcessNameRequest { name }).await?;
    let goodbye = format!("Goodbye, {}!", answer.into_inner().name);
    tracing::info!(action = "say_goodbye", status = "success", goodbye);
    Ok(Json(goodbye))
}

fn main() -> std::process::ExitCode {
    let config: Config = common::config::parse();
    let service1 = Channel::new(
        &config.service1_channel,
        protos::FILE_DESCRIPTOR_SET,
        &config.client,
        &config.common,
    );
    server::run("service3", &config.common, move |process| {
        let client = service1.connect();
        process.ready_when(client::wait_until_serving(client.clone()));
        let service1 = Service1Client::new(client);
        let router = Router::new()
            .route("/api/v1/say-goodbye", get(say_goodbye))
            .with_state(service1);
        [Listener::http(config.port, router)]
    })
}
