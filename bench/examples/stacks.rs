//! Sends requests through one stack, without sockets, so that callgrind can count the instructions:
//! `stacks NAME REQUESTS`. See `bench/instructions`.

use std::{env, hint::black_box, time::Duration};

use axum::{
    Router,
    body::Body,
    routing::{get, post},
};
use common::{
    Config, Context, Deadline, RequestId,
    client::{self, Channel},
    server::{Grpc, InMemory, Listener},
};
use http::{
    Request, Version,
    header::{CONTENT_TYPE, HOST},
};
use http_body_util::BodyExt;
use protos::app::grpc::{ProcessNameRequest, service1_client::Service1Client};
use tokio::io::{self, AsyncReadExt, AsyncWriteExt, DuplexStream};
use tower::ServiceExt;
use tracing_subscriber::filter::{LevelFilter, Targets};

const DEADLINE: Duration = Duration::from_secs(10);

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut arguments = env::args().skip(1);
    let stack = arguments.next().unwrap_or_default();
    let requests = arguments.next().and_then(|number| number.parse().ok());
    let requests = requests.expect("the second argument is a number of requests");
    common::logging::init("stacks", Targets::new().with_default(LevelFilter::INFO));
    match stack.as_str() {
        "inbound-http" => inbound_http(requests).await,
        "inbound-grpc" => inbound_grpc(requests).await,
        "outbound" => outbound(requests).await,
        _ => panic!("the first argument is inbound-http, inbound-grpc or outbound"),
    }
}

/// The stack makes an id and a deadline, adds headers to the response, and logs an access line.
async fn inbound_http(requests: usize) {
    let router = Router::new().route("/", get(|| async { "Hello!" }));
    let request = || {
        Request::get("/")
            .header(HOST, "localhost")
            .body(Body::empty())
    };
    ask(requests, Listener::http(8080, router), request).await;
}

/// The stack takes the id and the deadline of the call. A successful gRPC call has no access line.
async fn inbound_grpc(requests: usize) {
    let answer = || async { [("content-type", "application/grpc"), ("grpc-status", "0")] };
    let router = Router::new().route("/", post(answer));
    let request = || {
        Request::post("/")
            .version(Version::HTTP_2)
            .header(CONTENT_TYPE, "application/grpc")
            .header(
                RequestId::GRPC_METADATA,
                "0a3a5b9c-95d4-4b2e-9a3c-0f6f1c2d3e4f",
            )
            .header(Deadline::GRPC_TIMEOUT, "9999m")
            .body(Body::empty())
    };
    let listener = Listener::grpc(50051, Grpc::from_router(router));
    ask(requests, listener, request).await;
}

/// Sends the requests one after the other, and reads each response to its end.
async fn ask(
    requests: usize,
    listener: Listener,
    request: impl Fn() -> http::Result<Request<Body>>,
) {
    let service = InMemory::new(&Config::default(), |_process| [listener]);
    let stack = service.expect("it is valid").stack(0);
    for _ in 0..requests {
        let request = request().expect("a request");
        let answer = stack.clone().oneshot(request).await.expect("a response");
        assert_eq!(answer.status(), 200);
        black_box(answer.into_body().collect().await.expect("a whole body"));
    }
}

/// Calls through a generated client and HTTP/2, to a peer that speaks just enough of it.
async fn outbound(requests: usize) {
    let (ours, theirs) = io::duplex(64 * 1_024);
    tokio::spawn(async { answer(theirs).await.expect("the client stays") });
    let target = "in-memory:1".parse().expect("a target");
    let channel = Channel::plain(
        &target,
        protos::FILE_DESCRIPTOR_SET,
        &client::Config::default(),
        DEADLINE,
    );
    let client = channel.with_io(ours);
    for _ in 0..requests {
        let mut service1 = Service1Client::new(client.clone());
        let name = ProcessNameRequest {
            name: "test".into(),
        };
        let context = Context::new(RequestId::fresh(), Deadline::after(DEADLINE));
        let answer = context.scope(service1.process_name(name)).await;
        assert_eq!(answer.expect("a response").into_inner().name, "TEST");
    }
}

/// Types and flags of HTTP/2 frames (RFC 9113, 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// Responds to each call with `TEST`.
async fn answer(mut io: DuplexStream) -> io::Result<()> {
    let mut preface = [0; 24];
    io.read_exact(&mut preface).await?;
    io.write_all(&frame(SETTINGS, 0, [0; 4], b"")).await?;
    let mut payload = Vec::new();
    loop {
        let mut head = [0; 9];
        io.read_exact(&mut head).await?;
        let [a, b, c, kind, flags, stream @ ..] = head;
        payload.resize(u32::from_be_bytes([0, a, b, c]) as usize, 0);
        io.read_exact(&mut payload).await?;
        if kind == SETTINGS && flags & ACK == 0 {
            io.write_all(&frame(SETTINGS, ACK, stream, b"")).await?;
        }
        if kind == DATA && flags & END_STREAM != 0 {
            let answer = [
                // `:status: 200`, and `content-type`: name 31 of the static table, literal value.
                frame(
                    HEADERS,
                    END_HEADERS,
                    stream,
                    b"\x88\x0f\x10\x10application/grpc",
                ),
                frame(DATA, 0, stream, b"\0\0\0\0\x06\x0a\x04TEST"),
                frame(
                    HEADERS,
                    END_HEADERS | END_STREAM,
                    stream,
                    b"\0\x0bgrpc-status\x010",
                ),
            ];
            io.write_all(&answer.concat()).await?;
        }
    }
}

fn frame(kind: u8, flags: u8, stream: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).expect("these are short");
    let mut frame = vec![0, 0, length, kind, flags];
    frame.extend(stream);
    frame.extend(payload);
    frame
}
