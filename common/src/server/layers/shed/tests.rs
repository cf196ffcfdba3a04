use std::{convert::Infallible, time::Duration};

use futures_util::{FutureExt, stream};
use http_body_util::{BodyExt, Full, StreamBody};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tower::{ServiceBuilder, ServiceExt, service_fn, util::BoxCloneSyncService};

use super::*;
use crate::server::capacity::{
    connections::{Connection, Connections},
    long_lived::LongLived,
    places::Places,
};
use crate::{Context as RequestContext, Deadline, RequestId, methods::Terms};

const PATIENCE: Duration = Duration::from_secs(5);

type Silence = StreamBody<stream::Pending<Result<Frame<Bytes>, Infallible>>>;

/// The capacity for this number of requests in flight.
fn capacity(max_in_flight: usize) -> (Arc<Capacity>, Arc<Connections>) {
    let connections = Arc::new(Connections::new(16));
    let places = Arc::new(Places::new(max_in_flight, connections.clone()));
    let long_lived = LongLived::new(CancellationToken::new(), PATIENCE);
    (Arc::new(Capacity::new(places, 1, long_lived)), connections)
}

async fn connect(connections: &Arc<Connections>) -> Connection {
    connections.admit(Ipv4Addr::LOCALHOST.into()).await
}

/// A service whose bodies never end. `/Wait` never responds.
fn service(
    capacity: &Arc<Capacity>,
    connection: &Connection,
) -> BoxCloneSyncService<Request<()>, Response<ShedBody<Silence>>, BoxError> {
    let service = service_fn(async |request: Request<()>| {
        if request.uri().path() == "/Wait" {
            std::future::pending::<()>().await;
        }
        let silence = StreamBody::new(stream::pending());
        Ok::<_, Infallible>(Response::new(silence))
    });
    let open = connection.open.clone();
    let layer = ShedLayer::of_connection(capacity.clone(), open, Protocol::Http);
    BoxCloneSyncService::new(ServiceBuilder::new().layer(layer).service(service))
}

/// Calls the service. `/Watch` and `/Wait` are long-lived.
async fn ask(
    capacity: &Arc<Capacity>,
    connection: &Connection,
    path: &str,
) -> Result<Response<ShedBody<Silence>>, BoxError> {
    let request = Request::get(path).version(Version::HTTP_2);
    let request = request.body(()).unwrap();
    let is_long_lived = ["/Watch", "/Wait"].contains(&path);
    let terms = Terms::of(is_long_lived.then_some(Duration::MAX), PATIENCE);
    let context = RequestContext::new(RequestId::fresh(), Deadline::after(PATIENCE))
        .with(|shared| shared.terms = terms);
    let response = service(capacity, connection).oneshot(request);
    context.scope(response).await
}

/// Whether the access line of a refused request has its usual level.
async fn is_refusal_logged(capacity: &Arc<Capacity>, connection: &Connection, path: &str) -> bool {
    let error = ask(capacity, connection, path).await.map(drop).unwrap_err();
    error.downcast::<Overloaded>().unwrap().is_logged
}

/// Whether a response is still served: its client waits for more.
fn is_served(response: &mut Response<ShedBody<Silence>>) -> bool {
    response.body_mut().frame().now_or_never().is_none()
}

#[tokio::test]
async fn requests_beyond_the_limit_are_refused_and_one_refusal_is_logged() {
    let (capacity, connections) = capacity(2);
    let peer = connect(&connections).await;
    let in_flight = [
        ask(&capacity, &peer, "/").await,
        ask(&capacity, &peer, "/").await,
    ];
    assert!(is_refusal_logged(&capacity, &peer, "/").await);
    assert!(!is_refusal_logged(&capacity, &peer, "/").await);
    let probe = ask(&capacity, &peer, "/readyz").await;
    assert!(probe.is_ok(), "probes have a limit of their own");
    drop(in_flight);
    assert!(ask(&capacity, &peer, "/").await.is_ok());
}

