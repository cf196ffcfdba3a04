//! Calls whose request is a stream.

use std::future::poll_fn;

use futures_util::stream;
use http_body::Frame;
use http_body_util::StreamBody;
use tokio::sync::{mpsc, oneshot};

use super::*;
use crate::{
    client::wire::request_body::Replay,
    request::context::{self, Context, Deadline},
};

const MESSAGE: Bytes = Bytes::from_static(b"message");
const SHORT: Duration = Duration::from_millis(50);

type Sender = mpsc::UnboundedSender<Result<Bytes, Status>>;

pub(crate) fn streaming<S>(messages: S) -> Request<RequestBody>
where
    S: futures_util::Stream<Item = Result<Bytes, Status>> + Send + 'static,
{
    let frames = futures_util::StreamExt::map(messages, |message| message.map(Frame::data));
    let body = tonic::body::Body::new(StreamBody::new(frames));
    let body = RequestBody::Stream(Replay::new(body, 64 * 1_024));
    Request::post("/a.Service/Method").body(body).unwrap()
}

/// A request whose messages come from a sender, which closes when the request is dropped.
fn channel() -> (Sender, Request<RequestBody>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let messages = stream::unfold(receiver, async |mut receiver| {
        Some((receiver.recv().await?, receiver))
    });
    (sender, streaming(messages))
}

async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    let in_time = timeout(PATIENCE, future).await;
    in_time.unwrap_or_else(|_| panic!("{what}: not in time"))
}

/// A connection whose other end runs `serve` for its first call, and the reason of the reset that
/// follows.
async fn reset_after<F>(
    serve: impl FnOnce(Request<RecvStream>, server::SendResponse<Bytes>) -> F + Send + 'static,
) -> (Arc<Connection>, oneshot::Receiver<Reason>)
where
    F: Future<Output = Held> + Send,
{
    let (reset, was_reset) = oneshot::channel();
    let connection = connection(async |mut streams| {
        let (request, response) = next(&mut streams).await;
        let served = async {
            let (_request, mut half) = serve(request, response).await;
            let reason = poll_fn(|cx| match &mut half {
                Half::Origin(response) => response.poll_reset(cx),
                Half::Body(body) => body.poll_reset(cx),
            });
            let _ = reset.send(reason.await.expect("the connection is there"));
            pending::<()>().await;
        };
        tokio::select! { () = drive(streams) => {}, () = served => {} }
    })
    .await;
    (connection, was_reset)
}

/// A call that is kept open: its request, and what is left of its response.
type Held = (Request<RecvStream>, Half);

enum Half {
    Origin(server::SendResponse<Bytes>),
    Body(h2::SendStream<Bytes>),
}

/// Sends the head of a response at once.
async fn head_at_once(
    request: Request<RecvStream>,
    mut response: server::SendResponse<Bytes>,
) -> Held {
    let body = response.send_response(Response::new(()), false).unwrap();
    (request, Half::Body(body))
}

async fn nothing(request: Request<RecvStream>, response: server::SendResponse<Bytes>) -> Held {
    (request, Half::Origin(response))
}

/// Sends a whole response without reading the request.
async fn early(request: Request<RecvStream>, mut response: server::SendResponse<Bytes>) -> Held {
    let mut body = response.send_response(Response::new(()), false).unwrap();
    body.send_data(MESSAGE, false).unwrap();
    let status = HeaderMap::from_iter([(Status::GRPC_STATUS, HeaderValue::from(0))]);
    body.send_trailers(status).unwrap();
    (request, Half::Body(body))
}

async fn status_of_body(response: Response<ResponseBody>) -> Status {
    let body = soon("the body", response.into_body().collect()).await;
    body.unwrap_err().into_status()
}

#[tokio::test]
async fn an_attempt_up_to_the_head_leaves_both_streams_open() {
    let connection = connection(async |mut streams| {
        let (request, mut response) = next(&mut streams).await;
        let mut body = response.send_response(Response::new(()), false).unwrap();
        let echo = async {
            let mut messages = request.into_body();
            while let Some(message) = messages.data().await {
                body.send_data(message.unwrap(), false).unwrap();
            }
            body.send_trailers(HeaderMap::new()).unwrap();
            pending::<()>().await;
        };
        tokio::select! { () = drive(streams) => {}, () = echo => {} }
    })
    .await;
    let (sender, request) = channel();
    let response = soon("the head", connection.attempt(request, ReadUntil::Head)).await;
    let mut body = response.unwrap().into_body();
    for _ in 0..3 {
        sender.send(Ok(MESSAGE)).unwrap();
        let frame = soon("an echo", body.frame()).await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), MESSAGE);
    }
    drop(sender);
    let end = soon("the end", body.frame()).await.unwrap().unwrap();
    assert!(end.is_trailers());
}

