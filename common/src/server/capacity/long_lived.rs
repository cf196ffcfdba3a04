//! [`LongLived`]: when the service drains, ends the calls of methods whose deadline is longer than
//! `DEADLINE`.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::limits;

#[derive(Debug)]
pub(crate) struct LongLived {
    pub(crate) draining: CancellationToken,
    grace: Duration,
}

impl LongLived {
    /// The long-lived calls of a worker whose drain begins when `draining` is cancelled, and lasts
    /// for `drain_timeout`.
    pub(crate) fn new(draining: CancellationToken, drain_timeout: Duration) -> Self {
        Self {
            draining,
            grace: limits::LONG_LIVED_GRACE.min(drain_timeout / 2),
        }
    }

    pub(crate) fn begin(&self) -> LongLivedCall {
        let (draining, grace) = (self.draining.clone(), self.grace);
        LongLivedCall(Box::pin(async move {
            draining.cancelled().await;
            sleep(grace).await;
        }))
    }
}

/// A long-lived call.
pub(crate) struct LongLivedCall(Pin<Box<dyn Future<Output = ()> + Send>>);

impl LongLivedCall {
    /// Ready once the call must end.
    pub(crate) fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(cx)
    }
}

/// The service drains, and does not wait for long-lived calls.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the service is about to stop; call again to reach another")]
pub(crate) struct Draining;
