//! service1, the backend: names and items over gRPC, and names over REST.

mod faults;
mod grpc;
mod items;
mod names;
mod rest;

use std::{process::ExitCode, sync::Once};

use clap::{ArgAction, Parser, builder::BoolishValueParser};
use common::{
    config::{Defaults, EXIT_BAD_CONFIGURATION},
    server::{self, Listener},
};

use crate::faults::Faults;

/// The backend of the mesh: names and items over gRPC, and names over REST
#[derive(Parser)]
#[command(version)]
struct Config {
    /// The port for HTTP
    #[arg(long, env, default_value_t = 8080)]
    port: u16,

    /// The port for gRPC
    #[arg(long, env, default_value_t = 50051)]
    grpc_port: u16,

    /// Whether calls may ask for a delay or a failure, for development: on or off. It can't be on
    /// with mutual TLS
    #[arg(long, env, default_value = "off", value_parser = BoolishValueParser::new(), action = ArgAction::Set)]
    faults: bool,

    #[command(flatten)]
    common: common::Config,
}

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let config: Config = Defaults::new().admin_port(9080).parse();
    let faults = match Faults::new(config.faults, config.common.mesh_tls.is_some()) {
        Ok(faults) => faults,
        Err(why) => {
            eprintln!("service1: {why}");
            return ExitCode::from(EXIT_BAD_CONFIGURATION);
        }
    };
    let start = Once::new();
    server::run("service1", &config.common, move |process| {
        start.call_once(|| faults.warn());
        [
            Listener::http(config.port, rest::router(&process.ports())),
            Listener::grpc(config.grpc_port, grpc::services(faults)),
        ]
    })
}
