//! service2, the edge: a page for people and REST for programs, gRPC to service1.

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
    config::Action,
    healthcheck,
    server::{self, Listener},
};

use crate::backend::Backend;

/// The edge of the mesh: REST and a page, answered with the help of service1.
#[derive(Parser)]
#[command(version)]
struct Config {
    #[command(flatten)]
    common: common::Config,

    #[command(flatten)]
    client: client::Config,

    /// The port for HTTP
    #[arg(long, env, default_value_t = 8081)]
    port: u16,

    /// Where service1 speaks gRPC: host:port or a URL, or several with commas between
    #[arg(long, env, default_value = "localhost:50051")]
    service1_channel: Target,

    #[command(subcommand)]
    action: Option<Action>,
}

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let config: Config = common::config::parse();
    if let Some(Action::Healthcheck) = config.action {
        return healthcheck::run(config.common.host, config.port);
    }
    let listeners = [Listener::http(config.port)];
    let service1 = Channel::new(
        &config.service1_channel,
        protos::FILE_DESCRIPTOR_SET,
        &config.client,
        config.common.deadline,
    );
    server::run("service2", &config.common, listeners, move |worker| {
        let client = service1.connect();
        worker.ready_when(client::answered(client.clone()));
        let backend = Backend::new(client);
        [rest::router(backend.clone()).merge(page::router(backend))]
    })
}
