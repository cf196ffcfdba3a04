//! [`Evictable`]: what carries a request, and is dropped when the request has to give way.

use std::{
    cell::Cell,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use super::places::{self, Request};

pin_project_lite::pin_project! {
    /// What carries a request, an HTTP/2 stream or an HTTP/1.1 connection: it is dropped when its
    /// client takes nothing and the request has to give way, as nobody asks the body then.
    pub(super) struct Evictable<F> {
        #[pin]
        inner: Option<F>,
        request: Option<Arc<Request>>,
    }
}

impl<F> Evictable<F> {
    /// For one that carries this request; another that begins while it runs takes its place.
    pub(super) fn new(inner: F, request: Option<Arc<Request>>) -> Self {
        Self {
            inner: Some(inner),
            request,
        }
    }

    /// It carries this request from now on.
    pub(super) fn carry(self: Pin<&mut Self>, request: Option<Arc<Request>>, cx: &Context<'_>) {
        if let Some(request) = &request {
            request.wake_to_give_way(cx.waker());
        }
        *self.project().request = request;
    }

    /// What it stands for, if that is still there.
    pub(super) fn inner(self: Pin<&mut Self>) -> Option<Pin<&mut F>> {
        self.project().inner.as_pin_mut()
    }
}

impl<F: Future> Future for Evictable<F> {
    /// `None` where it had to give way.
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
            GIVING_WAY.set(true);
            this.inner.set(None);
            GIVING_WAY.set(false);
            return Poll::Ready(None);
        }
        let poll = inner.poll(cx);
        if let Some(begun) = places::take_begun() {
            *this.request = Some(begun);
        }
        this.request.take_if(|request| request.is_over());
        if let (Poll::Pending, Some(request)) = (&poll, this.request) {
            request.wake_to_give_way(cx.waker());
        }
        poll.map(Some)
    }
}

thread_local! {
    static GIVING_WAY: Cell<bool> = const { Cell::new(false) };
}

/// Whether what is dropped on this thread gives way to others.
pub(super) fn is_giving_way() -> bool {
    GIVING_WAY.get()
}
