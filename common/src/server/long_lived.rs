//! For layer 5: calls of methods that may take longer than all others are bounded in number, and
//! end when the service drains.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::shed::Overloaded;
use crate::limited::Limited;

/// The part of the requests in flight that may be long-lived; the others are for those that end.
const SHARE: usize = 4;

/// How long after the drain began they end: a client that watches the health of the service has
/// heard by then that it does not serve any more.
const GRACE: Duration = Duration::from_secs(1);

/// The long-lived calls of a worker.
#[derive(Debug, Clone)]
pub(super) struct LongLived {
    places: Arc<Semaphore>,
    limit: usize,
    telling: Arc<Limited>,
    draining: CancellationToken,
    grace: Duration,
}

impl LongLived {
    /// For a worker that may have `max_in_flight` requests, and drains for `drain_timeout`.
    pub(super) fn new(max_in_flight: usize, drain_timeout: Duration) -> Self {
        let limit = max_in_flight.div_ceil(SHARE).min(Semaphore::MAX_PERMITS);
        Self {
            places: Arc::new(Semaphore::new(limit)),
            limit,
            telling: Arc::new(Limited::per_second(1)),
            draining: CancellationToken::new(),
            grace: GRACE.min(drain_timeout / 2),
        }
    }

    /// Ends them all, soon.
    pub(super) fn drain(&self) {
        self.draining.cancel();
    }

    /// One more, where there is a place for it.
    pub(super) fn begin(&self) -> Result<Call, Overloaded> {
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            let is_told = self.telling.tell().is_some();
            if is_told {
                warn!(
                    action = "long_lived",
                    status = "failure",
                    limit = self.limit,
                    "more long-lived calls than this worker may have; they are refused"
                );
            }
            return Err(Overloaded { is_told });
        };
        let (draining, grace) = (self.draining.clone(), self.grace);
        Ok(Call {
            end: Box::pin(async move {
                draining.cancelled().await;
                sleep(grace).await;
            }),
            _place: place,
        })
    }
}

/// A long-lived call, which is one of so many.
pub(super) struct Call {
    /// When it has to end.
    end: Pin<Box<dyn Future<Output = ()> + Send>>,
    _place: OwnedSemaphorePermit,
}

impl Call {
    /// Ready once it has to end.
    pub(super) fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.end.as_mut().poll(cx)
    }
}

/// The service drains, and a call that may last for ever must not hold it.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the service is about to stop; call again to reach another")]
pub(super) struct Draining;
