//! The whole service over real sockets, and its faces without.

use std::{path::Path, sync::Arc, time::Duration};

use axum::{
    body::{self, Body},
    http::{Request, StatusCode},
};
use common::{
    Config,
    client::{self, Channel},
    server::{InMemory, Listener},
};
use futures_util::StreamExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::oneshot,
};
use tower::ServiceExt;

use crate::{
    grpc,
    proto::{FILE_DESCRIPTOR_SET, Id, parcels_client::ParcelsClient},
    rest, service,
    store::Store,
};

const DEADLINE: Duration = Duration::from_secs(10);

/// A store in memory.
fn store() -> Arc<Store> {
    Arc::new(Store::open(Path::new(":memory:")).expect("memory"))
}

/// The status and the text of the response to a request.
async fn ask(store: &Arc<Store>, request: Request<Body>) -> (StatusCode, String) {
    let faces = [Listener::http(0, rest::router(store.clone()))];
    let service = InMemory::new(&Config::default(), |_process| faces).expect("it is valid");
    let response = service.stack(0).oneshot(request).await;
    let response = response.expect("a response");
    let status = response.status();
    let body = body::to_bytes(Body::new(response.into_body()), 10_000).await;
    let text = String::from_utf8(body.expect("a body").into()).expect("text");
    (status, text)
}

fn post(place: &str) -> Request<Body> {
    let document = format!(r#"{{"place":"{place}"}}"#);
    Request::post("/api/v1/parcels")
        .header("content-type", "application/json")
        .body(document.into())
        .expect("a request")
}

#[tokio::test]
async fn a_parcel_is_added_and_shown() {
    let store = store();
    let added = ask(&store, post("Rome")).await;
    assert_eq!(
        added,
        (StatusCode::CREATED, r#"{"id":1,"place":"Rome"}"#.to_owned())
    );
    let request = Request::get("/api/v1/parcels/1").body(Body::empty());
    let shown = ask(&store, request.expect("a request")).await;
    assert_eq!(
        shown,
        (StatusCode::OK, r#"{"id":1,"place":"Rome"}"#.to_owned())
    );
}

#[tokio::test]
async fn mistakes_are_explained() {
    let (status, text) = ask(&store(), post("")).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(text.contains("1 to 100 bytes"), "{text}");
    let request = Request::get("/api/v1/parcels/7").body(Body::empty());
    let (status, text) = ask(&store(), request.expect("a request")).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert!(text.contains("no parcel 7"), "{text}");
}

#[tokio::test]
async fn a_watch_sees_each_move() {
    let store = store();
    store.add("Rome".into()).expect("added");
    let faces = [Listener::grpc(0, grpc::services(store.clone()))];
    let service = InMemory::new(&Config::default(), |_process| faces).expect("it is valid");
    let target = "parcels:50052".parse().expect("a host and a port");
    let config = client::Config::default();
    let channel = Channel::plain(&target, FILE_DESCRIPTOR_SET, &config, DEADLINE);
    let mut parcels = ParcelsClient::new(channel.with_io(service.connect(0)));

    let watch = parcels.watch(Id { id: 1 }).await.expect("a stream");
    let mut watch = watch.into_inner();
    assert_eq!(watch.next().await.expect("one").expect("ok").place, "Rome");
    store.put(1, "Oslo".into()).expect("moved");
    assert_eq!(watch.next().await.expect("one").expect("ok").place, "Oslo");

    let unknown = parcels.get(Id { id: 7 }).await.expect_err("there is none");
    assert_eq!(unknown.code(), tonic::Code::NotFound);
}

#[test]
fn old_parcels_are_swept() {
    let store = store();
    store.add("Rome".into()).expect("added");
    assert_eq!(store.sweep(Duration::from_hours(1)).expect("swept"), 0);
    assert_eq!(store.sweep(Duration::ZERO).expect("swept"), 1);
}

#[tokio::test]
async fn events_end_with_the_service() {
    let store = store();
    store.add("Rome".into()).expect("added");
    let config = common::Config::default();
    let server = service(store.clone(), 0, 0)
        .bind(&config)
        .expect("free ports");
    let address = server.addresses()[0];
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = tokio::spawn(server.serve(async { drop(stopped.await) }));

    let mut client = TcpStream::connect(("127.0.0.1", address.port()))
        .await
        .expect("it listens");
    let request = b"GET /api/v1/parcels/1/events HTTP/1.1\r\nhost: x\r\n\r\n";
    client.write_all(request).await.expect("sent");
    let mut received = String::new();
    let mut buffer = [0; 1_024];
    while !received.contains("Oslo") {
        let read = client.read(&mut buffer).await.expect("it goes on");
        received += str::from_utf8(&buffer[..read]).expect("text");
        if received.contains("Rome") {
            store.put(1, "Oslo".into()).expect("moved");
        }
    }
    assert!(
        received.contains("content-type: text/event-stream"),
        "{received}"
    );
    assert!(
        received.contains(r#"data: {"id":1,"place":"Rome"}"#),
        "{received}"
    );

    stop.send(()).expect("it serves");
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).await.expect("a clean end");
    assert!(rest.ends_with(b"0\r\n\r\n"), "the last chunk");
    serving.await.expect("no panic").expect("a drain");
}
