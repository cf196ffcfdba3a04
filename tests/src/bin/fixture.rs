//! A service on the same stack as the pair, whose handlers panic, hang, or stream without end. It
//! stands in for service1 where a test needs that.

use std::{
    convert::Infallible,
    future,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use axum::{
    Extension, Router,
    body::{Body, Bytes},
    routing::{get, post},
};
use clap::Parser;
use common::{
    client::{self, Channel},
    context,
    server::{self, Grpc, Listener},
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
use tokio::{sync::Semaphore, time::sleep};
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
    /// A path to serve beside the others
    #[arg(long, env, default_value = "/path")]
    path: String,
    /// The orders for each call of `ProcessName`, whatever its name says
    #[arg(long, env)]
    orders: Option<String>,
    /// Makes a channel from the default settings, which have no mutual TLS
    #[arg(long, env)]
    forgets_tls: bool,
    /// Needs a runtime in `main`, as a pool that is made there does
    #[arg(long, env)]
    spawns_in_main: bool,
    /// Calls `run` in a runtime, as under `#[tokio::main]`
    #[arg(long, env)]
    runs_in_runtime: bool,
}

fn main() -> std::process::ExitCode {
    let config: Config = common::config::parse();
    if config.forgets_tls {
        let target = "nowhere:1".parse().expect("it is a host and a port");
        let (client, common) = (client::Config::default(), common::Config::default());
        let _channel = Channel::new(&target, protos::FILE_DESCRIPTOR_SET, &client, &common);
    }
    if config.spawns_in_main {
        tokio::spawn(future::ready(()));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.expect("a runtime");
    let _entered = config.runs_in_runtime.then(|| runtime.enter());
    server::run("fixture", &config.common, move |_process| {
        [
            Listener::http(config.port, http(&config.path))
                .deadline("/late", Some(Duration::from_millis(100))),
            Listener::grpc(config.grpc_port, grpc(config.orders.clone())),
        ]
    })
}

fn http(path: &str) -> Router {
    Router::new()
        .route(path, get(async || "the path"))
        .route(
            "/panic",
            get(async || -> &str { panic!("the handler panics") }),
        )
        .route("/hang", get(async || hang().await))
        .route("/late", get(async || hang().await))
        .route("/slow", get(slow))
        .route("/block", get(block))
        .route("/endless", get(endless))
        .route("/panic-later", get(panic_later))
        .route("/tasks", get(tasks))
        .route("/fields", get(fields))
        .route("/echo", post(async |body: Bytes| body))
        .route("/bare/{status}", get(bare))
        .route("/extension", get(async |_: Extension<u8>| ()))
        .route("/release", get(async || ITEMS.add_permits(1_000)))
}

/// Takes longer than a test needs to send a signal.
async fn slow() -> &'static str {
    info!(action = "started");
    sleep(Duration::from_millis(800)).await;
    "slow but there"
}

/// Blocks its worker.
async fn block() {
    info!(action = "started");
    // The worker goes idle once more, and writes the line.
    sleep(Duration::from_millis(10)).await;
    std::thread::sleep(Duration::from_mins(1));
}

/// Waits for ever, and logs when it is dropped.
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

/// Two tasks that log: one with the context of the request, and one without.
async fn tasks() -> &'static str {
    let within = context::spawn(async { info!(action = "within") });
    let without = tokio::spawn(async { info!(action = "without") });
    within.await.expect("it does not panic");
    without.await.expect("it does not panic");
    "done"
}

/// Adds a field to its further lines: those of a task, of blocking work, and of its body.
async fn fields() -> Body {
    info!(action = "before");
    context::log_field("caller", "acme").expect("it is the first");
    let refused = context::log_field("pid", 1).expect_err("it is reserved");
    let task = context::spawn(async { info!(action = "task") });
    let blocking = context::spawn_blocking(|| info!(action = "blocking"));
    task.await.expect("it does not panic");
    blocking.await.expect("it does not panic");
    info!(action = "refused", reason = %refused);
    Body::from_stream(stream::once(async {
        info!(action = "body");
        Ok::<_, Infallible>(Bytes::from_static(b"done"))
    }))
}

