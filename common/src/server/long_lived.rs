//! For layer 5: calls of methods that may take longer than all others end when the service drains.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// How long after the drain began they end: a client that watches the health of the service has
/// heard by then that it does not serve any more.
const GRACE: Duration = Duration::from_secs(1);

/// When the long-lived calls of a worker end.
#[derive(Debug)]
pub(super) struct LongLived {
    draining: CancellationToken,
    grace: Duration,
}

impl LongLived {
    /// For a worker that drains for `drain_timeout`.
    pub(super) fn new(drain_timeout: Duration) -> Self {
        Self {
            draining: CancellationToken::new(),
            grace: GRACE.min(drain_timeout / 2),
        }
    }

    /// Ends them all, soon.
    pub(super) fn drain(&self) {
        self.draining.cancel();
    }

    /// One more.
    pub(super) fn begin(&self) -> Call {
        let (draining, grace) = (self.draining.clone(), self.grace);
        Call(Box::pin(async move {
            draining.cancelled().await;
            sleep(grace).await;
        }))
    }
}

/// When a long-lived call has to end.
pub(super) struct Call(Pin<Box<dyn Future<Output = ()> + Send>>);

impl Call {
    /// Ready once it has to.
    pub(super) fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(cx)
    }
}

/// The service drains, and a call that may last for ever must not hold it.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the service is about to stop; call again to reach another")]
pub(super) struct Draining;
