//! template: greetings over REST and gRPC.

mod greeting;
mod grpc;
mod rest;

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

    #[command(flatten)]
    common: common::Config,
}

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let config: Config = Defaults::new().admin_port(9082).parse();
    server::run("template", &config.common, move |_process| {
        [
            Listener::http(config.port, rest::router()),
            Listener::grpc(config.grpc_port, grpc::services()),
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

    #[tokio::test]
    async fn the_service_serves_and_drains() {
        let server = server::bind(&common::Config::default(), |_process| {
            [
                Listener::http(0, rest::router()),
                Listener::grpc(0, grpc::services()),
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
        assert!(response.ends_with(r#""Good day, test!""#), "{response}");

        stop.send(()).unwrap();
        serving.await.unwrap().unwrap();
    }
}
