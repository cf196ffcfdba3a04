//! service2, the edge: a page for people and REST for programs, over gRPC to service1.

mod backend;
mod chunks;
mod cors;
mod failure;
mod greeting;
mod items;
mod page;
mod rest;

use std::{process::ExitCode, sync::Once};

use clap::{ArgAction, Parser, builder::BoolishValueParser};
use common::{
    client::{self, Channel, Target},
    config::{Defaults, EXIT_BAD_CONFIGURATION},
    server::{self, Listener},
    tls::SpiffeId,
};

use crate::backend::Backend;

/// The edge of the mesh: a page and REST, over gRPC to service1
#[derive(Parser)]
#[command(version)]
struct Config {
    /// The port for HTTP
    #[arg(long, env, default_value_t = 8081)]
    port: u16,

    /// Where service1 serves gRPC: host:port or a URL; several are separated by commas
    #[arg(long, env, default_value = "localhost:50051")]
    service1_channel: Target,

    /// The identity that the certificate of service1 must have, such as
    /// `spiffe://mesh.local/service1`; its DNS names are not asked then
    /// [default: none; the certificate has the host name of the address]
    #[arg(long, env, value_name = "URI")]
    service1_peer: Option<SpiffeId>,

    /// Whether the page shows the way and the log lines of its last requests, for development: on or
    /// off
    #[arg(long, env, default_value = "off", value_parser = BoolishValueParser::new(), action = ArgAction::Set)]
    recent_requests: bool,

    /// Whether the page has buttons that delay or fail a call, for development: on or off. It can't be
    /// on with mutual TLS, and service1 must have it on, too
    #[arg(long, env, default_value = "off", value_parser = BoolishValueParser::new(), action = ArgAction::Set)]
    faults: bool,

    /// The origins whose scripts may call from a browser, such as `https://shop.example`; several are
    /// separated by commas [default: none]
    #[arg(long, env, value_name = "ORIGINS")]
    cors_origins: Option<cors::Origins>,

    #[command(flatten)]
    client: client::Config,

    #[command(flatten)]
    common: common::Config,
}

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let config: Config = Defaults::new().admin_port(9081).parse();
    if config.faults && config.common.mesh_tls.is_some() {
        eprintln!("service2: FAULTS=on goes without MESH_TLS_DIR; unset one of the two");
        return ExitCode::from(EXIT_BAD_CONFIGURATION);
    }
    if config.service1_peer.is_some() && config.common.mesh_tls.is_none() {
        eprintln!(
            "service2: SERVICE1_PEER needs MESH_TLS_DIR: without TLS, service1 does not show who it is; set \
             both or none"
        );
        return ExitCode::from(EXIT_BAD_CONFIGURATION);
    }
    let service1 = Channel::new(
        &config.service1_channel,
        protos::FILE_DESCRIPTOR_SET,
        &config.client,
        &config.common,
    )
    .named("service1");
    let service1 = match &config.service1_peer {
        Some(peer) => service1.expect(peer),
        None => service1,
    };
    let page = page::Settings::new(config.recent_requests, config.faults);
    let start = Once::new();
    server::run("service2", &config.common, move |process| {
        start.call_once(|| page.warn());
        let client = service1.connect();
        process.ready_when(client::wait_until_serving(client.clone()));
        let backend = Backend::new(client);
        let page = page::router(backend.clone(), page.clone(), process.ports());
        let router = rest::router(backend, page, &process.ports());
        let listener = Listener::http(config.port, router);
        [match &config.cors_origins {
            Some(origins) => listener.layer(origins.layer()),
            None => listener,
        }]
    })
}
