//! The client: the stack that every outbound call passes, over a channel that is opened once
//! and reused.
//!
//! A [`Channel`] is a service that the process calls. [`Channel::connect`] gives each worker a
//! [`Client`] to build generated gRPC clients on; clone it for each call.
//!
//! | where | what is in it |
//! |---|---|
//! | `stack` | **the outbound stack**, top to bottom: the type [`Client`] |
//! | `layers` | the layers of the stack, and what they need |
//! | `pool` | the replicas of the service, what is true of each, and the choice among them |
//! | `wire` | one HTTP/2 connection, and one attempt of a call on it |
//! | `channel` | [`Channel`]: what the workers of the process share |
//! | `request_body` | what a call sends |
//! | `attempt_failure` | why an attempt has no response |
//! | `pushback` | when a server wants a call again |
//!
//! A replica is judged by true signs: the end of its connection, its failures, its silence when
//! it is asked; never by one slow response.

mod attempt_failure;
mod channel;
mod client_config;
#[cfg(test)]
mod fake;
mod layers;
mod pool;
mod pushback;
mod request_body;
mod stack;
mod target;
mod wire;

use std::time::Duration;

use tokio::time::sleep;
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use self::attempt_failure::Failure;
pub use self::{
    channel::Channel,
    client_config::{Config, RequestIdNames},
    layers::{AttemptsService, DeadlineService, TimingService},
    stack::Client,
    target::{InvalidTarget, Target},
};
use crate::{Context, Deadline, RequestId};

/// How long one question of [`answered`] may take, as a slow service is there too, and the pause
/// before the next.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);
const PROBE_PAUSE: Duration = Duration::from_millis(100);

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
