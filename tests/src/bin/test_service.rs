//! The services of gRPC's interoperability tests, and ours, served as any service is.

use axum::{Router, middleware};
use clap::Parser;
use common::server::{self, Grpc, Listener};
use tests::testing::{
    proto::FILE_DESCRIPTOR_SET,
    service::{echo, services},
};

#[derive(Parser)]
struct Config {
    #[command(flatten)]
    common: common::Config,
    #[arg(long, env, default_value_t = 0)]
    port: u16,
    #[arg(long, env, default_value_t = 0)]
    grpc_port: u16,
}

fn main() -> std::process::ExitCode {
    let config: Config = common::config::parse();
    server::run("test_service", &config.common, move |_process| {
        let (test_service, calls) = services();
        let grpc = Grpc::new(FILE_DESCRIPTOR_SET)
            .add_service(test_service)
            .add_service(calls)
            .layer(middleware::from_fn(echo));
        [
            Listener::http(config.port, Router::new()),
            // The interoperability tests send messages of 271,828 bytes, and ours of 1 MiB.
            Listener::grpc(config.grpc_port, grpc).body_limit(4 * 1_024 * 1_024),
        ]
    })
}
