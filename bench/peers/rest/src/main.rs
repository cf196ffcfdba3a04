//! The peer of service2 with another transport: the same inbound stack and the same log lines, but
//! it calls the REST face of service1, over HTTP/1.1 connections that are kept alive.

mod service1;

use std::{process::ExitCode, sync::Arc};

use axum::{Json, Router, extract::State, routing::get};
use clap::Parser;
use common::{
    Problem,
    server::{self, Listener, Query},
};
use http::uri::Authority;
use tracing::{info, warn};

use crate::service1::Service1;

/// service2, with REST in place of gRPC
#[derive(Parser)]
struct Config {
    #[command(flatten)]
    common: common::Config,

    /// The port for HTTP
    #[arg(long, env)]
    port: u16,

    /// The HTTP address of service1: host:port
    #[arg(long, env)]
    service1_channel: Authority,
}

async fn say_hello(
    State(service1): State<Arc<Service1>>,
    query: Query,
) -> Result<Json<String>, Problem> {
    let name = query.get("name")?.unwrap_or_default();
    match service1.process_name(&name).await {
        Ok(name) => {
            let hello = format!("Hello, {name}!");
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
            Err(error.into())
        }
    }
}

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let config: Config = common::config::parse();
    server::run("service2", &config.common, move |_process| {
        let service1 = Arc::new(Service1::new(&config.service1_channel));
        let router = Router::new()
            .route("/api/v1/say-hello", get(say_hello))
            .with_state(service1);
        [Listener::http(config.port, router)]
    })
}
