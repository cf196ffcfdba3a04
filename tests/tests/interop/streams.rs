//! Calls as two streams with a common fate, between a client and a server of `common` unless a
//! test says otherwise.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use common::{Context, Deadline, context};
use futures_util::{Stream, StreamExt, stream};
use tests::{
    Process,
    testing::{
        peers::{self, DEADLINE, Service},
        proto::{
            calls::{Chunk, calls_client::CallsClient},
            grpc::testing::{Empty, unimplemented_service_client::UnimplementedServiceClient},
        },
    },
};
use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};
use tonic::{Code, Request};

use super::{access_lines, service};

fn client(service: &Process) -> CallsClient<Service> {
    CallsClient::new(peers::ours(&service.grpc().to_string())())
}

fn chunk(size: usize) -> Chunk {
    let bytes = vec![0; size];
    Chunk { bytes }
}

/// Runs `call` as part of the request with this id.
async fn as_request<F: Future>(id: &str, call: F) -> F::Output {
    let id = id.parse().expect("an id");
    Context::new(id, Deadline::after(DEADLINE))
        .scope(call)
        .await
}

/// A stream without messages. The count of its handle is the count of such streams.
fn silent(alive: &Arc<()>) -> impl Stream<Item = Chunk> + Send + 'static {
    let alive = alive.clone();
    stream::poll_fn(move |_| {
        let _ = &alive;
        std::task::Poll::Pending
    })
}

