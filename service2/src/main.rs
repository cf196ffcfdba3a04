//! service2, the edge: a page for people and REST for programs, over gRPC to service1.

mod backend;
mod chunks;
mod greeting;
mod items;
mod page;
mod rest;

use std::process::ExitCode;

use clap::Parser;
use common::{
    client::{self, Channel, Target},
    server::{self, Listener},
};

use crate::backend::Backend;

/// The edge of the mesh: a page and REST, over gRPC to service1
#[derive(Parser)]
#[command(version, mut_arg("admin_port", |port| port.default_value("9081")))]
struct Config {
    #[command(flatten)]
    common: common::Config,

    #[command(flatten)]
    client: client::Config,

    /// The port for HTTP
    #[arg(long, env, default_value_t = 8081)]
    port: u16,

    /// The gRPC address of service1: host:port or a URL, or several separated by commas
    #[arg(long, env, default_value = "localhost:50051")]
    service1_channel: Target,
}

fn main() -> ExitCode {
    let mut config: Config = common::config::parse();
    config.client.tls.clone_from(&config.common.mesh_tls); // calls are mutual TLS, where it is set
    let service1 = Channel::new(
        &config.service1_channel,
        protos::FILE_DESCRIPTOR_SET,
        &config.client,
        config.common.deadline,
    );
    server::run("service2", &config.common, move |worker| {
        let client = service1.connect();
        worker.ready_when(client::wait_until_serving(client.clone()));
        let backend = Backend(client);
        let router = rest::router(backend.clone()).merge(page::router(backend));
        [Listener::http(config.port, router)]
    })
}
