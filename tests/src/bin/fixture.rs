//! A service on the same stack as the pair, whose handlers do what the pair's never should:
//! panic, hang, stream without end. It stands in for service1 where a test needs that.

use std::{convert::Infallible, future, time::Duration};

use axum::{
    Router,
    body::{Body, Bytes},
    routing::{get, post},
};
use clap::Parser;
use common::{
    context,
    server::{self, Grpc, Listener, Worker},
};
use futures_util::{StreamExt, stream};
use protos::{
    api::{
        ApiRequest, Hello, HelloRequest, Item, Items,
        api_server::{self, ApiServer},
    },
    app::grpc::{
        ProcessNameRequest, ProcessNameResponse,
        service1_server::{self, Service1Server},
    },
};
use tokio::sync::Semaphore;
use tonic::{Code, Request, Response, Status};
use tracing::info;

#[derive(Parser)]
struct Config {
    #[command(flatten)]
    common: common::Config,
    #[arg(long, env, default_value_t = 0)]
    port: u16,
    #[arg(long, env, default_value_t = 0)]
    grpc_port: u16,
}

fn main() -> std::process::ExitCode {
    let config: Config = common::config::parse();
    let listeners = [
        Listener::http(config.port),
        Listener::grpc(config.grpc_port),
    ];
    server::run("fixture", &config.common, listeners, |worker| {
        [http(), grpc(worker)]
    })
}

fn http() -> Router {
    Router::new()
        .route(
            "/panic",
            get(async || -> &str { panic!("the handler panics") }),
        )
        .route("/hang", get(async || hang().await))
        .route("/slow", get(slow))
        .route("/block", get(block))
        .route("/endless", get(endless))
        .route("/panic-later", get(panic_later))
        .route("/tasks", get(tasks))
        .route("/echo", post(async |body: Bytes| body))
        .route("/bare/{status}", get(bare))
        .route("/release", get(async || ITEMS.add_permits(1_000)))
}

/// Takes longer than a test needs to send a signal.
async fn slow() -> &'static str {
    info!(action = "started");
    tokio::time::sleep(Duration::from_millis(800)).await;
    "slow but there"
}

/// Keeps its worker from everything else.
async fn block() {
    info!(action = "started");
    // The worker idles once more, and writes the line.
    tokio::time::sleep(Duration::from_millis(10)).await;
    std::thread::sleep(Duration::from_mins(1));
}

/// Waits for ever, and tells when it is dropped.
async fn hang() -> &'static str {
    struct Dropped;
    impl Drop for Dropped {
        fn drop(&mut self) {
            info!(action = "dropped");
        }
    }
    let _dropped = Dropped;
    info!(action = "started");
    future::pending().await
}

/// A body that sends a line and then waits for ever.
async fn endless() -> Body {
    let lines = stream::unfold(0, async |sent| {
        if sent > 0 {
            hang().await;
        }
        Some((
            Ok::<_, Infallible>(Bytes::from_static(b"a line\n")),
            sent + 1,
        ))
    });
    Body::from_stream(lines)
}

/// A body that sends a line and then panics.
async fn panic_later() -> Body {
    let lines = stream::unfold(0, async |sent| {
        assert_eq!(sent, 0, "the body panics");
        Some((Ok::<_, Infallible>(Bytes::from_static(b"a line\n")), 1))
    });
    Body::from_stream(lines)
}

/// Two tasks that log: one that belongs to the request, one that does not.
async fn tasks() -> &'static str {
    let within = context::spawn(async { info!(action = "within") });
    let without = tokio::spawn(async { info!(action = "without") });
    within.await.expect("it does not panic");
    without.await.expect("it does not panic");
    "done"
}

/// An error as a handler answers it that knows nothing of problems.
async fn bare(
    axum::extract::Path(status): axum::extract::Path<u16>,
) -> (http::StatusCode, &'static str) {
    let status = http::StatusCode::from_u16(status).expect("the test asks for a real one");
    (status, "what the handler said")
}

fn grpc(worker: &Worker) -> Router {
    Grpc::new(protos::FILE_DESCRIPTOR_SET)
        .add_service(Service1Server::new(Service1))
        .add_service(ApiServer::new(Api))
        .into_router(worker)
}

/// Does what the name says.
async fn obey(name: String) -> Result<String, Status> {
    Ok(match name.as_str() {
        "panic" => panic!("the handler panics"),
        "hang" => hang().await.to_owned(),
        "slow" => slow().await.to_owned(),
        // Two milliseconds of the worker's time.
        "work" => {
            std::thread::sleep(Duration::from_millis(2));
            name
        }
        "remaining" => {
            let left = context::deadline().and_then(common::Deadline::remaining);
            left.unwrap_or_default().as_millis().to_string()
        }
        code => match code.strip_prefix("code ").map(str::parse) {
            Some(Ok(code)) => {
                return Err(Status::new(Code::from_i32(code), "the fixture's text"));
            }
            _ => name,
        },
    })
}

struct Service1;

#[tonic::async_trait]
impl service1_server::Service1 for Service1 {
    async fn process_name(
        &self,
        request: Request<ProcessNameRequest>,
    ) -> Result<Response<ProcessNameResponse>, Status> {
        let before = request.metadata().get("grpc-previous-rpc-attempts");
        let name = match (request.get_ref().name.as_str(), before) {
            ("again", None) => return Err(Status::unavailable("not yet")),
            ("again", Some(before)) => before.to_str().unwrap_or_default().to_owned(),
            ("never", _) => {
                let mut status = Status::unavailable("never");
                let pushback = "-1".parse().expect("ASCII");
                status
                    .metadata_mut()
                    .insert("grpc-retry-pushback-ms", pushback);
                return Err(status);
            }
            _ => obey(request.into_inner().name).await?,
        };
        Ok(Response::new(ProcessNameResponse { name }))
    }
}

/// How many more items the streams send before they wait for a call of `/release`.
static ITEMS: Semaphore = Semaphore::const_new(3);

struct Api;

#[tonic::async_trait]
impl api_server::Api for Api {
    async fn say_hello(&self, request: Request<HelloRequest>) -> Result<Response<Hello>, Status> {
        let message = obey(request.into_inner().name).await?;
        Ok(Response::new(Hello { message }))
    }

    async fn get_all(&self, _: Request<ApiRequest>) -> Result<Response<Items>, Status> {
        Err(Status::data_loss("the fixture's text"))
    }

    type getStreamStream = stream::BoxStream<'static, Result<Item, Status>>;

    /// Item 13 is a failure.
    async fn get_stream(
        &self,
        request: Request<ApiRequest>,
    ) -> Result<Response<Self::getStreamStream>, Status> {
        let ids = stream::iter(1..=request.into_inner().length);
        let items = ids.then(async |id| {
            if id == 13 {
                return Err(Status::data_loss("the fixture's text"));
            }
            ITEMS.acquire().await.expect("never closed").forget();
            let name = format!("name {id}");
            Ok(Item { id, name })
        });
        Ok(Response::new(items.boxed()))
    }
}
