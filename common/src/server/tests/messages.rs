//! Request streams whose messages can't be decoded, and handlers that read on after it.

use std::sync::atomic::AtomicUsize;

use tonic::{Code, Status, Streaming, server::Grpc as Generated};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tower::service_fn;

use super::*;
use crate::client::ending::codec::Codec;

/// What a handler saw of a request stream, and the code that its client gets.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    messages: usize,
    errors: usize,
    code: Code,
}

/// Sends a request to a handler that takes no notice of errors.
async fn read(body: Body) -> Seen {
    let counts = [(); 2].map(|()| Arc::<AtomicUsize>::default());
    let seen = counts.clone();
    let handler = move |request: tonic::Request<Streaming<HealthCheckRequest>>| {
        let [messages, errors] = seen.clone();
        async move {
            let mut stream = request.into_inner();
            while let Some(item) = stream.next().await {
                let count = if item.is_ok() { &messages } else { &errors };
                assert!(count.fetch_add(1, Relaxed) < 1_000, "it reads for ever");
            }
            Ok::<_, Status>(tonic::Response::new(HealthCheckResponse::default()))
        }
    };
    let call = async move |request: Request<Body>| {
        let codec = Codec::<HealthCheckResponse, HealthCheckRequest>::default();
        let mut generated = Generated::new(codec);
        generated
            .client_streaming(service_fn(handler), request)
            .await
    };
    let router = Router::new().route("/a.Service/Read", post(call));
    let stack = in_memory(Listener::grpc(0, Grpc::from_router(router)), DEADLINE).stack(0);
    let request = Request::post("/a.Service/Read").header("content-type", "application/grpc");
    let response = stack.oneshot(request.body(body).unwrap()).await.unwrap();
    let (head, body) = response.into_parts();
    let body = body.collect().await.unwrap();
    let status = body.trailers().unwrap_or(&head.headers);
    let code = Code::from_bytes(status[Status::GRPC_STATUS].as_bytes());
    let [messages, errors] = counts.map(|count| count.load(Relaxed));
    Seen {
        messages,
        errors,
        code,
    }
}

const NAMED: &[u8] = &[0, 0, 0, 0, 3, 10, 1, b'a'];

/// The first varint is longer than any. prost fails before it takes anything of it.
const GARBAGE: &[u8] = &[
    0, 0, 0, 0, 11, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255,
];

#[tokio::test(start_paused = true)]
async fn a_handler_that_reads_on_after_an_error_comes_to_an_end() {
    for (errors, rest) in [
        (0, vec![NAMED]),
        (1, vec![GARBAGE]),
        // It gets none of what follows.
        (1, vec![GARBAGE, NAMED, GARBAGE, NAMED]),
        // Nobody has said that messages may be compressed.
        (1, vec![&[1, 0, 0, 0, 0]]),
        // tonic tells twice that a body has failed.
        (2, vec![&NAMED[..7]]),
        (2, vec![&NAMED[..1]]),
    ] {
        let messages = if rest == [NAMED] { 2 } else { 1 };
        let seen = Seen {
            messages,
            errors,
            code: Code::Ok,
        };
        let parts = [vec![NAMED], rest].concat();
        assert_eq!(read(Body::from(parts.concat())).await, seen, "{parts:?}");
        // Each in a frame of its own.
        let frames = stream::iter(parts.clone()).map(Ok::<_, Infallible>);
        assert_eq!(read(Body::from_stream(frames)).await, seen, "{parts:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_sends_garbage_for_ever_is_ended_at_its_deadline() {
    let parts = [NAMED, GARBAGE].map(Ok::<_, Infallible>);
    let garbage = stream::repeat_with(|| Ok(GARBAGE)).then(async |part| {
        tokio::time::sleep(DEADLINE / 10).await;
        part
    });
    let seen = Seen {
        messages: 1,
        errors: 1,
        code: Code::DeadlineExceeded,
    };
    let body = Body::from_stream(stream::iter(parts).chain(garbage));
    assert_eq!(read(body).await, seen);
}
