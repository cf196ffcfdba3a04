//! [`draining`]: tells the code of a service that the process drains.

use std::{cell::OnceCell, future::Future};

use tokio_util::sync::CancellationToken;

thread_local! {
    /// Cancelled when the process of this thread drains.
    static DRAINING: OnceCell<CancellationToken> = const { OnceCell::new() };
}

/// Makes this thread part of a process whose drain begins when `token` is cancelled.
pub(crate) fn join_process(token: CancellationToken) {
    DRAINING
        .with(|draining| draining.set(token))
        .expect("once in a thread");
}

/// Completes when the process drains. Call it on a worker or in a task: on any other thread it never
/// completes.
///
/// It ends a stream that would last until its client leaves:
///
/// ```
/// use common::context;
/// use futures_util::{StreamExt, stream};
///
/// # fn example() {
/// let events = stream::repeat("an event").take_until(Box::pin(context::draining()));
/// # drop(events);
/// # }
/// ```
pub fn draining() -> impl Future<Output = ()> + Send + 'static {
    let token = DRAINING.with(|draining| draining.get().cloned());
    async move {
        match token {
            Some(token) => token.cancelled().await,
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn a_thread_learns_of_the_drain_of_its_process() {
        assert_eq!(draining().now_or_never(), None);
        let token = CancellationToken::new();
        join_process(token.clone());
        assert_eq!(draining().now_or_never(), None);
        token.cancel();
        assert_eq!(draining().now_or_never(), Some(()));
    }
}
