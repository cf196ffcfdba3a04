//! The cases of a client, by gRPC's
//! [descriptions](https://github.com/grpc/grpc/blob/master/doc/interop-test-descriptions.md). A
//! failure is a panic.

use std::{pin::Pin, time::Duration};

use common::{Context, Deadline};
use futures_util::{Stream, StreamExt, future::join_all, stream};
use tokio::time::{sleep, timeout};
use tonic::{
    Code, Request, Response, Status, Streaming, codec::CompressionEncoding, metadata::MetadataValue,
};

use super::{
    peers::{Connect, DEADLINE, Service},
    proto::grpc::testing::{
        BoolValue, EchoStatus, Empty, Payload, ResponseParameters, SimpleRequest, SimpleResponse,
        StreamingInputCallRequest, StreamingOutputCallRequest, StreamingOutputCallResponse,
        test_service_client::TestServiceClient,
        unimplemented_service_client::UnimplementedServiceClient,
    },
    service::{ECHO_INITIAL, ECHO_TRAILING},
};

/// A case.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// The name of the case in gRPC's descriptions.
    pub name: &'static str,
    /// The number of calls that reach a server.
    pub calls: usize,
    run: fn(&Connect) -> Run<'_>,
}

type Run<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

/// A table of cases, each a function of this file with the number of its calls.
macro_rules! cases {
    ($($name:ident: $calls:expr),* $(,)?) => {
        [$(Case { name: stringify!($name), calls: $calls, run: |connect| Box::pin($name(connect)) }),*]
    };
}

/// All cases.
pub const ALL: [Case; 21] = cases![
    empty_unary: 1,
    large_unary: 1,
    client_streaming: 1,
    server_streaming: 1,
    ping_pong: 1,
    empty_stream: 1,
    timeout_on_sleeping_server: 1,
    cancel_after_begin: 1,
    cancel_after_first_response: 1,
    custom_metadata: 2,
    status_code_and_message: 2,
    special_status_message: 1,
    unimplemented_method: 1,
    unimplemented_service: 1,
    compression_probe: 2,
    client_compressed_unary: 2,
    server_compressed_unary: 2,
    client_compressed_streaming: 1,
    server_compressed_streaming: 2,
    concurrent_calls: MANY,
    concurrent_channels: MANY,
];

/// Runs a case as part of the request with this id.
///
/// # Panics
///
/// When the case fails, or the id is invalid.
pub async fn run(case: &Case, id: &str, connect: &Connect) {
    let id = id.parse().expect("an id");
    let context = Context::new(id, Deadline::after(DEADLINE));
    context.scope((case.run)(connect)).await;
}

const MANY: usize = 1_000;
const LARGE_REQUEST: usize = 271_828;
const LARGE_RESPONSE: i32 = 314_159;
const REQUESTS: [usize; 4] = [27_182, 8, 1_828, 45_904];
const RESPONSES: [i32; 4] = [31_415, 9, 2_653, 58_979];

/// Long enough for a call to be on its way.
const UNDER_WAY: Duration = Duration::from_millis(100);

fn client(connect: &Connect) -> TestServiceClient<Service> {
    TestServiceClient::new(connect())
}

fn payload(size: usize) -> Payload {
    let body = vec![0; size];
    Payload { body }
}

const YES: Option<BoolValue> = Some(BoolValue { value: true });

fn large() -> SimpleRequest {
    SimpleRequest {
        response_size: LARGE_RESPONSE,
        payload: Some(payload(LARGE_REQUEST)),
        ..SimpleRequest::default()
    }
}

fn check_large(response: &SimpleResponse) {
    assert_eq!(size(response.payload.as_ref()), LARGE_RESPONSE);
}

fn size(payload: Option<&Payload>) -> i32 {
    payload.map_or(-1, |payload| {
        i32::try_from(payload.body.len()).expect("shorter")
    })
}

fn input(size: usize) -> StreamingInputCallRequest {
    StreamingInputCallRequest {
        payload: Some(payload(size)),
        expect_compressed: None,
    }
}

/// A request of a stream for one response.
fn output(request: usize, response: i32) -> StreamingOutputCallRequest {
    let parameters = ResponseParameters {
        size: response,
        ..ResponseParameters::default()
    };
    StreamingOutputCallRequest {
        response_parameters: vec![parameters],
        payload: Some(payload(request)),
        response_status: None,
    }
}

async fn next(responses: &mut Streaming<StreamingOutputCallResponse>) -> i32 {
    let response = responses.message().await.expect("a response");
    size(response.expect("one more").payload.as_ref())
}

async fn check_end(responses: &mut Streaming<StreamingOutputCallResponse>) {
    assert_eq!(responses.message().await.expect("the end"), None);
}

async fn empty_unary(connect: &Connect) {
    let response = client(connect).empty_call(Empty {}).await;
    assert_eq!(response.expect("a response").into_inner(), Empty {});
}

async fn large_unary(connect: &Connect) {
    let response = client(connect).unary_call(large()).await;
    check_large(response.expect("a response").get_ref());
}

