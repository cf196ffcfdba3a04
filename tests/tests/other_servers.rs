//! [`MeshLayer`] below other servers: `axum::serve` and tonic's, on a runtime of several threads.

use std::{
    net::SocketAddr,
    sync::{
        atomic::{AtomicUsize, Ordering::Relaxed},
        mpsc,
    },
    thread,
    time::Duration,
};

use axum::{Router, extract::ConnectInfo, routing::get};
use common::server::MeshLayer;
use protos::app::grpc::{
    ProcessNameRequest, ProcessNameResponse,
    service1_server::{Service1, Service1Server},
};
use tests::{grpc, http, wait_for};
use tokio::{net::TcpListener, runtime};
use tonic::{
    Request, Response, Status,
    transport::{
        Server,
        server::{TcpConnectInfo, TcpIncoming},
    },
};

const DEADLINE: Duration = Duration::from_secs(1);

/// A handler that never ends. Each call counts.
async fn late(calls: &AtomicUsize) {
    calls.fetch_add(1, Relaxed);
    std::future::pending::<()>().await;
}

/// Runs a server until the test ends. Returns its address.
fn start<F>(serve: impl FnOnce(TcpListener) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = ()>,
{
    let (started, address) = mpsc::channel();
    thread::spawn(move || {
        let mut runtime = runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(2).enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            let address = listener.local_addr().expect("it listens");
            started.send(address).expect("the test waits");
            serve(listener).await;
        });
    });
    address.recv().expect("it starts")
}

#[test]
fn the_layer_works_below_axum() {
    static LATE: AtomicUsize = AtomicUsize::new(0);
    let mesh = MeshLayer::http(DEADLINE)
        .max_in_flight(1)
        .peer(|extensions| {
            let peer: &ConnectInfo<SocketAddr> = extensions.get()?;
            Some(peer.0.ip())
        });
    let router = Router::new()
        .route("/", get(async || "Hello!"))
        .route(
            "/panic",
            get(async || -> &str { panic!("the handler panics") }),
        )
        .route("/late", get(async || late(&LATE).await))
        .layer(mesh);
    let address = start(async |listener| {
        let service = router.into_make_service_with_connect_info::<SocketAddr>();
        axum::serve(listener, service).await.expect("it serves");
    });

    let response = http::get_with(address, "/", &[("x-request-id", b"order-17")]);
    assert_eq!((response.status, response.text()), (200, "Hello!"));
    assert_eq!(response.id(), "order-17");
    for (path, status) in [("/nowhere", 404), ("/panic", 500), ("/late", 504)] {
        let response = http::get(address, path);
        assert_eq!(response.status, status, "{path}");
        response.problem();
    }
    let late = thread::spawn(move || http::get(address, "/late").status);
    wait_for("it to be in flight", || {
        (LATE.load(Relaxed) == 2).then_some(())
    });
    let refused = http::get(address, "/");
    assert_eq!(refused.status, 503);
    refused.problem();
    assert_eq!(late.join().expect("a response"), 504);
    assert_eq!(
        http::get(address, "/").status,
        200,
        "the place is free again"
    );
}

static LATE_CALLS: AtomicUsize = AtomicUsize::new(0);

struct Service;

#[tonic::async_trait]
impl Service1 for Service {
    async fn process_name(
        &self,
        request: Request<ProcessNameRequest>,
    ) -> Result<Response<ProcessNameResponse>, Status> {
        let name = request.into_inner().name;
        match &*name {
            "panic" => panic!("the handler panics"),
            "late" => {
                late(&LATE_CALLS).await;
                Err(Status::unknown("it never ends"))
            }
            _ => Ok(Response::new(ProcessNameResponse { name })),
        }
    }
}

#[test]
fn the_layer_works_below_tonic() {
    let mesh = MeshLayer::grpc(DEADLINE, protos::FILE_DESCRIPTOR_SET)
        .max_in_flight(1)
        .peer(|extensions| {
            let info: &TcpConnectInfo = extensions.get()?;
            Some(info.remote_addr()?.ip())
        });
    let address = start(async |listener| {
        let mut server = Server::builder().layer(mesh);
        let server = server.add_service(Service1Server::new(Service));
        let incoming = TcpIncoming::from(listener);
        server
            .serve_with_incoming(incoming)
            .await
            .expect("it serves");
    });

    let response = grpc::process_name(address, "test", &[("request_id", b"order-17")]);
    assert_eq!((response.code(), response.id()), (0, "order-17"));
    for (name, code) in [("panic", 13), ("late", 4)] {
        let response = grpc::process_name(address, name, &[("request_id", b"order-17")]);
        assert_eq!(
            (response.code(), response.id()),
            (code, "order-17"),
            "{name}"
        );
    }
    let late = thread::spawn(move || grpc::process_name(address, "late", &[]).code());
    wait_for("it to be in flight", || {
        (LATE_CALLS.load(Relaxed) == 2).then_some(())
    });
    assert_eq!(grpc::process_name(address, "test", &[]).code(), 8);
    assert_eq!(late.join().expect("a response"), 4);
    assert_eq!(grpc::process_name(address, "test", &[]).code(), 0);
}
