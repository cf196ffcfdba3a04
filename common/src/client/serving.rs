//! Whether a service serves, as it says over `grpc.health.v1`.

use std::time::Duration;

use tokio::time::sleep;
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;

use super::{stack::Client, wire::watch::check_health};

/// The time limit of one check in [`wait_until_serving`]. It is long, as a slow service still
/// serves.
const CHECK_TIMEOUT: Duration = Duration::from_secs(10);

/// The pause before the next check.
const CHECK_PAUSE: Duration = Duration::from_millis(100);

/// Waits until the service behind a client serves.
///
/// The client calls `grpc.health.v1` until the response is neither `NOT_SERVING` nor an error with
/// `UNAVAILABLE` or `DEADLINE_EXCEEDED`. Another error ends the wait as well: a service without
/// health checks responds with `UNIMPLEMENTED`.
pub async fn wait_until_serving(client: Client) {
    loop {
        match check_health(client.clone(), CHECK_TIMEOUT).await {
            Ok(ServingStatus::NotServing) => {}
            Err(status) if matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded) => {}
            Ok(_) | Err(_) => return,
        }
        sleep(CHECK_PAUSE).await;
    }
}