#[tokio::test]
async fn long_lived_calls_leave_a_part_of_the_places_to_others() {
    let (capacity, connections) = capacity(8);
    let peer = connect(&connections).await;
    let long_lived = [
        ask(&capacity, &peer, "/Watch").await,
        ask(&capacity, &peer, "/Watch").await,
    ];
    assert!(is_refusal_logged(&capacity, &peer, "/Watch").await);
    assert!(!is_refusal_logged(&capacity, &peer, "/Watch").await);
    assert!(ask(&capacity, &peer, "/").await.is_ok());
    drop(long_lived);
    assert!(ask(&capacity, &peer, "/Watch").await.is_ok());
}

#[tokio::test]
async fn a_client_of_the_same_network_gives_way_though_another_network_holds_more() {
    let (capacity, connections) = capacity(16);
    let [greedy, modest] = [connect(&connections).await, connect(&connections).await];
    let mut held = Vec::new();
    for _ in 0..5 {
        held.push(ask(&capacity, &greedy, "/").await.unwrap());
    }
    let mut others = Vec::new();
    for _ in 0..11 {
        let other = connections.admit(Ipv4Addr::new(127, 0, 0, 2).into()).await;
        others.push((ask(&capacity, &other, "/").await.unwrap(), other));
    }
    // The others hold 11, less than twice the 6 that this network would have.
    assert!(ask(&capacity, &modest, "/").await.is_ok());
    let served = held.iter_mut().map(is_served).collect::<Vec<_>>();
    assert_eq!(served, [true, true, true, true, false]);
}

#[tokio::test]
async fn the_client_with_the_most_requests_gives_way_to_one_with_few() {
    let (capacity, connections) = capacity(4);
    let [greedy, modest] = [connect(&connections).await, connect(&connections).await];
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(ask(&capacity, &greedy, "/").await.unwrap());
    }
    assert!(
        held.iter_mut().all(is_served),
        "one client may have all places"
    );
    let mut first = ask(&capacity, &modest, "/").await.unwrap();
    assert_eq!(
        held.iter_mut()
            .filter_map(|one| is_served(one).then_some(()))
            .count(),
        3
    );
    // The greedy client has 3 of 4 now, less than twice the 2 that the modest one would have.
    assert!(ask(&capacity, &modest, "/").await.is_err());
    assert!(is_served(&mut first));
}

#[tokio::test]
async fn a_client_whose_requests_have_ended_is_passed_over() {
    let (capacity, connections) = capacity(7);
    let [quick, greedy] = [connect(&connections).await, connect(&connections).await];
    let mut held = Vec::new();
    for peer in [&quick, &quick, &quick, &quick, &greedy, &greedy] {
        held.push(ask(&capacity, peer, "/").await.unwrap());
    }
    assert!(held.iter_mut().all(is_served));
    tokio::time::sleep(limits::STALLED_AFTER).await;
    // Near the limit, this request scans the others.
    held.push(ask(&capacity, &greedy, "/").await.unwrap());
    let newcomer = connect(&connections).await;
    let first = ask(&capacity, &newcomer, "/").await;
    assert!(first.is_ok(), "the quick client gives way");
    // Before the next scan, the requests of the quick client end; the greedy one takes the places.
    held.drain(..4);
    for _ in 0..3 {
        held.push(ask(&capacity, &greedy, "/").await.unwrap());
    }
    assert!(held.iter_mut().all(is_served));
    let second = connect(&connections).await;
    assert!(ask(&capacity, &second, "/").await.is_ok());
}

#[tokio::test]
async fn a_client_that_has_just_taken_the_places_of_others_gives_way_too() {
    let (capacity, connections) = capacity(8);
    let mut clients = Vec::new();
    for number in 1..=3 {
        let network = Ipv4Addr::new(127, 0, 0, number);
        clients.push(connections.admit(network.into()).await);
    }
    let [first, second, newcomer] = &clients[..] else {
        unreachable!("three clients")
    };
    let mut held = Vec::new();
    for client in [first, second] {
        for _ in 0..8 {
            held.extend(ask(&capacity, client, "/").await);
        }
    }
    // All of it within the interval between two scans.
    assert!(ask(&capacity, newcomer, "/").await.is_ok());
}

