//! Two body wrappers for both stacks: [`DroppableBody`] can drop its body early, [`HoldingBody`] holds a
//! value until the last frame.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use http_body::{Body, Frame, SizeHint};

pin_project_lite::pin_project! {
    /// A body that can be dropped before its wrapper, which stops the work behind it. A dropped
    /// body is at its end.
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

    /// A body that was dropped.
    pub(crate) fn dropped() -> Self {
        Self { body: None }
    }

    pub(crate) fn drop_body(self: Pin<&mut Self>) {
        self.project().body.set(None);
    }

    /// Takes the body out, unless it was dropped.
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

pin_project_lite::pin_project! {
    /// A body that holds a value until its end, or until its first data. A body that is dropped drops
    /// the value, too.
    #[derive(Debug)]
    pub struct HoldingBody<B, T> {
        #[pin]
        body: B,
        held: Option<T>,
        is_held_with_data: bool,
    }
}

impl<B, T> HoldingBody<B, T> {
    pub(crate) fn until_end(body: B, held: T) -> Self {
        Self {
            body,
            held: Some(held),
            is_held_with_data: true,
        }
    }

    pub(crate) fn until_data(body: B, held: T) -> Self {
        Self {
            is_held_with_data: false,
            ..Self::until_end(body, held)
        }
    }
}

impl<B: Body, T> Body for HoldingBody<B, T> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let mut this = self.project();
        let frame = ready!(this.body.as_mut().poll_frame(cx));
        let may_go_on = matches!(&frame, Some(Ok(frame)) if frame.is_data());
        if !may_go_on || !*this.is_held_with_data || this.body.is_end_stream() {
            *this.held = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, sync::Arc};

    use bytes::Bytes;
    use futures_util::stream;
    use http::HeaderMap;
    use http_body_util::{BodyExt, Full, StreamBody};

    use super::*;

    /// A body that holds a value, and a function that returns whether the value is still held.
    fn holding<B: Body>(body: B) -> (HoldingBody<B, Arc<()>>, impl Fn() -> bool) {
        let value = Arc::new(());
        let is_held = Arc::downgrade(&value);
        let body = HoldingBody::until_end(body, value);
        (body, move || is_held.strong_count() > 0)
    }

    #[tokio::test]
    async fn a_value_is_held_until_the_last_frame() {
        let (mut body, is_held) = holding(Full::new(Bytes::from_static(b"data")));
        assert!(is_held());
        assert!(body.frame().await.is_some());
        assert!(!is_held(), "no frame can follow");

        let frames = [
            Frame::data(Bytes::from_static(b"data")),
            Frame::trailers(HeaderMap::new()),
        ];
        let frames = frames.map(Ok::<_, Infallible>);
        let (mut body, is_held) = holding(StreamBody::new(stream::iter(frames)));
        assert!(body.frame().await.is_some());
        assert!(is_held(), "trailers may follow");
        assert!(body.frame().await.is_some());
        assert!(!is_held(), "nothing follows trailers");

        let frames = stream::empty::<Result<Frame<Bytes>, Infallible>>();
        let (mut body, is_held) = holding(StreamBody::new(frames));
        assert!(is_held(), "a stream doesn't know its end before it is read");
        assert!(body.frame().await.is_none());
        assert!(!is_held());
    }

    #[tokio::test]
    async fn a_value_is_held_until_the_first_data() {
        let data = || Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"data")));
        let frames = stream::iter([data(), data()]);
        let value = Arc::new(());
        let held = Arc::downgrade(&value);
        let mut body = HoldingBody::until_data(StreamBody::new(frames), value);
        assert_eq!(held.strong_count(), 1);
        assert!(body.frame().await.is_some());
        assert_eq!(held.strong_count(), 0);
        assert!(body.frame().await.is_some());
    }

    #[tokio::test]
    async fn a_value_is_held_until_an_error() {
        let frames = stream::iter([Err::<Frame<Bytes>, _>("broken")]);
        let (mut body, is_held) = holding(StreamBody::new(frames));
        assert!(is_held());
        assert!(body.frame().await.is_some_and(|frame| frame.is_err()));
        assert!(!is_held());
    }

    #[test]
    fn a_value_is_held_until_the_body_is_dropped() {
        let (body, is_held) = holding(Full::new(Bytes::from_static(b"data")));
        assert!(is_held());
        drop(body);
        assert!(!is_held());
    }
}
