mod head;

use std::{convert::Infallible, net::Ipv4Addr, time::Duration};

use futures_util::{FutureExt, stream};
use http_body_util::{BodyExt, Full, StreamBody};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tower::{ServiceBuilder, ServiceExt, service_fn, util::BoxCloneSyncService};

use super::*;
use crate::{
    dialect::grpc::GRPC,
    request::{
        context::{Context as RequestContext, Deadline},
        id::RequestId,
        methods::Terms,
    },
    server::capacity::{
        connections::{ConnectionPermit, Connections},
        long_lived::LongLived,
        permits::Permits,
        worker_capacity::Overloaded,
    },
};

const PATIENCE: Duration = Duration::from_secs(5);

type Silence = StreamBody<stream::Pending<Result<Frame<Bytes>, Infallible>>>;

/// The capacity for this number of requests in flight.
fn capacity(max_in_flight: usize) -> (Arc<WorkerCapacity>, Arc<Connections>) {
    let connections = Arc::new(Connections::new(128));
    let permits = Arc::new(Permits::new(max_in_flight, connections.clone()));
    let long_lived = LongLived::new(CancellationToken::new(), PATIENCE);
    let capacity = WorkerCapacity::new(permits, 1, long_lived);
    (Arc::new(capacity), connections)
}

async fn connect(connections: &Arc<Connections>) -> ConnectionPermit {
    connections.admit(Ipv4Addr::LOCALHOST.into()).await
}

fn state(capacity: &Arc<WorkerCapacity>, permit: &ConnectionPermit) -> Arc<ConnectionState> {
    let state = ConnectionState::new(permit.handle.clone(), capacity.clone(), None);
    Arc::new(state)
}

/// A service whose bodies never end. `/Wait` never responds.
fn service(
    capacity: &Arc<WorkerCapacity>,
    connection: &ConnectionPermit,
) -> BoxCloneSyncService<Request<()>, Response<ShedBody<Silence>>, BoxError> {
    let service = service_fn(async |request: Request<()>| {
        if request.uri().path() == "/Wait" {
            std::future::pending::<()>().await;
        }
        let silence = StreamBody::new(stream::pending());
        Ok::<_, Infallible>(Response::new(silence))
    });
    let layer = ShedLayer::new(state(capacity, connection), false);
    BoxCloneSyncService::new(ServiceBuilder::new().layer(layer).service(service))
}

