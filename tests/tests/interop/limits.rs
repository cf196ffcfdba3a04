//! The limits of messages, metadata and long-lived calls, as clients of tonic see them.

use std::time::Duration;

use futures_util::stream;
use prost::Message;
use tests::testing::{
    peers::{self, Service},
    proto::{
        calls::{Chunk, calls_client::CallsClient},
        grpc::testing::{Empty, test_service_client::TestServiceClient},
    },
};
use tokio::time::timeout;
use tonic::{Code, Request, Streaming};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus,
    health_client::HealthClient,
};

use super::service;

const MIB: usize = 1024 * 1024;

/// A chunk that is a message of this size.
fn message(size: usize) -> Chunk {
    let with = |bytes| Chunk {
        bytes: vec![0; bytes],
    };
    let overhead = with(size).encoded_len() - size;
    let chunk = with(size - overhead);
    assert_eq!(chunk.encoded_len(), size);
    chunk
}

#[tokio::test]
async fn a_message_has_a_limit_and_a_stream_of_them_has_none() {
    let service = service(&[]);
    for connect in [
        peers::plain(service.grpc()),
        peers::ours(&service.grpc().to_string()),
    ] {
        let mut client = CallsClient::new(connect());
        for size in [4 * MIB - 4, 4 * MIB] {
            let total = client.upload(stream::iter([message(size)])).await;
            assert!(total.is_ok(), "{size}: {total:?}");
        }
        let many = stream::iter((0..6).map(|_| message(MIB)));
        client.upload(many).await.expect("each is within the limit");

        let over = client.upload(stream::iter([message(4 * MIB + 1)])).await;
        let status = over.expect_err("over the limit");
        assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
        assert!(status.message().contains("4194304"), "{status}");
        assert!(status.metadata().contains_key("request_id"));
    }
}

#[tokio::test]
async fn metadata_over_the_limit_is_resource_exhausted() {
    let service = service(&[]);
    let mut client = TestServiceClient::new(peers::plain(service.grpc())());
    let mut call = async |size: usize| {
        let mut request = Request::new(Empty {});
        let value = "a".repeat(size).parse().expect("ASCII");
        request.metadata_mut().insert("x-large", value);
        client.empty_call(request).await
    };
    call(15_000).await.expect("within the limit");
    let status = call(17_000).await.expect_err("over it");
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(status.message().contains("16384"), "{status}");
    call(70_000).await.expect_err("far over it");
    call(1).await.expect("the connection lives");
}

async fn watch(service: &Service) -> Result<Streaming<Chunk>, tonic::Status> {
    let response = CallsClient::new(service.clone()).watch(message(10)).await;
    let mut chunks = response?.into_inner();
    assert_eq!(chunks.message().await?, Some(message(10)));
    Ok(chunks)
}

#[tokio::test]
async fn long_lived_calls_outlive_the_deadline_and_end_with_the_service() {
    let bounds = [
        ("DEADLINE", "300ms"),
        ("MAX_IN_FLIGHT", "16"),
        ("WORKERS", "1"),
    ];
    let service = service(&bounds);
    let (plain, ours) = (
        peers::plain(service.grpc())(),
        peers::ours(&service.grpc().to_string())(),
    );
    let mut health = HealthClient::new(plain.clone());
    let response = health.watch(HealthCheckRequest::default()).await;
    let mut health = response.expect("the head").into_inner();
    let status = |response: Option<HealthCheckResponse>| response.map(|response| response.status());
    let first = health.message().await.expect("it lives");
    assert_eq!(status(first), Some(ServingStatus::Serving));

    // With the one above they are a quarter of all places.
    let mut watches = Vec::new();
    for client in [&plain, &ours, &ours] {
        watches.push(watch(client).await.expect("within the bound"));
    }
    let refused = watch(&plain).await.expect_err("over it");
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");

    for watch in &mut watches {
        let next = timeout(Duration::from_millis(300), watch.message()).await;
        assert!(next.is_err(), "it goes on: {next:?}");
    }
    service.signal("TERM");
    let last = health.message().await.expect("a last message");
    assert_eq!(status(last), Some(ServingStatus::NotServing));
    assert_eq!(
        health.message().await.expect_err("over").code(),
        Code::Unavailable
    );
    for mut watch in watches {
        let end = watch.message().await.expect_err("it ends");
        assert_eq!(end.code(), Code::Unavailable, "{end}");
        assert!(end.message().contains("about to stop"), "{end}");
    }
    drop((plain, ours));
    let ended = service.ended();
    assert_eq!(ended.status.code(), Some(0));
    assert!(ended.has_line(&[("action", "stop"), ("status", "success")]));
}
