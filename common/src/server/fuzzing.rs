//! For the fuzzer: a connection without a process around it.

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use axum::Router;
use tokio::io::DuplexStream;

use super::{
    connections::Connections,
    face::Face,
    lifetime::Limits,
    places::{Places, Share},
    shed::Capacity,
    worker::serve_socket,
};
use crate::methods::Methods;

const DEADLINE: Duration = Duration::from_secs(10);

/// Serves a connection to its end, as a worker does, with a router for HTTP or for gRPC.
pub async fn serve(router: Router, is_grpc: bool, socket: DuplexStream) {
    let face = if is_grpc {
        Face::grpc(router, DEADLINE, &Methods::new())
    } else {
        Face::http(router, DEADLINE)
    };
    let connections = Arc::new(Connections::new(1));
    let connection = connections.admit(Ipv4Addr::LOCALHOST.into()).await;
    let places = Arc::new(Places::new(16, connections));
    let share = Share::new(places, 1);
    let lifetime = Limits {
        idle_timeout: DEADLINE,
        max_age: None,
    };
    let capacity = Capacity::new(share, DEADLINE);
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