#[tokio::test]
async fn only_an_attempt_up_to_the_first_frame_waits_beyond_the_head() {
    let (connection, _) = reset_after(head_at_once).await;
    let (_sender, request) = channel();
    let attempt = connection.attempt(request, ReadUntil::FirstFrame);
    assert!(timeout(SHORT, attempt).await.is_err());
}

#[tokio::test]
async fn no_more_messages_are_read_than_the_other_end_takes() {
    const WINDOW: u32 = 1_000;
    let (ours, theirs) = duplex(64 * 1_024);
    let (go_on, may_go_on) = oneshot::channel::<()>();
    let server = tokio::spawn(async move {
        let mut small = server::Builder::new();
        let streams = small.initial_window_size(WINDOW).handshake(theirs).await;
        let mut streams: Streams = streams.unwrap();
        let (request, mut response) = next(&mut streams).await;
        let read = async {
            may_go_on.await.unwrap();
            let mut body = request.into_body();
            let mut size = 0;
            while let Some(data) = body.data().await {
                let read = data.unwrap().len();
                body.flow_control().release_capacity(read).unwrap();
                size += read;
            }
            response.send_response(Response::new(()), true).unwrap();
            size
        };
        let read = async {
            let size = read.await;
            let _ = timeout(SHORT, pending::<()>()).await;
            size
        };
        tokio::select! { () = drive(streams) => unreachable!(), size = read => size }
    });
    let head = Origin::in_memory(RequestIdNames::Both);
    let connection = Connection::with_io(ours, head, Arc::default())
        .await
        .unwrap();
    let pulled = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let messages = {
        let pulled = pulled.clone();
        stream::iter((0..100).map(move |_| {
            pulled.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            Ok(Bytes::from_static(&[0; 100]))
        }))
    };
    let pulled = || pulled.load(std::sync::atomic::Ordering::Relaxed);
    let attempt = connection.attempt(streaming(messages), ReadUntil::Head);
    let mut attempt = std::pin::pin!(attempt);
    assert!(timeout(SHORT, attempt.as_mut()).await.is_err());
    // Before the settings of the other end come, its window is the default one.
    assert!(
        (10..=11).contains(&pulled()) || pulled() == 100,
        "{}",
        pulled()
    );
    go_on.send(()).unwrap();
    assert!(soon("the response", attempt).await.is_ok());
    assert_eq!((pulled(), server.await.unwrap()), (100, 10_000));
}

#[tokio::test]
async fn an_early_response_ends_the_request() {
    let (connection, was_reset) = reset_after(early).await;
    let (sender, request) = channel();
    sender.send(Ok(MESSAGE)).unwrap();
    let response = soon(
        "the head",
        connection.attempt(request, ReadUntil::FirstFrame),
    )
    .await;
    let body = response.unwrap().into_body();
    let body = soon("the body", body.collect()).await.unwrap();
    assert_eq!(body.trailers().unwrap()[Status::GRPC_STATUS], "0");
    assert_eq!(body.to_bytes(), MESSAGE);
    soon("the request stream", sender.closed()).await;
    assert_eq!(soon("the reset", was_reset).await, Ok(Reason::CANCEL));
}

#[tokio::test]
async fn a_response_is_whole_when_its_server_wants_no_more_of_the_request() {
    let (connection, _) = reset_after(async |request, response| {
        let (request, Half::Body(mut body)) = early(request, response).await else {
            unreachable!()
        };
        // Once the response has left.
        tokio::time::sleep(SHORT).await;
        body.send_reset(Reason::NO_ERROR);
        (request, Half::Body(body))
    })
    .await;
    let (sender, request) = channel();
    let response = soon("the head", connection.attempt(request, ReadUntil::Head)).await;
    // The end of the request stream must not wait for a reader of the response.
    soon("the request stream", sender.closed()).await;
    let body = response.unwrap().into_body();
    let body = soon("the body", body.collect()).await.unwrap();
    assert_eq!(body.to_bytes(), MESSAGE);
}

