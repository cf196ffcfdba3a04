//! The client: the stack that every outbound call passes, over a channel that is opened once
//! and reused.
//!
//! [`connect`] gives a [`Client`] to build generated gRPC clients on. Make one for each worker
//! and clone it for each call. Its stack, top to bottom, is the type [`Client`] itself:
//!
//! 1. [`TimingService`]: the call is in the `Server-Timing` of its request; on top, to measure
//!    what the handler waits for.
//! 2. [`DeadlineService`]: with nothing left no call is made, and no call outlives its deadline;
//!    above all the rest, as whatever is done there must fit in.
//! 3. [`ContextService`]: `request_id` and `grpc-timeout` go out; next to the wire, so that the
//!    timeout says what is left when the call leaves.
//! 4. [`TransportService`]: whatever breaks the connection is `UNAVAILABLE`.
//! 5. [`Channel`]: one HTTP/2 connection, opened by the first call and again after a break.
//!
//! Retries and the choice of a replica will stand between 2 and 3.

mod context;
mod deadline;
mod target;
mod timing;
mod transport;

use std::time::Duration;

use tokio::time::sleep;
use tonic::{
    Code,
    transport::{Channel, Endpoint},
};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

pub use self::{
    context::ContextService,
    deadline::DeadlineService,
    target::{InvalidTarget, Target},
    timing::TimingService,
    transport::TransportService,
};
use crate::{Context, Deadline, RequestId};

/// A connection attempt that takes longer is given up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How long one question of [`answered`] may take, and the pause before the next.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
const PROBE_PAUSE: Duration = Duration::from_millis(100);

/// The outbound stack.
pub type Client = TimingService<DeadlineService<ContextService<TransportService<Channel>>>>;

/// A client for the service at `target`. Nothing is connected before the first call.
///
/// `deadline` bounds a call that is made outside of any request; one that is part of a request
/// has that request's deadline. No call can forget to have one.
///
/// # Panics
///
/// When it is called outside of a tokio runtime.
pub fn connect(target: &Target, deadline: Duration) -> Client {
    let channel = Endpoint::from(target.uri().clone())
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .connect_lazy();
    TimingService::new(DeadlineService::new(
        ContextService::new(TransportService::new(channel)),
        deadline,
    ))
}

/// Waits until the service behind a client has answered a call, of whatever kind the answer is,
/// but for one that says that it is not serving.
///
/// It asks `grpc.health.v1`; a service that does not know that has answered, too.
pub async fn answered(client: Client) {
    let mut health = HealthClient::new(client);
    loop {
        let probe = Context::new(RequestId::fresh(), Deadline::after(PROBE_TIMEOUT));
        let answer = probe
            .scope(health.check(HealthCheckRequest::default()))
            .await;
        match answer.map(|answer| answer.into_inner().status()) {
            Ok(tonic_health::pb::health_check_response::ServingStatus::NotServing) => {}
            Err(status) if matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded) => {}
            Ok(_) | Err(_) => return,
        }
        sleep(PROBE_PAUSE).await;
    }
}
