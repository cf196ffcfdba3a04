//! Raw bytes are all that a connection sends, in HTTP/1.1 or HTTP/2. The first byte selects the
//! port. There is no panic, the connection ends in time, and only HTTP comes back.

use axum::{
    Router,
    body::Bytes,
    routing::{get, post},
};
use common::{
    Config,
    server::{Grpc, InMemory, Listener},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, duplex},
    runtime::{Builder, Runtime},
    time::{Duration, timeout},
};

thread_local! {
    /// Its clock is virtual: when everything waits, the next timer fires.
    static RUNTIME: Runtime = Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .expect("a runtime");
}

/// More than the default deadline and the idle timeout together.
const PATIENCE: Duration = Duration::from_mins(2);

fn listener(is_grpc: bool) -> Listener {
    if is_grpc {
        return Listener::grpc(0, Grpc::new(tonic_health::pb::FILE_DESCRIPTOR_SET));
    }
    let router = Router::new()
        .route("/", get(async || "Hello!"))
        .route("/echo", post(async |body: Bytes| body))
        .route(
            "/query",
            get(async |query: common::server::Query| {
                query.get("name").map(Option::unwrap_or_default)
            }),
        );
    Listener::http(0, router)
}

pub fn run(data: &[u8]) {
    let Some((port, bytes)) = data.split_first() else {
        return;
    };
    let is_grpc = port % 2 == 1;
    RUNTIME.with(|runtime| {
        runtime.block_on(async {
            let (client, server) = duplex(64 * 1_024);
            let faces = [listener(is_grpc)];
            let service = InMemory::new(&Config::default(), |_process| faces);
            let service = service.expect("it is valid");
            let (mut responses, mut requests) = tokio::io::split(client);
            let send = async {
                let _ = requests.write_all(bytes).await;
                let _ = requests.shutdown().await;
            };
            let receive = async {
                let mut received = Vec::new();
                let _ = responses.read_to_end(&mut received).await;
                received
            };
            let serve = service.serve(0, [127, 0, 0, 1].into(), server);
            let all = async { tokio::join!(send, receive, serve).1 };
            let received = timeout(PATIENCE, all).await.expect("the connection ends");
            // HTTP/2 begins with SETTINGS, whose type is the fourth byte.
            let is_http1 = received.starts_with(b"HTTP/1.");
            assert!(received.is_empty() || is_http1 || received.get(3) == Some(&4));
        });
    });
}
