//! service1, the backend: names and items over gRPC, and names over REST.

mod grpc;
mod items;
mod names;
mod rest;

use std::process::ExitCode;

use clap::Parser;
use common::server::{self, Listener};

/// The backend of the mesh: names and items over gRPC, and names over REST
#[derive(Parser)]
#[command(version, mut_arg("admin_port", |port| port.default_value("9080")))]
struct Config {
    #[command(flatten)]
    common: common::Config,

    /// The port for HTTP
    #[arg(long, env, default_value_t = 8080)]
    port: u16,

    /// The port for gRPC
    #[arg(long, env, default_value_t = 50051)]
    grpc_port: u16,
}

fn main() -> ExitCode {
    let config: Config = common::config::parse();
    server::run("service1", &config.common, move |_worker| {
        [
            Listener::http(config.port, rest::router()),
            Listener::grpc(config.grpc_port, grpc::services()),
        ]
    })
}