#[tokio::test]
async fn a_client_that_reads_nothing_gives_way_first() {
    let (capacity, connections) = capacity(3);
    let mut held = Vec::new();
    let mut peers = Vec::new();
    for _ in 0..3 {
        let peer = connect(&connections).await;
        held.push(ask(&capacity, &peer, "/").await.unwrap());
        peers.push(peer);
    }
    // Two clients wait for more; the third has read nothing of its response.
    assert!(is_served(&mut held[0]) && is_served(&mut held[1]));
    let newcomer = connect(&connections).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    let early = ask(&capacity, &newcomer, "/").await;
    assert!(early.is_err(), "the third client may still read");
    tokio::time::sleep(Duration::from_millis(120)).await;
    assert!(ask(&capacity, &newcomer, "/").await.is_ok());
    let served = held.iter_mut().map(is_served).collect::<Vec<_>>();
    assert_eq!(served, [true, true, false]);
}

#[tokio::test]
async fn a_request_is_in_flight_until_its_client_has_read_all_of_a_long_body() {
    const LENGTH: usize = 2 * limits::FRAME + 1;
    let (capacity, connections) = capacity(1);
    let peer = connect(&connections).await;
    for (version, ends_alone) in [(Version::HTTP_11, false), (Version::HTTP_2, true)] {
        let open = peer.open.clone();
        let layer = ShedLayer::of_connection(capacity.clone(), open, Protocol::Http);
        let service = service_fn(async |_: Request<()>| {
            let body = Full::new(Bytes::from(vec![0; LENGTH]));
            Ok::<_, Infallible>(Response::new(body))
        });
        let service = ServiceBuilder::new().layer(layer).service(service);
        let request = Request::get("/").version(version).header("host", "a");
        let response = service.oneshot(request.body(()).unwrap()).await.unwrap();
        let mut body = response.into_body();
        for (frame, left) in [
            (limits::FRAME, limits::FRAME + 1),
            (limits::FRAME, 1),
            (1, 0),
        ] {
            assert!(!body.is_end_stream());
            let data = body.frame().await.unwrap().unwrap().into_data().unwrap();
            let hint = body.size_hint().exact();
            assert_eq!((data.len(), hint), (frame, Some(left as u64)));
        }
        assert_eq!(body.is_end_stream(), !ends_alone);
        assert_eq!(peer.open.in_flight(), 1);
        assert!(body.frame().await.is_none());
        assert!(body.is_end_stream());
        drop(body);
        assert_eq!(peer.open.in_flight(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn long_lived_calls_end_soon_after_a_drain_begins() {
    let (capacity, connections) = capacity(8);
    let peer = connect(&connections).await;
    let begin = Instant::now();
    let other = ask(&capacity, &peer, "/").await.unwrap();
    let watch = ask(&capacity, &peer, "/Watch").await.unwrap();
    let waiting = {
        let capacity = capacity.clone();
        tokio::spawn(async move { ask(&capacity, &peer, "/Wait").await.map(drop) })
    };
    tokio::task::yield_now().await;
    capacity.long_lived.draining.cancel();

    let mut context = RequestContext::new(RequestId::fresh(), Deadline::after(PATIENCE));
    context = context.with(|shared| shared.protocol = Protocol::Grpc);
    let end = context.scope(watch.into_body().collect()).await.unwrap();
    assert_eq!(end.trailers().unwrap()[Status::GRPC_STATUS], "14");
    assert!(waiting.await.unwrap().unwrap_err().is::<Draining>());
    assert_eq!(begin.elapsed(), Duration::from_secs(1));
    let other = timeout(PATIENCE, other.into_body().collect()).await;
    assert!(other.is_err(), "other requests last until their deadline");
}
