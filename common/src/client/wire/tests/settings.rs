//! What the settings of h2 protect, and what they must not hurt.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use futures_util::future::join_all;
use tokio::{sync::oneshot, time::sleep};

use super::raw::{DATA, HEADERS, RST_STREAM, WINDOW_UPDATE, raw};
use super::*;
use crate::{
    client::{ending::judgement::Judgement, wire::activity::Closed},
    limits,
};

const INITIAL_WINDOW_SIZE: u16 = 4;

async fn attempt(connection: &Arc<Connection>) -> Result<Response<ResponseBody>, Failure> {
    connection.attempt(request(), ReadUntil::FirstFrame).await
}

/// Responds to one call after the other with a head and trailers of about this many bytes.
async fn long_responses(mut streams: Streams, head: usize, trailers: usize) {
    let long = |bytes| HeaderValue::from_bytes(&vec![b'a'; bytes]).unwrap();
    let send = async |mut stream: Stream| {
        let mut response = Response::new(());
        response.headers_mut().insert("x-long", long(head));
        let Ok(mut body) = stream.1.send_response(response, false) else {
            return;
        };
        let mut last = HeaderMap::new();
        last.insert(Status::GRPC_STATUS, HeaderValue::from_static("5"));
        last.insert("x-long", long(trailers));
        let _ = body.send_trailers(last);
    };
    while let Some(Ok(stream)) = streams.accept().await {
        send(stream).await;
    }
}

#[tokio::test]
async fn a_response_head_over_the_limit_fails_its_call_alone() {
    let long = 2 * limits::RESPONSE_HEAD as usize;
    let connection = connection(async move |mut streams| {
        // Alone, and with trailers to follow.
        let mut open = Vec::new();
        for is_all in [true, false] {
            let (_, mut response) = next(&mut streams).await;
            let mut head = Response::new(());
            let value = HeaderValue::from_bytes(&vec![b'a'; long]).unwrap();
            head.headers_mut().insert("x-long", value);
            open.push(response.send_response(head, is_all).unwrap());
        }
        respond(next(&mut streams).await);
        drive(streams).await;
    })
    .await;
    for _ in 0..2 {
        let failure = attempt(&connection).await.unwrap_err();
        // Not `Refused`: this side has reset the call, which was processed.
        assert_eq!(failure.ending, Ending::Invalid(Reason::PROTOCOL_ERROR));
        let judgement = failure.ending.class().judgement;
        assert_eq!(
            judgement,
            Judgement::Ambiguous,
            "the caller may have asked for it"
        );
        assert_eq!(failure.into_status().code(), Code::Internal);
    }
    assert!(attempt(&connection).await.is_ok());
    assert!(!connection.activity.is_closed());
}

#[tokio::test]
async fn trailers_over_the_limit_keep_the_status_before_it() {
    let long = 2 * limits::RESPONSE_HEAD as usize;
    let connection = connection(move |streams| long_responses(streams, 1, long)).await;
    let body = attempt(&connection).await.unwrap().into_body();
    let trailers = body.collect().await.unwrap().trailers().cloned().unwrap();
    assert_eq!(trailers[Status::GRPC_STATUS], "5");
    assert!(!trailers.contains_key("x-long"));
}

#[tokio::test]
async fn a_head_of_over_four_times_the_limit_ends_the_connection() {
    let long = 5 * limits::RESPONSE_HEAD as usize;
    let connection = connection(move |streams| long_responses(streams, long, 1)).await;
    let failure = attempt(&connection).await.unwrap_err();
    assert_eq!(failure.into_status().code(), Code::Unavailable);
    assert_eq!(connection.activity.closed().await, Closed::Lost);
}

#[tokio::test]
async fn late_frames_of_calls_that_were_given_up_end_no_connection() {
    const MORE: usize = 1_500;
    let calls = limits::REMEMBERED_RESETS + MORE;
    let (connection, mut raw) = raw().await;
    raw.send_settings(&[]).await;
    let (arrived, all_arrived) = oneshot::channel();
    let replica = tokio::spawn(async move {
        let mut streams = Vec::new();
        // Each call is a head, its data and its reset.
        while streams.len() < calls {
            streams.push(raw.next_of(HEADERS).await.stream);
        }
        arrived.send(()).unwrap();
        for _ in 0..calls {
            raw.next_of(RST_STREAM).await;
        }
        let mut answered = 0;
        for stream in streams {
            raw.respond(stream).await;
        }
        // The resets that answer the late frames come before the next call.
        let next = loop {
            let frame = raw.next().await;
            match frame.kind {
                RST_STREAM => answered += 1,
                HEADERS => break frame.stream,
                _ => {}
            }
        };
        raw.respond(next).await;
        (answered, raw)
    });
    let given_up = join_all((0..calls).map(|_| attempt(&connection)));
    tokio::select! {
        _ = given_up => unreachable!("there are no responses"),
        all = timeout(PATIENCE, all_arrived) => all.unwrap().unwrap(),
    }
    let responded = async {
        while connection.activity.counts().reads < 3 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, responded).await.unwrap();
    let next = timeout(PATIENCE, attempt(&connection)).await;
    assert!(next.expect("in time").is_ok());
    let (answered, _raw) = replica.await.unwrap();
    assert!(answered <= MORE, "{answered} late frames were answered");
    assert!(!connection.activity.is_closed());
}

#[tokio::test]
async fn an_upload_holds_little_memory_for_a_replica_that_does_not_read() {
    const MESSAGE: usize = 8 * 1_024;
    let (connection, mut raw) = raw().await;
    raw.send_settings(&[(INITIAL_WINDOW_SIZE, 1 << 20)]).await;
    let more = (1_u32 << 20).to_be_bytes();
    raw.send(WINDOW_UPDATE, 0, 0, &more).await;
    let pulled = Arc::new(AtomicUsize::new(0));
    let messages = futures_util::stream::repeat_with({
        let pulled = pulled.clone();
        move || {
            pulled.fetch_add(MESSAGE, Relaxed);
            Ok(Bytes::from(vec![0; MESSAGE]))
        }
    });
    let upload = connection.attempt(streams::streaming(messages), ReadUntil::Head);
    let has_begun = async {
        while pulled.load(Relaxed) < 64 * 1_024 {
            tokio::task::yield_now().await;
        }
        // For more than there may be.
        sleep(Duration::from_millis(100)).await;
    };
    tokio::select! {
        _ = upload => unreachable!("there is no response"),
        begun = timeout(PATIENCE, has_begun) => begun.unwrap(),
    }
    // What the duplex takes, what h2 holds, and what is on its way between them.
    let most = 64 * 1_024 + limits::SEND_BUFFER + 4 * MESSAGE + 16 * 1_024;
    let pulled = pulled.load(Relaxed);
    assert!((64 * 1_024..most).contains(&pulled), "{pulled} bytes");
    assert!(!raw.next_of(DATA).await.payload.is_empty());
}
