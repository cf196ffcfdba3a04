//! [`DroppableBody`]: the base of the body wrappers in both stacks.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use http_body::{Body, Frame, SizeHint};

pin_project_lite::pin_project! {
    /// A body that can be dropped before its wrapper is, together with the work that makes its
    /// frames. A dropped body is at its end.
    #[derive(Debug)]
    pub struct DroppableBody<B> {
        #[pin]
        body: Option<B>,
    }
}

impl<B> DroppableBody<B> {
    pub(crate) fn new(body: B) -> Self {
        Self { body: Some(body) }
    }

    pub(crate) fn drop_body(self: Pin<&mut Self>) {
        self.project().body.set(None);
    }

    /// The body itself, if it is still there.
    pub(crate) fn take(&mut self) -> Option<B>
    where
        B: Unpin,
    {
        self.body.take()
    }
}

impl<B: Body> Body for DroppableBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        match self.project().body.as_pin_mut() {
            Some(body) => body.poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body
            .as_ref()
            .map_or_else(SizeHint::default, Body::size_hint)
    }
}
