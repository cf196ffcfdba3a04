//! [`Evictable`]: a stream or a connection that is dropped when its request must give way.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use crate::server::capacity::{
    cause::{self, Cause},
    in_flight::{self, Request},
};

pin_project_lite::pin_project! {
    /// An HTTP/2 stream or an HTTP/1.1 connection. hyper does not poll the body of a response while
    /// its client reads nothing, so the body can't end itself. This wrapper drops the stream or
    /// connection.
    pub(crate) struct Evictable<F> {
        #[pin]
        inner: Option<F>,
        request: Option<Arc<Request>>,
    }
}

impl<F> Evictable<F> {
    /// A stream or a connection with this request, until another request begins on it.
    pub(crate) fn new(inner: F, request: Option<Arc<Request>>) -> Self {
        Self {
            inner: Some(inner),
            request,
        }
    }

    /// Sets the request, and wakes the task of `cx` when the request must give way.
    pub(crate) fn carry(self: Pin<&mut Self>, request: Option<Arc<Request>>, cx: &Context<'_>) {
        if let Some(request) = &request {
            request.wake_to_give_way(cx.waker());
        }
        *self.project().request = request;
    }

    /// The stream or the connection, or `None` after it was dropped.
    pub(crate) fn inner(self: Pin<&mut Self>) -> Option<Pin<&mut F>> {
        self.project().inner.as_pin_mut()
    }
}

impl<F: Future> Future for Evictable<F> {
    /// `None` if the request had to give way.
    type Output = Option<F::Output>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let Some(inner) = this.inner.as_mut().as_pin_mut() else {
            return Poll::Ready(None);
        };
        if this
            .request
            .as_ref()
            .is_some_and(|request| request.is_cut_off())
        {
            cause::with_cause(Cause::GivesWay, || this.inner.set(None));
            return Poll::Ready(None);
        }
        let poll = inner.poll(cx);
        if let Some(begun) = in_flight::take_begun() {
            *this.request = Some(begun);
        }
        this.request.take_if(|request| request.is_over());
        if let (Poll::Pending, Some(request)) = (&poll, this.request) {
            request.wake_to_give_way(cx.waker());
        }
        poll.map(Some)
    }
}
