//! template: greetings over REST and gRPC.

mod greeting;
mod grpc;
mod rest;
mod service1;

/// What tonic generated from `proto/template.proto`.
mod proto {
    #![allow(missing_docs, unreachable_pub, clippy::pedantic)]

    tonic::include_proto!("template");
    pub(crate) const FILE_DESCRIPTOR_SET: &[u8] =
        tonic::include_file_descriptor_set!("descriptors");
}

use std::process::ExitCode;

use clap::Parser;
use common::{
    client::{self, Channel, Target},
    config::Defaults,
    server::{self, Listener},
};

/// Greetings over REST and gRPC
#[derive(Parser)]
#[command(version)]
struct Config {
    /// The port for HTTP
    #[arg(long, env, default_value_t = 8082)]
    port: u16,

    /// The port for gRPC
    #[arg(long, env, default_value_t = 50052)]
    grpc_port: u16,

    /// Where service1 serves gRPC: host:port or a URL; several are separated by commas
    #[arg(long, env, default_value = "localhost:50051")]
    service1_channel: Target,

    #[command(flatten)]
    client: client::Config,

    #[command(flatten)]
    common: common::Config,
}

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let config: Config = Defaults::new().admin_port(9082).parse();
    let service1 = Channel::new(
        &config.service1_channel,
        protos::FILE_DESCRIPTOR_SET,
        &config.client,
        &config.common,
    )
    .named("service1");
    server::run("template", &config.common, move |process| {
        let service1 = service1.connect();
        process.ready_when(client::wait_until_serving(service1.clone()));
        let router = rest::router(service1.clone(), &process.ports());
        [
            Listener::http(config.port, router),
            Listener::grpc(config.grpc_port, grpc::services(service1)),
        ]
    })
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
        sync::oneshot,
    };

    use super::*;
    use crate::service1::fake::service1;

    #[tokio::test]
    async fn the_service_serves_and_drains() {
        let server = server::bind(&common::Config::default(), |process| {
            [
                Listener::http(0, rest::router(service1(), &process.ports())),
                Listener::grpc(0, grpc::services(service1())),
            ]
        });
        let server = server.unwrap();
        let port = server.addresses()[0].port();
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tokio::spawn(server.serve(async { drop(stopped.await) }));

        let mut client = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let request =
            "GET /api/v1/greet?name=test HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        client.write_all(request.as_bytes()).await.unwrap();
        let mut response = String::new();
        client.read_to_string(&mut response).await.unwrap();
        assert!(response.contains("x-request-id: "), "{response}");
        assert!(response.ends_with(r#""Good day, TEST!""#), "{response}");

        stop.send(()).unwrap();
        serving.await.unwrap().unwrap();
    }
}
