//! What a generated client gets of replicas that send what tonic does not expect.

use futures_util::StreamExt;

use super::*;

type Health = crate::client::ending::codec::Codec<HealthCheckRequest, HealthCheckResponse>;

/// Calls a method of a service with one replica, as a generated client does.
async fn unary(method: &'static str, does: Does) -> Result<HealthCheckResponse, Status> {
    let (client, _) = client(vec![move |_| does]).await;
    let mut client = tonic::client::Grpc::new(client);
    client.ready().await.unwrap();
    let path = PathAndQuery::from_static(method);
    let request = tonic::Request::new(HealthCheckRequest::default());
    let response = client.unary(request, path, Health::default()).await;
    response.map(tonic::Response::into_inner)
}

#[tokio::test(start_paused = true)]
async fn details_that_are_no_base64_are_none() {
    let in_trailers = |code, details| {
        parts(|it| {
            (it.data, it.status, it.details) = (HEALTHY, Some(code), Some(details));
        })
    };
    for method in [IDEMPOTENT, ONCE, LIST, "/a.Service/Unknown"] {
        for details in ["=", "no base64!", "%"] {
            for does in [
                Does::FailWith(details),
                in_trailers(Code::Internal, details),
            ] {
                let status = unary(method, does).await.unwrap_err();
                assert_eq!(status.code(), Code::Internal, "{method} {details}");
                assert_eq!(status.details(), b"");
            }
            let response = unary(method, in_trailers(Code::Ok, details)).await;
            assert_eq!(response.unwrap().status, 1, "{method} {details}");
        }
        let status = unary(method, Does::FailWith("YWI=")).await.unwrap_err();
        assert_eq!(status.details(), b"ab");
    }
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_compresses_unasked_costs_idempotent_calls_nothing() {
    let encoded = |encoding| parts(|it| (it.data, it.encoding) = (HEALTHY, Some(encoding)));
    for encoding in ["br", "none", ""] {
        let status = unary(ONCE, encoded(encoding)).await.unwrap_err();
        assert_eq!(status.code(), Code::Internal, "{encoding}");
    }
    assert!(unary(ONCE, encoded("identity")).await.is_ok());
    let well = parts(|it| it.data = HEALTHY);
    let script = |does: Does| move |_| does;
    let (client, served) = client(vec![script(well), script(encoded("br"))]).await;
    for _ in 0..50 {
        assert_eq!(call_with(&client, Health::default()).await, 200);
    }
    assert!(served[1].calls() < 10, "{}", served[1].calls());
}

/// What a caller gets who reads a stream to its end, and goes on after each error.
async fn all_of(does: Does) -> Vec<Result<HealthCheckResponse, Code>> {
    let (client, _) = client(vec![move |_| does]).await;
    let mut client = tonic::client::Grpc::new(client);
    client.ready().await.unwrap();
    let request = tonic::Request::new(HealthCheckRequest::default());
    let path = PathAndQuery::from_static(LIST);
    let response = client.server_streaming(request, path, Health::default());
    let stream = response.await.unwrap().into_inner();
    let items = stream.map(|item| item.map_err(|status| status.code()));
    items.take(100).collect().await
}

/// A message whose first varint is longer than any, with its prefix. prost fails before it takes
/// anything of it.
const UNDECODABLE: &[u8] = &[
    0, 0, 0, 0, 11, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255,
];

#[tokio::test(start_paused = true)]
async fn a_stream_ends_after_a_message_that_can_not_be_decoded() {
    let again = [HEALTHY, UNDECODABLE, HEALTHY, MESSAGE, HEALTHY].concat();
    for data in [UNDECODABLE, MESSAGE, again.leak()] {
        let before = usize::from(data.starts_with(HEALTHY));
        for does in [
            parts(|it| it.data = data),
            parts(|it| (it.data, it.status) = (data, None)),
            parts(|it| (it.data, it.reset) = (data, Some(Reason::CANCEL))),
            Does::Hold(data),
        ] {
            let items = tokio::time::timeout(SECOND, all_of(does)).await;
            let items = items.expect("it ends");
            let errors = &items[before..];
            assert!((1..=2).contains(&errors.len()), "{does:?}: {items:?}");
            let is_internal = |item: &Result<_, _>| *item == Err(Code::Internal);
            assert!(errors.iter().all(is_internal), "{does:?}: {items:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_cut_in_a_message_ends_with_an_error() {
    for cut in [1, 4, 5, 6] {
        for status in [None, Some(Code::Ok)] {
            let items = all_of(parts(|it| {
                (it.data, it.status) = (&HEALTHY[..cut], status);
            }));
            let items = items.await;
            assert!((1..=2).contains(&items.len()), "{items:?}");
            assert_eq!(items[0], Err(Code::Internal));
        }
    }
}

/// The prefix of a message of 5 MiB.
const TOO_LONG: &[u8] = &[0, 0, 0x50, 0, 0];

#[tokio::test(start_paused = true)]
async fn a_message_that_is_too_long_is_refused_at_its_prefix() {
    for method in [IDEMPOTENT, ONCE] {
        let call = tokio::time::timeout(SECOND, unary(method, Does::Hold(TOO_LONG)));
        let status = call.await.expect("at once").unwrap_err();
        assert_eq!(status.code(), Code::OutOfRange);
    }
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_begins_messages_that_are_too_long_costs_few_calls() {
    let script = |does: Does| move |_| does;
    let well = parts(|it| it.data = HEALTHY);
    let (client, _) = client(vec![script(well), script(Does::Hold(TOO_LONG))]).await;
    let mut failures = 0;
    for _ in 0..100 {
        let code = tokio::time::timeout(SECOND, call_with(&client, Health::default())).await;
        failures += usize::from(code.expect("at once") != 200);
        sleep(SECOND / 10).await;
    }
    assert!((1..=2).contains(&failures), "{failures}");
}
