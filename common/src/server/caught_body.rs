//! Layer 4, for bodies: a panic while an answer is streamed ends that answer and nothing else.
//!
//! tower-http's catch-panic watches over a handler until it has its response; what the body does
//! after that would take the connection down.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll},
};

use axum::BoxError;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tonic::Code;

use super::tonic_status;
use crate::{body::DroppableBody, protocol::Protocol};

/// The handler panicked in the middle of its answer.
#[derive(Debug, thiserror::Error)]
#[error("the service failed in the middle of the answer")]
struct Panicked;

pin_project_lite::pin_project! {
    /// Passes on the frames of a body; where it panics, drops it and breaks off.
    pub(super) struct CaughtBody<B> {
        #[pin]
        body: DroppableBody<B>,
        protocol: Protocol,
    }
}

impl<B> CaughtBody<B> {
    pub(super) fn new(body: B, protocol: Protocol) -> Self {
        Self {
            body: DroppableBody::new(body),
            protocol,
        }
    }
}

impl<B> Body for CaughtBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut this = self.project();
        let body = this.body.as_mut();
        if let Ok(poll) = catch_unwind(AssertUnwindSafe(|| body.poll_frame(cx))) {
            return poll.map(|frame| {
                frame.map(|frame| frame.map(tonic_status::corrected).map_err(Into::into))
            });
        }
        // The panic hook has logged it, with the location.
        this.body.drop_body();
        Poll::Ready(Some(this.protocol.break_off(Code::Internal, Panicked)))
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
    use futures_util::stream;
    use http_body_util::{BodyExt, StreamBody};
    use tonic::Status;

    use super::*;

    /// A frame, and then a panic.
    fn body() -> impl Body<Data = Bytes, Error = BoxError> {
        StreamBody::new(stream::unfold(0, async |sent| {
            assert_eq!(sent, 0, "the body panics");
            Some((Ok(Frame::data(Bytes::from_static(b"data"))), 1))
        }))
    }

    #[tokio::test]
    async fn a_panic_breaks_off_the_answer_as_its_protocol_has_it() {
        let mut grpc = std::pin::pin!(CaughtBody::new(body(), Protocol::Grpc));
        assert!(grpc.frame().await.unwrap().unwrap().is_data());
        let trailers = grpc
            .frame()
            .await
            .unwrap()
            .unwrap()
            .into_trailers()
            .unwrap();
        assert_eq!(trailers[Status::GRPC_STATUS], "13");
        assert!(grpc.frame().await.is_none());

        let mut http = std::pin::pin!(CaughtBody::new(body(), Protocol::Http));
        assert!(http.frame().await.unwrap().unwrap().is_data());
        assert!(http.frame().await.unwrap().unwrap_err().is::<Panicked>());
        assert!(http.frame().await.is_none());
    }
}