async fn client_streaming(connect: &Connect) {
    let requests = stream::iter(REQUESTS.map(input));
    let response = client(connect).streaming_input_call(requests).await;
    let sum = response.expect("a response").into_inner();
    assert_eq!(sum.aggregated_payload_size, 74_922);
}

async fn server_streaming(connect: &Connect) {
    let parameters = RESPONSES.map(|size| ResponseParameters {
        size,
        ..ResponseParameters::default()
    });
    let request = StreamingOutputCallRequest {
        response_parameters: parameters.into(),
        ..StreamingOutputCallRequest::default()
    };
    let responses = client(connect).streaming_output_call(request).await;
    let mut responses = responses.expect("a response").into_inner();
    for size in RESPONSES {
        assert_eq!(next(&mut responses).await, size);
    }
    check_end(&mut responses).await;
}

/// A stream of requests that are sent one by one.
fn requests<T: Send + 'static>() -> (
    tokio::sync::mpsc::UnboundedSender<T>,
    impl Stream<Item = T> + Send,
) {
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
    let requests = stream::unfold(receiver, async |mut receiver| {
        let request = receiver.recv().await?;
        Some((request, receiver))
    });
    (sender, requests)
}

async fn ping_pong(connect: &Connect) {
    let (sender, requests) = requests();
    // The head must come although the server has no message to respond to yet.
    let responses = client(connect).full_duplex_call(requests).await;
    let mut responses = responses.expect("a response").into_inner();
    for (request, response) in REQUESTS.into_iter().zip(RESPONSES) {
        sender.send(output(request, response)).expect("it is read");
        assert_eq!(next(&mut responses).await, response);
    }
    drop(sender);
    check_end(&mut responses).await;
}

async fn empty_stream(connect: &Connect) {
    let responses = client(connect).full_duplex_call(stream::empty()).await;
    check_end(responses.expect("a response").get_mut()).await;
}

async fn timeout_on_sleeping_server(connect: &Connect) {
    let mut request = output(27_182, 31_415);
    request.response_parameters[0].interval_us = 60_000_000;
    let mut request = Request::new(stream::iter([request]).chain(stream::pending()));
    request.set_timeout(UNDER_WAY);
    let responses = client(connect).full_duplex_call(request).await;
    let end = match responses {
        Ok(mut responses) => responses.get_mut().message().await.map(drop),
        Err(status) => Err(status),
    };
    assert_eq!(end.expect_err("no response").code(), Code::DeadlineExceeded);
}

async fn cancel_after_begin(connect: &Connect) {
    let mut client = client(connect);
    let call = client.streaming_input_call(stream::pending());
    let response = timeout(UNDER_WAY, call).await;
    assert!(response.is_err(), "there is none yet: {response:?}");
}

async fn cancel_after_first_response(connect: &Connect) {
    let requests = stream::iter([output(27_182, 31_415)]).chain(stream::pending());
    let responses = client(connect).full_duplex_call(requests).await;
    let mut responses = responses.expect("a response").into_inner();
    assert_eq!(next(&mut responses).await, 31_415);
}

async fn custom_metadata(connect: &Connect) {
    const INITIAL: &str = "test_initial_metadata_value";
    const TRAILING: &[u8] = &[0xAB, 0xAB, 0xAB];
    fn with_metadata<T>(message: T) -> Request<T> {
        let mut request = Request::new(message);
        let metadata = request.metadata_mut();
        metadata.insert(ECHO_INITIAL, INITIAL.parse().expect("ASCII"));
        metadata.insert_bin(ECHO_TRAILING, MetadataValue::from_bytes(TRAILING));
        request
    }
    fn check_initial<T>(response: &Response<T>) {
        assert_eq!(response.metadata().get(ECHO_INITIAL).expect("it"), INITIAL);
    }
    let response = client(connect).unary_call(with_metadata(large())).await;
    let response = response.expect("a response");
    check_initial(&response);
    let trailing = response.metadata().get_bin(ECHO_TRAILING);
    assert_eq!(trailing.expect("it").to_bytes().expect("bytes"), TRAILING);

    let requests = stream::iter([output(27_182, 31_415)]);
    let response = client(connect)
        .full_duplex_call(with_metadata(requests))
        .await;
    let mut response = response.expect("a response");
    check_initial(&response);
    assert_eq!(next(response.get_mut()).await, 31_415);
    check_end(response.get_mut()).await;
    let trailers = response
        .get_mut()
        .trailers()
        .await
        .expect("trailers")
        .expect("some");
    let trailing = trailers.get_bin(ECHO_TRAILING);
    assert_eq!(trailing.expect("it").to_bytes().expect("bytes"), TRAILING);
}

fn failing(message: &str) -> EchoStatus {
    EchoStatus {
        code: Code::Unknown as i32,
        message: message.to_owned(),
    }
}

fn check_failure(status: &Status, message: &str) {
    assert_eq!((status.code(), status.message()), (Code::Unknown, message));
}