/// Calls the service. `/Watch` and `/Wait` are long-lived.
async fn ask(
    capacity: &Arc<WorkerCapacity>,
    connection: &ConnectionPermit,
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
async fn is_refusal_logged(
    capacity: &Arc<WorkerCapacity>,
    connection: &ConnectionPermit,
    path: &str,
) -> bool {
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
async fn a_client_whose_requests_are_refused_is_not_idle() {
    let (capacity, connections) = capacity(0);
    let peer = connect(&connections).await;
    let before = peer.handle.usage.idle_since();
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert!(ask(&capacity, &peer, "/").await.is_err());
    assert!(peer.handle.usage.idle_since() > before);
}

#[tokio::test]
async fn long_lived_calls_leave_a_part_of_the_permits_to_others() {
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
async fn the_last_eighth_is_for_connections_that_hold_little() {
    let (capacity, connections) = capacity(64);
    let [greedy, modest] = [connect(&connections).await, connect(&connections).await];
    let mut held = Vec::new();
    for _ in 0..64 {
        held.extend(ask(&capacity, &greedy, "/").await);
    }
    assert_eq!(held.len(), 56, "one client has seven eighths");
    let first = ask(&capacity, &modest, "/").await;
    assert!(first.is_ok());
    let second = ask(&capacity, &modest, "/").await;
    assert!(second.is_err(), "seven permits are free, and it has one");
    assert!(held.iter_mut().all(is_served), "no connection is preempted");
    drop((first, held.pop()));
    assert!(ask(&capacity, &greedy, "/").await.is_ok());
}

#[tokio::test]
async fn a_service_of_the_mesh_leaves_a_part_of_the_last_eighth_to_others() {
    let (capacity, connections) = capacity(64);
    let [service, other] = [connect(&connections).await, connect(&connections).await];
    service.handle.usage.note_of_mesh();
    let mut held = Vec::new();
    for _ in 0..64 {
        held.extend(ask(&capacity, &service, "/").await);
    }
    assert_eq!(held.len(), 63);
    assert!(ask(&capacity, &other, "/").await.is_ok());
}

#[tokio::test]
async fn the_clients_of_one_network_leave_half_of_the_reserve_to_others() {
    let (capacity, connections) = capacity(64);
    let mut held = Vec::new();
    // As many at the second time: all places were given back.
    for _ in 0..2 {
        held.clear();
        for (network, count) in [(1, 56 + 4), (2, 2), (3, 1), (4, 1)] {
            let address = Ipv4Addr::new(127, 0, 0, network);
            let mut served = 0;
            for _ in 0..64 {
                // Each request has a connection of its own.
                let peer = connections.admit(address.into()).await;
                if let Ok(response) = ask(&capacity, &peer, "/").await {
                    served += 1;
                    held.push((response, peer));
                }
            }
            assert_eq!(served, count, "network {network}");
        }
    }
    // The first network gives back one of its four places of the reserve, and may not have it again.
    held.remove(56);
    let first = connect(&connections).await;
    assert!(ask(&capacity, &first, "/").await.is_err());
    let other = connections.admit(Ipv4Addr::new(127, 0, 0, 5).into()).await;
    assert!(ask(&capacity, &other, "/").await.is_ok());
    held.clear();
    let peer = connect(&connections).await;
    let mut again = Vec::new();
    for _ in 0..64 {
        again.extend(ask(&capacity, &peer, "/").await);
    }
    assert_eq!(again.len(), 56, "all permits were given back");
}

#[tokio::test]
async fn over_http_2_a_body_waits_for_the_socket() {
    let (capacity, connections) = capacity(1);
    let peer = connect(&connections).await;
    let connection = state(&capacity, &peer);
    connection.outbound.watch();
    let layer = ShedLayer::new(connection.clone(), false);
    let service = service_fn(async |_: Request<()>| {
        let body = Full::new(Bytes::from(vec![0; 4 * limits::FRAME]));
        Ok::<_, Infallible>(Response::new(body))
    });
    let service = ServiceBuilder::new().layer(layer).service(service);
    let request = Request::get("/").version(Version::HTTP_2);
    let response = service.oneshot(request.body(()).unwrap()).await.unwrap();
    let mut body = response.into_body();
    for _ in 0..2 {
        assert!(body.frame().now_or_never().is_some());
    }
    let more = tokio::spawn(async move { body.frame().await.is_some() });
    tokio::task::yield_now().await;
    assert!(!more.is_finished(), "128 KiB wait for the socket");
    connection.outbound.drained();
    assert!(timeout(PATIENCE, more).await.unwrap().unwrap());
}

#[tokio::test]
async fn a_request_is_in_flight_until_its_client_has_read_all_of_a_long_body() {
    const LENGTH: usize = 2 * limits::FRAME + 1;
    let (capacity, connections) = capacity(1);
    let peer = connect(&connections).await;
    for (version, ends_alone) in [(Version::HTTP_11, false), (Version::HTTP_2, true)] {
        let layer = ShedLayer::new(state(&capacity, &peer), false);
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
        assert_eq!(peer.handle.usage.in_flight(), 1);
        assert!(body.frame().await.is_none());
        assert!(body.is_end_stream());
        drop(body);
        assert_eq!(peer.handle.usage.in_flight(), 0);
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
    context = context.with(|shared| shared.dialect = Some(GRPC));
    let end = context.scope(watch.into_body().collect()).await.unwrap();
    assert_eq!(end.trailers().unwrap()[Status::GRPC_STATUS], "14");
    assert!(waiting.await.unwrap().unwrap_err().is::<Draining>());
    assert_eq!(begin.elapsed(), Duration::from_secs(1));
    let other = timeout(PATIENCE, other.into_body().collect()).await;
    assert!(other.is_err(), "other requests last until their deadline");
}

#[tokio::test]
async fn over_http_1_a_long_response_is_in_flight_until_the_socket_has_taken_it() {
    let (capacity, connections) = capacity(1);
    let peer = connect(&connections).await;
    let counted = || capacity.counters.in_flight.load(Ordering::Relaxed);
    let before = counted();
    let in_flight = || (peer.handle.usage.in_flight(), counted());
    let connection = state(&capacity, &peer);
    connection.outbound.watch();
    for (length, is_long) in [(1, false), (2 * limits::FRAME, true)] {
        let layer = ShedLayer::new(connection.clone(), false);
        let service = service_fn(async |_: Request<()>| {
            let body = Full::new(Bytes::from(vec![0; length]));
            Ok::<_, Infallible>(Response::new(body))
        });
        let service = ServiceBuilder::new().layer(layer).service(service);
        let request = Request::get("/").header("host", "a").body(()).unwrap();
        let mut body = service.oneshot(request).await.unwrap().into_body();
        assert_eq!(in_flight(), (1, before + 1));
        while body.frame().await.is_some() {}
        drop(body);
        assert_eq!(in_flight().0, usize::from(is_long));
        connection.outbound.note_flushed();
        connection.outbound.drained();
        assert_eq!(in_flight(), (0, before));
    }
}
