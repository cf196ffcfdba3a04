//! [`serve`]: serves a connection without a process around it, for the fuzzer.

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use axum::Router;
use tokio::io::DuplexStream;

use super::{
    Listener,
    capacity::{Capacity, connections::Connections, places::Places},
    process::{lifetime::Limits, worker_thread::serve_socket},
};
use crate::methods::Methods;

const DEADLINE: Duration = Duration::from_secs(10);

/// Serves a connection to its end, as a worker does, with a router for HTTP or for gRPC.
pub async fn serve(router: Router, is_grpc: bool, socket: DuplexStream) {
    let listener = if is_grpc {
        Listener::grpc(0)
    } else {
        Listener::http(0)
    };
    let face = listener.face(router, DEADLINE, &Methods::new());
    let connections = Arc::new(Connections::new(1));
    let connection = connections.admit(Ipv4Addr::LOCALHOST.into()).await;
    let places = Arc::new(Places::new(16, connections));
    let lifetime = Limits {
        idle_timeout: DEADLINE,
        max_age: None,
    };
    let capacity = Arc::new(Capacity::new(places, 1, DEADLINE));
    serve_socket(
        face,
        capacity,
        connection.open.clone(),
        socket,
        DEADLINE,
        lifetime,
    )
    .await;
}