#[tokio::test]
async fn a_dropped_call_is_reset_at_once_at_any_stage() {
    // Before the head.
    let (connection, was_reset) = reset_after(nothing).await;
    let (sender, request) = channel();
    let attempt = connection.attempt(request, ReadUntil::Head);
    assert!(timeout(SHORT, attempt).await.is_err());
    soon("the request stream", sender.closed()).await;
    assert_eq!(soon("the reset", was_reset).await, Ok(Reason::CANCEL));

    // Before the first message.
    let (connection, was_reset) = reset_after(head_at_once).await;
    let (sender, request) = channel();
    let attempt = connection.attempt(request, ReadUntil::FirstFrame);
    assert!(timeout(SHORT, attempt).await.is_err());
    soon("the request stream", sender.closed()).await;
    assert_eq!(soon("the reset", was_reset).await, Ok(Reason::CANCEL));

    // In the middle of the response, read or not.
    for reads in [false, true] {
        let (connection, was_reset) = reset_after(head_at_once).await;
        let (sender, request) = channel();
        let response = connection.attempt(request, ReadUntil::Head).await.unwrap();
        let mut body = response.into_body();
        if reads {
            assert!(timeout(SHORT, body.frame()).await.is_err());
        }
        assert!(!sender.is_closed());
        drop(body);
        soon("the request stream", sender.closed()).await;
        assert_eq!(soon("the reset", was_reset).await, Ok(Reason::CANCEL));
    }
}

#[tokio::test]
async fn a_dropped_call_that_waits_for_room_is_reset() {
    let (connection, was_reset) = reset_after(nothing).await;
    let large = stream::repeat_with(|| Ok(Bytes::from(vec![0; 100_000])));
    let attempt = connection.attempt(streaming(large), ReadUntil::Head);
    assert!(timeout(SHORT, attempt).await.is_err());
    assert_eq!(soon("the reset", was_reset).await, Ok(Reason::CANCEL));
}

#[tokio::test]
async fn the_failure_of_a_request_stream_is_that_of_its_call() {
    let failure = || Status::out_of_range("too large to encode");
    // Before the head.
    let (connection, was_reset) = reset_after(nothing).await;
    let (sender, request) = channel();
    sender.send(Ok(MESSAGE)).unwrap();
    sender.send(Err(failure())).unwrap();
    let end = soon("the end", connection.attempt(request, ReadUntil::Head)).await;
    assert_eq!(end.unwrap_err().ending, Ending::Request(Code::OutOfRange));
    assert_eq!(soon("the reset", was_reset).await, Ok(Reason::CANCEL));

    // After it.
    let (connection, was_reset) = reset_after(head_at_once).await;
    let (sender, request) = channel();
    let response = connection.attempt(request, ReadUntil::Head).await.unwrap();
    sender.send(Err(failure())).unwrap();
    let status = status_of_body(response).await;
    assert_eq!(status.code(), Code::OutOfRange);
    assert_eq!(soon("the reset", was_reset).await, Ok(Reason::CANCEL));
}

#[tokio::test]
async fn a_panic_in_a_request_stream_is_a_failure() {
    let (connection, was_reset) = reset_after(nothing).await;
    let messages = stream::once(async { panic!("in the request stream") });
    let end = connection.attempt(streaming(messages), ReadUntil::Head);
    let failure = soon("the end", end).await.unwrap_err();
    assert_eq!(failure.into_status().code(), Code::Internal);
    assert_eq!(soon("the reset", was_reset).await, Ok(Reason::CANCEL));
}

#[tokio::test]
async fn a_request_stream_has_the_context_of_its_call_and_ends_with_it() {
    let (connection, was_reset) = reset_after(head_at_once).await;
    let (sender, ids) = std::sync::mpsc::channel();
    let messages = stream::unfold(sender, async |sender| {
        tokio::time::sleep(Duration::from_millis(10)).await;
        let context = context::current().expect("that of the call");
        sender.send(context.request_id().to_string()).unwrap();
        Some((Ok(MESSAGE), sender))
    });
    let deadline = Deadline::after(Duration::from_millis(200));
    let call = Context::new("the-request".parse().unwrap(), deadline);
    let attempt = call.scope(connection.attempt(streaming(messages), ReadUntil::Head));
    // Nobody reads the response.
    let _response = attempt.await.unwrap();
    assert_eq!(soon("the reset", was_reset).await, Ok(Reason::CANCEL));
    assert_eq!(deadline.remaining(), None);
    let ids: Vec<_> = ids.iter().collect();
    assert!((1..=20).contains(&ids.len()), "{}", ids.len());
    assert!(ids.iter().all(|id| id == "the-request"));
}

#[tokio::test]
async fn a_stream_that_is_always_ready_lets_others_run() {
    let connection = connection(async |mut streams| {
        let (request, response) = next(&mut streams).await;
        let read = async {
            let mut body = request.into_body();
            while let Some(Ok(data)) = body.data().await {
                body.flow_control().release_capacity(data.len()).unwrap();
            }
            drop(response);
        };
        tokio::select! { () = drive(streams) => {}, () = read => {} }
    })
    .await;
    let endless = stream::repeat_with(|| Ok(Bytes::from_static(&[0; 1_000])));
    let attempt = connection.attempt(streaming(endless), ReadUntil::Head);
    assert!(timeout(SHORT, attempt).await.is_err(), "the timer is heard");
}