/// The error of a handler that knows nothing of problems.
async fn bare(
    axum::extract::Path(status): axum::extract::Path<u16>,
) -> (http::StatusCode, &'static str) {
    let status = http::StatusCode::from_u16(status).expect("the test asks for a real one");
    (status, "what the handler said")
}

fn grpc(orders: Option<String>) -> Grpc {
    Grpc::new(protos::FILE_DESCRIPTOR_SET)
        .add_service(Service1Server::new(Service1 { orders }))
        .add_service(ApiServer::new(Api))
}

/// Does what the orders say. The response is the name unless the orders say otherwise.
async fn obey(orders: &str, name: &str) -> Result<String, Status> {
    let (order, figure) = orders.split_once(' ').unwrap_or((orders, ""));
    match (order, figure.parse::<u16>()) {
        ("panic", _) => panic!("the handler panics"),
        ("hang", _) => return Ok(hang().await.to_owned()),
        ("slow", _) => return Ok(slow().await.to_owned()),
        // Two milliseconds of the worker's time.
        ("work", _) => std::thread::sleep(Duration::from_millis(2)),
        ("wait", Ok(millis)) => {
            info!(action = "started");
            sleep(Duration::from_millis(millis.into())).await;
        }
        ("tail", _) => sleep(latency_with_a_tail()).await,
        ("remaining", _) => {
            let left = context::deadline().and_then(common::Deadline::remaining);
            return Ok(left.unwrap_or_default().as_millis().to_string());
        }
        ("code", Ok(code)) => {
            let code = Code::from_i32(code.into());
            return Err(Status::new(code, "the fixture's text"));
        }
        ("problem", Ok(status)) => {
            let status = http::StatusCode::from_u16(status).expect("the test asks for a real one");
            return Err(common::Problem::new(status, "the fixture's text").into());
        }
        _ => {}
    }
    Ok(name.to_owned())
}

/// 5 ms, but 1 s for 2 % of the calls.
fn latency_with_a_tail() -> Duration {
    static CALLS: AtomicUsize = AtomicUsize::new(1);
    let is_slow = CALLS.fetch_add(1, Ordering::Relaxed).is_multiple_of(50);
    Duration::from_millis(if is_slow { 1_000 } else { 5 })
}

struct Service1 {
    orders: Option<String>,
}

#[tonic::async_trait]
impl service1_server::Service1 for Service1 {
    async fn process_name(
        &self,
        request: Request<ProcessNameRequest>,
    ) -> Result<Response<ProcessNameResponse>, Status> {
        let before = request.metadata().get("grpc-previous-rpc-attempts");
        let name = &request.get_ref().name;
        let orders = self.orders.as_ref().unwrap_or(name);
        let name = match (orders.as_str(), before) {
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
            _ => obey(orders, name).await?,
        };
        Ok(Response::new(ProcessNameResponse { name }))
    }
}

/// The number of items that the streams may still send before a call of `/release`.
static ITEMS: Semaphore = Semaphore::const_new(3);

struct Api;

#[tonic::async_trait]
impl api_server::Api for Api {
    async fn say_hello(&self, request: Request<HelloRequest>) -> Result<Response<Hello>, Status> {
        let name = &request.get_ref().name;
        let message = obey(name, name).await?;
        Ok(Response::new(Hello { message }))
    }

    /// A length from 100 on is the milliseconds that an empty list takes.
    async fn get_all(&self, request: Request<ApiRequest>) -> Result<Response<Items>, Status> {
        let millis = u64::try_from(request.get_ref().length).unwrap_or(0);
        if millis < 100 {
            return Err(Status::data_loss("the fixture's text"));
        }
        sleep(Duration::from_millis(millis)).await;
        Ok(Response::new(Items::default()))
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
