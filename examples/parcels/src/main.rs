//! Where parcels are.

mod grpc;
mod parcels;
mod rest;
mod store;
#[cfg(test)]
mod tests;

/// What tonic generated from `proto/parcels.proto`.
mod proto {
    tonic::include_proto!("parcels");
    pub const FILE_DESCRIPTOR_SET: &[u8] = tonic::include_file_descriptor_set!("descriptors");
}

use std::{path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use clap::Parser;
use common::server::{Builder, Listener, Process, Server};
use store::Store;
use tracing::{error, info};

/// Where parcels are
#[derive(Parser)]
struct Config {
    #[command(flatten)]
    common: common::Config,

    /// The port for HTTP
    #[arg(long, env, default_value_t = 8082)]
    port: u16,

    /// The port for gRPC
    #[arg(long, env, default_value_t = 50052)]
    grpc_port: u16,

    /// The file of the database
    #[arg(long, env, default_value = "parcels.sqlite")]
    database: PathBuf,
}

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let config: Config = common::config::parse();
    let store = match Store::open(&config.database) {
        Ok(store) => Arc::new(store),
        Err(error) => {
            eprintln!("parcels: {}: {error}", config.database.display());
            return ExitCode::FAILURE;
        }
    };
    common::metrics::register(|registry| {
        registry.register(
            "parcels_added",
            "Parcels that were added",
            rest::ADDED.clone(),
        );
    });
    service(store, config.port, config.grpc_port).run("parcels", &config.common)
}

/// The service: its faces on each worker, and its task once for the process.
fn service(store: Arc<Store>, port: u16, grpc_port: u16) -> Builder {
    let for_task = store.clone();
    let faces = Server::builder(move |_process| {
        [
            Listener::http(port, rest::router(store.clone())).deadline(rest::EVENTS, None),
            Listener::grpc(grpc_port, grpc::services(store.clone())),
        ]
    });
    faces.task("sweeper", |process| sweep(for_task, process))
}

/// Removes old parcels every hour, and keeps the service from being ready while the database fails.
async fn sweep(store: Arc<Store>, process: Process) {
    const HOUR: Duration = Duration::from_hours(1);
    let checked = store.clone();
    process.ready_while(
        move || std::future::ready(checked.check()),
        Duration::from_secs(1),
    );
    let mut draining = std::pin::pin!(process.draining());
    loop {
        match store.sweep(HOUR * 24 * 30) {
            Ok(parcels) => info!(action = "sweep", status = "success", parcels),
            Err(error) => error!(action = "sweep", status = "failure", %error),
        }
        tokio::select! {
            () = tokio::time::sleep(HOUR) => {}
            () = &mut draining => return,
        }
    }
}