async fn unary_failure(connect: &Connect, message: &str) {
    let request = SimpleRequest {
        response_status: Some(failing(message)),
        ..SimpleRequest::default()
    };
    let status = client(connect)
        .unary_call(request)
        .await
        .expect_err("a failure");
    check_failure(&status, message);
}

async fn status_code_and_message(connect: &Connect) {
    const MESSAGE: &str = "test status message";
    unary_failure(connect, MESSAGE).await;
    let request = StreamingOutputCallRequest {
        response_status: Some(failing(MESSAGE)),
        ..StreamingOutputCallRequest::default()
    };
    let responses = client(connect)
        .full_duplex_call(stream::iter([request]))
        .await;
    let status = match responses {
        Ok(mut responses) => responses.get_mut().message().await.map(drop),
        Err(status) => Err(status),
    };
    check_failure(&status.expect_err("a failure"), MESSAGE);
}

async fn special_status_message(connect: &Connect) {
    const MESSAGE: &str =
        "\t\ntest with whitespace\r\nand Unicode BMP \u{263A} and non-BMP \u{1F608}\t\n";
    unary_failure(connect, MESSAGE).await;
}

async fn unimplemented_method(connect: &Connect) {
    let status = client(connect).unimplemented_call(Empty {}).await;
    assert_eq!(status.expect_err("a failure").code(), Code::Unimplemented);
}

async fn unimplemented_service(connect: &Connect) {
    let mut client = UnimplementedServiceClient::new(connect());
    let status = client.unimplemented_call(Empty {}).await;
    assert_eq!(status.expect_err("a failure").code(), Code::Unimplemented);
}

fn compressed_unary() -> SimpleRequest {
    SimpleRequest {
        expect_compressed: YES,
        ..large()
    }
}

fn compressed_stream() -> [StreamingInputCallRequest; 2] {
    let first = StreamingInputCallRequest {
        expect_compressed: YES,
        ..input(27_182)
    };
    [first, input(45_904)]
}

/// The beginning of gRPC's two cases of compressing clients: a server that sees compression refuses
/// a request that should be compressed and is not.
async fn compression_probe(connect: &Connect) {
    let mut client = client(connect);
    let unary = client.unary_call(compressed_unary()).await;
    assert_eq!(unary.expect_err("a refusal").code(), Code::InvalidArgument);
    let stream = stream::iter(compressed_stream());
    let stream = client.streaming_input_call(stream).await;
    assert_eq!(stream.expect_err("a refusal").code(), Code::InvalidArgument);
}

async fn client_compressed_unary(connect: &Connect) {
    let mut compressing = client(connect).send_compressed(CompressionEncoding::Gzip);
    let response = compressing.unary_call(compressed_unary()).await;
    check_large(response.expect("a response").get_ref());
    let response = client(connect).unary_call(large()).await;
    check_large(response.expect("a response").get_ref());
}

fn is_compressed<T>(response: &Response<T>) -> bool {
    let encoding = response.metadata().get("grpc-encoding");
    encoding.is_some_and(|encoding| encoding == "gzip")
}

async fn server_compressed_unary(connect: &Connect) {
    let mut client = client(connect).accept_compressed(CompressionEncoding::Gzip);
    for response_compressed in [YES, None] {
        let request = SimpleRequest {
            response_compressed,
            ..large()
        };
        let response = client.unary_call(request).await.expect("a response");
        check_large(response.get_ref());
        // tonic names the encoding even where it sends its one message uncompressed.
        assert!(is_compressed(&response) || response_compressed.is_none());
    }
}

async fn client_compressed_streaming(connect: &Connect) {
    let mut compressing = client(connect).send_compressed(CompressionEncoding::Gzip);
    let requests = stream::iter(compressed_stream());
    let response = compressing.streaming_input_call(requests).await;
    let sum = response.expect("a response").into_inner();
    assert_eq!(sum.aggregated_payload_size, 73_086);
}

async fn server_compressed_streaming(connect: &Connect) {
    let mut client = client(connect).accept_compressed(CompressionEncoding::Gzip);
    for compressed in [YES, None] {
        let mut request = output(0, 31_415);
        request.response_parameters[0].compressed = compressed;
        let responses = client.streaming_output_call(request).await;
        let mut responses = responses.expect("a response");
        assert!(is_compressed(&responses) || compressed.is_none());
        assert_eq!(next(responses.get_mut()).await, 31_415);
        check_end(responses.get_mut()).await;
    }
}

/// As many calls at once over one connection as two connections have streams for.
async fn concurrent_calls(connect: &Connect) {
    let client = client(connect);
    let calls = (0..MANY).map(|_| client.clone()).map(async |mut client| {
        client.empty_call(Empty {}).await.expect("a response");
    });
    join_all(calls).await;
}

async fn concurrent_channels(connect: &Connect) {
    let calls = (0..MANY).map(async |_| empty_unary(connect).await);
    join_all(calls).await;
    // They close.
    sleep(UNDER_WAY).await;
}
