//! The health check of a replica. gRPC's servers allow health checks at any rate, unlike PINGs.

use std::{pin::pin, time::Duration};

use axum::BoxError;
use bytes::Bytes;
use http::Request;
use http_body::Body;
use tokio::select;
use tonic::{Code, Status, client::GrpcService};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tower::service_fn;

use super::{connection::Connection, request_body::RequestBody};
use crate::{
    client::{
        ending::{details, failure::Failure},
        patience::patience,
    },
    request::context::{Context, Deadline, RequestId},
};

/// The clock of health checks. Time counts in ticks that leave out the [time for which this worker was
/// stuck](patience).
pub(crate) const TICK: Duration = Duration::from_millis(125);

/// The ticks that a reply may take: 1 s.
pub(crate) const REPLY: u32 = 8;

/// The deadline that a health check carries.
const DEADLINE: Duration = Duration::from_secs(20);

/// The reply to a health check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HealthReply {
    /// The replica is there, as most responses mean.
    Present,
    /// The replica says that it does not serve.
    NotServing,
    /// The replica, or a proxy before it, says that it is unavailable.
    Unavailable,
}

impl Connection {
    /// Asks whether the other end serves. Any bytes mean that it does, unless it says otherwise; an
    /// error says why it does not.
    pub(crate) async fn serves(&self) -> Result<(), &'static str> {
        let before = self.activity.counts().reads;
        let mut health_check = pin!(check(self));
        let mut reply = None;
        for _ in 0..REPLY {
            select! {
                biased;
                it = &mut health_check => {
                    reply = it;
                    break;
                }
                () = patience(TICK) => {}
            }
        }
        match reply {
            Some(HealthReply::Present) => Ok(()),
            Some(HealthReply::NotServing) => Err("it says that it does not serve"),
            Some(HealthReply::Unavailable) => Err("it says that it is unavailable"),
            None if self.activity.takes_streams() && self.activity.counts().reads > before => {
                Ok(())
            }
            None => Err("it does not respond"),
        }
    }
}

/// Asks a replica whether it serves. There is no reply if the connection ends before.
pub(crate) async fn check(connection: &Connection) -> Option<HealthReply> {
    let exchange = service_fn(async |request: Request<tonic::body::Body>| {
        let (head, body) = request.into_parts();
        let request = Request::from_parts(head, RequestBody::message(body).await?);
        let response = connection.exchange(request).await;
        let response = response.map_err(Failure::into_status);
        response.map(details::without_invalid)
    });
    let reply = check_health(exchange, DEADLINE).await;
    let is_unavailable = |status: &Status| status.code() == Code::Unavailable;
    match reply {
        Ok(ServingStatus::NotServing) => Some(HealthReply::NotServing),
        Err(_) if !connection.activity.takes_streams() => None,
        Err(status) if is_unavailable(&status) => Some(HealthReply::Unavailable),
        _ => Some(HealthReply::Present),
    }
}

/// Calls `grpc.health.v1` over `service`, in a context of its own whose deadline is in `limit`.
pub(crate) async fn check_health<S>(service: S, limit: Duration) -> Result<ServingStatus, Status>
where
    S: GrpcService<tonic::body::Body, Error: Into<BoxError>>,
    S::ResponseBody: Body<Data = Bytes, Error: Into<BoxError> + Send> + Send + 'static,
{
    let mut health = HealthClient::new(service);
    let check = health.check(HealthCheckRequest::default());
    let context = Context::new(RequestId::fresh(), Deadline::after(limit));
    Ok(context.scope(check).await?.into_inner().status())
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, thread};

    use tokio::task::yield_now;

    use super::*;
    use crate::client::{
        config::RequestIdNames,
        wire::{origin::Origin, tests::listen},
    };

    #[tokio::test]
    async fn a_worker_that_was_stuck_does_not_take_the_replica_for_dead() {
        let head = Origin::in_memory(RequestIdNames::Both);
        let connection = Connection::open(listen(), head, Arc::default())
            .await
            .unwrap();
        assert_eq!(connection.serves().await, Ok(()));
        for _ in 0..3 {
            let health_check = connection.serves();
            let stuck = async {
                // The question is on its way when the worker is stuck.
                for _ in 0..3 {
                    yield_now().await;
                }
                thread::sleep(TICK * (REPLY + 2));
            };
            let (reply, ()) = tokio::join!(health_check, stuck);
            assert_eq!(reply, Ok(()));
        }
    }
}
