//! Calls whose request is one message.

use std::{
    pin::pin,
    sync::atomic::{AtomicUsize, Ordering},
};

use futures_util::FutureExt;
use tokio::task::yield_now;

use super::raw::{GOAWAY, HEADERS, raw};
use super::*;
use crate::client::wire::activity::Closed;

#[tokio::test]
async fn an_attempt_is_in_flight_until_its_response_is_dropped() {
    let connection = connection(async |mut streams| {
        respond(next(&mut streams).await);
        drive(streams).await;
    })
    .await;
    let response = connection
        .attempt(request(), ReadUntil::FirstFrame)
        .await
        .unwrap();
    assert_eq!(connection.activity.in_flight(), 1);
    let counts = connection.activity.counts();
    assert_eq!((counts.begun, counts.settled), (1, 1));
    let body = response.into_body().collect().await.unwrap();
    assert_eq!(body.trailers().unwrap()[Status::GRPC_STATUS], "0");
    assert_eq!(body.to_bytes(), "data");
    assert_eq!(connection.activity.in_flight(), 0);
}

#[tokio::test]
async fn after_goaway_no_call_leaves_and_the_calls_in_flight_go_on() {
    let connection = connection(async |mut streams| {
        let first = next(&mut streams).await;
        streams.graceful_shutdown();
        let wait = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            respond(first);
            pending::<()>().await;
        };
        tokio::select! { () = drive(streams) => {}, () = wait => {} }
    })
    .await;
    let first = tokio::spawn({
        let connection = connection.clone();
        async move { connection.attempt(request(), ReadUntil::FirstFrame).await }
    });
    let closed = timeout(PATIENCE, connection.activity.closed()).await;
    assert_eq!(closed, Ok(Closed::GoingAway));
    assert!(!first.is_finished());
    let second = connection
        .attempt(request(), ReadUntil::FirstFrame)
        .await
        .unwrap_err();
    assert_eq!(second.ending, Ending::NotSent);
    let first = first.await.unwrap().unwrap();
    assert_eq!(
        first.into_body().collect().await.unwrap().to_bytes(),
        "data"
    );
}

#[tokio::test]
async fn a_call_above_the_last_stream_of_goaway_was_not_processed() {
    let (connection, mut raw) = raw().await;
    let replica = tokio::spawn(async move {
        raw.send_settings(&[]).await;
        raw.next_of(HEADERS).await;
        // The last stream is 0, and the code is NO_ERROR.
        raw.send(GOAWAY, 0, 0, &[0; 8]).await;
        raw
    });
    let failure = connection
        .attempt(request(), ReadUntil::FirstFrame)
        .await
        .unwrap_err();
    assert_eq!(failure.ending, Ending::NotProcessed);
    assert_eq!(failure.into_status().code(), Code::Unavailable);
    assert_eq!(connection.activity.closed().await, Closed::GoingAway);
    drop(replica.await);
}

#[tokio::test]
async fn the_code_of_a_reset_is_that_of_grpcs_table_but_only_a_caller_cancels() {
    const TABLE: [(Reason, Code); 12] = [
        (Reason::NO_ERROR, Code::Internal),
        (Reason::PROTOCOL_ERROR, Code::Internal),
        (Reason::INTERNAL_ERROR, Code::Internal),
        (Reason::FLOW_CONTROL_ERROR, Code::Internal),
        (Reason::SETTINGS_TIMEOUT, Code::Internal),
        (Reason::FRAME_SIZE_ERROR, Code::Internal),
        (Reason::REFUSED_STREAM, Code::Unavailable),
        (Reason::CANCEL, Code::Unavailable),
        (Reason::COMPRESSION_ERROR, Code::Internal),
        (Reason::CONNECT_ERROR, Code::Internal),
        (Reason::ENHANCE_YOUR_CALM, Code::ResourceExhausted),
        (Reason::INADEQUATE_SECURITY, Code::PermissionDenied),
    ];
    let connection = connection(async |mut streams| {
        for (reason, _) in TABLE {
            next(&mut streams).await.1.send_reset(reason);
        }
        drive(streams).await;
    })
    .await;
    for (reason, code) in TABLE {
        let failure = connection.attempt(request(), ReadUntil::FirstFrame).await;
        let failure = failure.unwrap_err();
        let ending = match reason {
            Reason::REFUSED_STREAM => Ending::Refused,
            reason => Ending::ResetBeforeHead(reason),
        };
        assert_eq!(failure.ending, ending, "{reason}");
        assert_eq!(failure.into_status().code(), code, "{reason}");
    }
    assert!(!connection.activity.is_closed());
}

