//! A service that starts once another program listens, as one that needs a database does; or whose `main` is
//! asynchronous, as it must not be.

use std::{net::SocketAddr, process::ExitCode, sync::Arc};

use axum::{Router, routing::get};
use clap::Parser;
use common::server::{Listener, Server, Shared};
use tokio::{net::TcpStream, runtime};

#[derive(Parser)]
struct Config {
    #[command(flatten)]
    common: common::Config,
    #[arg(long, env, default_value_t = 0)]
    port: u16,
    /// Where the other program listens
    #[arg(long, env, default_value = "127.0.0.1:9")]
    database: SocketAddr,
    /// Run within a runtime
    #[arg(long)]
    in_runtime: bool,
}

fn main() -> ExitCode {
    let config: Config = common::config::parse();
    let database = config.database;
    let connect = move || async move { TcpStream::connect(database).await.map(Arc::new) };
    let connection = Shared::new("database", connect);
    let captured = connection.clone();
    let faces = Server::builder(move |_process| {
        let peer = captured.get().peer_addr().expect("it is connected");
        let router = Router::new().route("/peer", get(async move || peer.to_string()));
        [Listener::http(config.port, router)]
    });
    let service = faces.shared(&connection);
    let run = || service.run("waiting", &config.common);
    if config.in_runtime {
        let runtime = runtime::Builder::new_current_thread().build();
        runtime.expect("a runtime").block_on(async { run() })
    } else {
        run()
    }
}