/// Waits until only the test has the handle.
async fn released(alive: &Arc<()>) {
    let wait = async {
        while Arc::strong_count(alive) > 1 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(DEADLINE / 2, wait).await.expect("it is dropped");
}

#[tokio::test]
async fn an_idempotent_chat_has_its_head_before_its_first_message() {
    let service = service(&[]);
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let messages = stream::unfold(receiver, async |mut receiver| {
        Some((receiver.recv().await?, receiver))
    });
    let responses = client(&service).chat(messages).await;
    let mut responses = responses.expect("the head").into_inner();
    // Far more than the client keeps for another attempt.
    for _ in 0..100 {
        sender.send(chunk(8_192)).await.expect("it is sent");
        let back = responses.message().await.expect("a response");
        assert_eq!(back, Some(chunk(8_192)));
    }
    drop(sender);
    assert_eq!(responses.message().await.expect("the end"), None);
}

#[tokio::test]
async fn an_idempotent_upload_may_be_longer_than_any_buffer() {
    let service = service(&[]);
    let chunks = stream::iter((0..200).map(|_| chunk(1024 * 1024)));
    let total = client(&service).upload(chunks).await.expect("a response");
    assert_eq!(total.get_ref().bytes, 200 * 1024 * 1024);
}

#[tokio::test]
async fn a_call_that_is_dropped_ends_at_the_server_while_its_stream_is_silent() {
    let service = service(&[("DEADLINE", "1m")]);
    let alive = Arc::new(());
    let mut client = client(&service);
    let response = as_request("response", client.chat(silent(&alive))).await;
    drop(response.expect("the head"));
    let call = as_request("call", client.upload(silent(&alive)));
    timeout(Duration::from_millis(100), call)
        .await
        .expect_err("no response yet");
    released(&alive).await;
    for id in ["response", "call"] {
        let line = &access_lines(&service, id, 1).await[0];
        assert_eq!(line.text("grpc_code"), "CANCELLED", "{id}");
    }
}

#[tokio::test]
async fn nothing_is_pulled_after_the_end_of_the_call() {
    let service = service(&[]);
    let pulled = Arc::new(AtomicUsize::new(0));
    let chunks = {
        let pulled = pulled.clone();
        stream::repeat(()).then(move |()| {
            pulled.fetch_add(1, Relaxed);
            async {
                sleep(Duration::from_millis(5)).await;
                chunk(1)
            }
        })
    };
    let mut request = Request::new(chunks);
    request.set_timeout(Duration::from_millis(200));
    let end = client(&service).upload(request).await;
    assert_eq!(end.expect_err("too late").code(), Code::DeadlineExceeded);
    let at_the_end = pulled.load(Relaxed);
    assert!(at_the_end > 0);
    sleep(Duration::from_millis(200)).await;
    assert_eq!(pulled.load(Relaxed), at_the_end);
}

#[tokio::test]
async fn a_panic_in_a_request_stream_fails_its_own_call_only() {
    let service = service(&[("DEADLINE", "1m")]);
    let mut client = client(&service);
    let chunks = stream::iter([1, 0]).map(|size| {
        assert!(size > 0, "the stream panics");
        chunk(size)
    });
    let end = as_request("panics", client.upload(chunks)).await;
    assert_eq!(end.expect_err("a failure").code(), Code::Internal);
    access_lines(&service, "panics", 1).await;
    let log = service.log_of("panics");
    assert!(
        !log.iter()
            .any(|line| line.has(&[("action", "upload"), ("status", "success")]))
    );
    client
        .upload(stream::empty())
        .await
        .expect("the next is well");
}

#[tokio::test]
async fn an_early_response_releases_a_silent_stream() {
    let service = service(&[]);
    let alive = Arc::new(());
    let connect = peers::ours(&service.grpc().to_string());
    let mut unserved = UnimplementedServiceClient::new(connect());
    let end = unserved.unimplemented_call(Empty {}).await;
    assert_eq!(end.expect_err("a failure").code(), Code::Unimplemented);
    // The same with a stream, for which the generated client has no method.
    let mut client = tonic::client::Grpc::new(connect());
    client.ready().await.expect("it is");
    let path = "/testing.Nobody/Upload".parse().expect("a path");
    let codec = tonic_prost::ProstCodec::<Chunk, Chunk>::default();
    let end = client
        .client_streaming(Request::new(silent(&alive)), path, codec)
        .await;
    assert_eq!(end.expect_err("a failure").code(), Code::Unimplemented);
    released(&alive).await;
}

#[tokio::test]
async fn a_request_stream_has_the_context_of_its_caller() {
    let service = service(&[]);
    let ids = stream::repeat_with(|| Chunk {
        bytes: context::with_request_id(|id| id.as_bytes().to_vec()),
    });
    let mut client = client(&service);
    let responses = as_request("the-caller", client.chat(ids.take(3))).await;
    let responses = responses.expect("the head").into_inner();
    let ids: Vec<_> = responses
        .map(|chunk| chunk.expect("whole").bytes)
        .collect()
        .await;
    assert_eq!(ids, vec![b"the-caller".to_vec(); 3]);
}

/// tonic treats a cancelled request stream as a complete one.
#[tokio::test]
async fn a_reset_upload_never_looks_complete_to_its_handler() {
    let service = service(&[]);
    let connection = TcpStream::connect(service.grpc())
        .await
        .expect("it listens");
    let (mut client, connection) = h2::client::handshake(connection).await.expect("HTTP/2");
    tokio::spawn(connection);
    for round in 0..20 {
        let id = format!("reset-{round}");
        let request = http::Request::post("http://test/testing.Calls/Upload")
            .header("content-type", "application/grpc")
            .header("request_id", &id)
            .body(())
            .expect("a request");
        let (response, mut body) = client.send_request(request, false).expect("it is sent");
        let empty_message = Bytes::from_static(&[0; 5]);
        body.send_data(empty_message, false).expect("it is sent");
        // Sometimes together with the message, sometimes after it.
        sleep(Duration::from_millis(round % 4)).await;
        body.send_reset(h2::Reason::CANCEL);
        drop(response);
        let line = &access_lines(&service, &id, 1).await[0];
        assert_eq!(line.text("grpc_code"), "CANCELLED");
        assert_eq!(line.number("level"), Some(30.0));
        let log = service.log_of(&id);
        assert!(
            !log.iter()
                .any(|line| line.has(&[("action", "upload"), ("status", "success")]))
        );
    }
}