#[tokio::test]
async fn a_call_that_goaway_leaves_open_may_have_been_processed_when_the_connection_ends() {
    for reason in [Reason::NO_ERROR, Reason::ENHANCE_YOUR_CALM] {
        let connection = connection(async move |mut streams| {
            let _stream = next(&mut streams).await;
            if reason == Reason::NO_ERROR {
                streams.graceful_shutdown();
            } else {
                streams.abrupt_shutdown(reason);
            }
            let _ = timeout(Duration::from_millis(50), drive(streams)).await;
        })
        .await;
        let failure = connection.attempt(request(), ReadUntil::FirstFrame).await;
        let failure = failure.unwrap_err();
        assert_eq!(failure.ending, Ending::ConnectionLost, "{reason}");
        assert_eq!(failure.into_status().code(), Code::Unavailable);
    }
}

#[tokio::test]
async fn a_connection_that_breaks_fails_its_calls_and_is_lost() {
    let connection = connection(async |mut streams| {
        let _stream = next(&mut streams).await;
    })
    .await;
    let failure = connection
        .attempt(request(), ReadUntil::FirstFrame)
        .await
        .unwrap_err();
    assert_eq!(failure.ending, Ending::ConnectionLost);
    assert!(connection.activity.is_closed());
    assert_eq!(connection.activity.closed().await, Closed::Lost);
}

#[tokio::test]
async fn a_dropped_attempt_is_reset() {
    let (reset, was_reset) = tokio::sync::oneshot::channel();
    let connection = connection(async |mut streams| {
        let (_request, mut response) = next(&mut streams).await;
        let reason = std::future::poll_fn(|cx| response.poll_reset(cx));
        tokio::select! {
            reason = reason => drop(reset.send(reason.unwrap())),
            () = drive(streams) => {}
        }
    })
    .await;
    let attempt = timeout(
        Duration::from_millis(50),
        connection.attempt(request(), ReadUntil::FirstFrame),
    );
    assert!(attempt.await.is_err());
    assert_eq!(was_reset.await.unwrap(), Reason::CANCEL);
    let counts = connection.activity.counts();
    assert_eq!((counts.begun, counts.settled), (1, 1));
    assert_eq!(connection.activity.in_flight(), 0);
}

#[tokio::test]
async fn a_call_that_can_t_be_sent_is_the_callers_fault() {
    let connection = connection(drive).await;
    let mut request = request();
    let forbidden = HeaderValue::from_static("close");
    request.headers_mut().insert("connection", forbidden);
    let failure = connection.attempt(request, ReadUntil::FirstFrame).await;
    let failure = failure.unwrap_err();
    assert_eq!(failure.ending, Ending::Request(Code::Internal));
    assert_eq!(failure.into_status().code(), Code::Internal);
}

#[tokio::test]
async fn small_frames_that_nobody_reads_break_no_connection() {
    let connection = connection(async |mut streams| {
        let (_, mut response) = next(&mut streams).await;
        let mut unread = response.send_response(Response::new(()), false).unwrap();
        for _ in 0..20_000 {
            // An empty message of gRPC.
            unread
                .send_data(Bytes::from_static(&[0; 5]), false)
                .unwrap();
        }
        loop {
            respond(next(&mut streams).await);
        }
    })
    .await;
    let unread = connection
        .attempt(request(), ReadUntil::Head)
        .await
        .unwrap();
    for _ in 0..100 {
        let other = connection.attempt(request(), ReadUntil::FirstFrame).await;
        let other = other.unwrap().into_body().collect().await.unwrap();
        assert_eq!(other.to_bytes(), "data");
    }
    let mut unread = unread.into_body();
    for _ in 0..20_000 {
        let frame = unread.frame().await.unwrap().unwrap();
        assert_eq!(frame.data_ref().unwrap().len(), 5);
    }
}

