//! The outbound stack, all of it, top to bottom.

use std::sync::Arc;

use super::{
    call::{deadline::CallDeadline, limit::CallLimit, timing::CallTiming},
    retry::attempts::Attempts,
};
use crate::{
    calls::{CALLS, ServiceCalls},
    request::methods::RouteTable,
};

/// The layers that each outbound call passes. A generated client takes it as its channel:
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
/// The layers are:
///
/// 1. [`CallTiming`]: the time of the call goes into the `Server-Timing` of its request. On top,
///    to measure what the handler waits for.
/// 2. [`CallDeadline`]: no call starts or lasts beyond its deadline. Above the attempts, as the
///    deadline bounds all of them together.
/// 3. [`CallLimit`]: a call beyond `MAX_CALLS` to a service that hangs fails at once. Above the attempts, as no other attempt
///    would help, and no replica is at fault.
/// 4. [`Attempts`]: a call is sent again where that is safe and may help, and a late one gets a
///    second attempt. Above the choice of a replica, so that each attempt goes to the best replica
///    of that moment.
///
/// Below the layers is what the calls of a worker share:
///
/// - `pool` picks the replica of an attempt.
/// - `wire` makes the attempt on the replica's connection. It writes `request_id` and
///   `grpc-timeout` last, so that the timeout is what is left when the attempt leaves.
pub type Client = CallTiming<CallDeadline<CallLimit<Attempts>>>;

/// Puts the upper layers on the attempts.
pub(crate) fn outbound(
    attempts: Attempts,
    deadlines: RouteTable,
    service: Arc<ServiceCalls>,
) -> Client {
    let limited = CallLimit::new(attempts, deadlines.clone(), &CALLS, service);
    CallTiming::new(CallDeadline::new(limited, deadlines))
}
