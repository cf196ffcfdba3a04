//! The outbound stack: every layer that a call passes, top to bottom; and the [`Client`] made of it.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use http::Request;
use tonic::{Status, body::Body};
use tower::{Service, ServiceBuilder, layer::layer_fn};

use super::{
    call::{CallDeadline, CallLimit, CallTiming},
    retry::attempts::Attempts,
};
use crate::{
    calls::{CALLS, ServiceCalls},
    request::methods::RouteTable,
};

type Stack = CallTiming<CallDeadline<CallLimit<Attempts>>>;

/// Puts the layers on the attempts of a call.
///
/// Below the layers is what the calls of a worker share:
///
/// - `choice` picks the replica of an attempt.
/// - `wire` makes the attempt on the replica's connection. It writes `request_id` and
///   `grpc-timeout` last, so that the timeout is what is left when the attempt leaves.
pub(crate) fn outbound(
    attempts: Attempts,
    deadlines: &RouteTable,
    service: &Arc<ServiceCalls>,
) -> Client {
    let stack: Stack = ServiceBuilder::new()
        // The time of the call, for the `Server-Timing` of its request. On top, to measure what the
        // handler waits for.
        .layer(layer_fn(CallTiming::new))
        // No call starts or lasts beyond its deadline. Above the attempts, as the deadline bounds
        // all of them together.
        .layer(layer_fn(|inner| {
            CallDeadline::new(inner, deadlines.clone())
        }))
        // A call beyond `MAX_CALLS` to a service that hangs fails at once. Above the attempts, as no
        // other attempt would help, and no replica is at fault.
        .layer(layer_fn(|inner| {
            CallLimit::new(inner, deadlines.clone(), &CALLS, service.clone())
        }))
        // A call is sent again where that is safe and may help, and a late one gets a second attempt.
        // Above the choice of a replica, so that each attempt goes to the best replica of that moment.
        .service(attempts);
    Client(Arc::new(stack))
}

/// A client of one worker: the channel of generated clients. Clone it for each call; clones share
/// their connections.
///
/// ```
/// use common::client::{self, Channel};
/// use std::time::Duration;
/// use tonic::Code;
/// use tonic_health::pb::{FILE_DESCRIPTOR_SET, HealthCheckRequest, health_client::HealthClient};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let target = "127.0.0.1:1".parse().unwrap(); // nobody listens there
/// let config = client::Config { failfast: Duration::ZERO, ..client::Config::default() };
/// let channel = Channel::plain(&target, FILE_DESCRIPTOR_SET, &config, Duration::from_secs(10));
/// let client: client::Client = channel.connect();
///
/// let mut health = HealthClient::new(client.clone());
/// let check = health.check(HealthCheckRequest::default());
/// assert_eq!(check.await.unwrap_err().code(), Code::Unavailable);
/// # }
/// ```
///
/// A call never outlives the deadline of the request that it is part of, and carries its id. It is
/// sent again where that is safe and may help, and its time is in the `Server-Timing` of the request.
#[derive(Debug, Clone)]
pub struct Client(Arc<Stack>); // a pointer, as handlers and their futures hold several clones

impl Service<Request<Body>> for Client {
    type Response = <Stack as Service<Request<Body>>>::Response;
    type Error = Status;
    type Future = <Stack as Service<Request<Body>>>::Future;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(())) // each call waits for a replica on its own
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Stack::clone(&self.0).call(request)
    }
}