#[tokio::test]
async fn responses_that_nobody_reads_do_not_stop_the_others() {
    let connection = connection(async |mut streams| {
        let mut unread = Vec::new();
        for _ in 0..100 {
            let (_, mut response) = next(&mut streams).await;
            let mut body = response.send_response(Response::new(()), false).unwrap();
            // More than the window of a stream.
            body.send_data(Bytes::from(vec![0; 1_024 * 1_024]), false)
                .unwrap();
            unread.push(body);
        }
        respond(next(&mut streams).await);
        drive(streams).await;
    })
    .await;
    let mut unread = Vec::new();
    for _ in 0..100 {
        unread.push(
            connection
                .attempt(request(), ReadUntil::FirstFrame)
                .await
                .unwrap(),
        );
    }
    let response = timeout(
        PATIENCE,
        connection.attempt(request(), ReadUntil::FirstFrame),
    )
    .await;
    assert!(response.expect("in time").is_ok());
}

#[tokio::test]
async fn a_connection_closes_when_it_is_dropped_and_its_calls_have_ended() {
    let ends = Arc::new(AtomicUsize::new(0));
    let connection = connection({
        let ends = ends.clone();
        async move |mut streams| {
            let stream = next(&mut streams).await;
            respond(stream);
            drive(streams).await;
            ends.fetch_add(1, Ordering::Relaxed);
        }
    })
    .await;
    let response = connection
        .attempt(request(), ReadUntil::FirstFrame)
        .await
        .unwrap();
    drop(connection);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(ends.load(Ordering::Relaxed), 0, "a response is unread");
    response.into_body().collect().await.unwrap();
    let end = async {
        while ends.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, end).await.expect("it is closed");
}

#[tokio::test]
async fn a_question_survives_a_reply_whose_details_are_no_base64() {
    for is_head in [true, false] {
        let connection = connection(async move |mut streams| {
            let mut stream = next(&mut streams).await.1;
            let mut status = HeaderMap::new();
            status.insert(Status::GRPC_STATUS, HeaderValue::from_static("14"));
            status.insert(Status::GRPC_STATUS_DETAILS, HeaderValue::from_static("%"));
            let mut response = Response::new(());
            if is_head {
                *response.headers_mut() = status;
                stream.send_response(response, true).unwrap();
            } else {
                let mut body = stream.send_response(response, false).unwrap();
                body.send_trailers(status).unwrap();
            }
            drive(streams).await;
        })
        .await;
        let reply = timeout(PATIENCE, connection.serves()).await;
        assert_eq!(reply, Ok(Err("it says that it is unavailable")));
    }
}

/// The test's task runs until it waits, and the driver only then.
#[tokio::test]
async fn a_call_is_unsent_until_the_driver_has_run() {
    let connection = connection(drive).await;
    assert_eq!(connection.activity.unsent(), 0);
    let mut call = pin!(connection.attempt(request(), ReadUntil::FirstFrame));
    assert!((&mut call).now_or_never().is_none());
    assert_eq!(connection.activity.unsent(), 1);
    timeout(PATIENCE, sent(&connection)).await.unwrap();
}

#[tokio::test]
async fn calls_that_the_socket_does_not_take_draw_no_others() {
    let (ours, _theirs) = duplex(64); // less than the preface, the settings and a call
    let origin = Origin::in_memory(RequestIdNames::Both);
    let connection = Connection::with_io(ours, origin, Arc::default())
        .await
        .unwrap();
    let mut call = pin!(connection.attempt(request(), ReadUntil::FirstFrame));
    assert!((&mut call).now_or_never().is_none());
    assert_eq!(connection.activity.unsent(), 1);
    timeout(PATIENCE, sent(&connection)).await.unwrap();
}

async fn sent(connection: &Connection) {
    while connection.activity.unsent() > 0 {
        yield_now().await;
    }
}
