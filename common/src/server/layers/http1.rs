//! [`read_to_end`] and [`close_if_old`]: keep HTTP/1 from losing requests and responses. HTTP/2 has
//! frames for both cases.
//!
//! - An early response, before the whole request has been read. If the server then closes the
//!   connection, the kernel resets it because of the unread input, and the client may lose the
//!   response. So the rest of the request is read and discarded, within limits.
//! - A connection at its maximum age. If the server closes it between two requests, the next
//!   request may already be on its way, and is lost. So the last response has `Connection: close`.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{HeaderValue, Request, Response, Version, header::CONNECTION};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::{runtime::Handle, time::timeout};

use crate::{body::DroppableBody, limits, server::capacity::open::Open};

/// Returns the request with a body whose rest is read after an early response.
pub(crate) fn read_to_end<B>(request: Request<B>, open: &Arc<Open>) -> Request<Http1Body<B>>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
{
    let has_rest = request.version() < Version::HTTP_2 && !request.body().is_end_stream();
    let lingers_on = has_rest.then(|| open.clone());
    if let Some(open) = &lingers_on {
        open.note_body_begins();
    }
    request.map(|body| Http1Body {
        body: DroppableBody::new(body),
        lingers_on,
    })
}

/// Marks the response as the last one of an old connection.
pub(crate) fn close_if_old<R>(mut response: Response<R>, open: &Open) -> Response<R> {
    if open.is_old() && !open.is_http2() {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(CONNECTION, close);
    }
    response
}

/// A request body. When it is dropped early, a task reads the rest.
#[derive(Debug)]
pub(crate) struct Http1Body<B>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
{
    body: DroppableBody<B>,
    lingers_on: Option<Arc<Open>>,
}

impl<B> Body for Http1Body<B>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
{
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B> Drop for Http1Body<B>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
{
    fn drop(&mut self) {
        let Some((open, body)) = self.lingers_on.take().zip(self.body.take()) else {
            return;
        };
        match Handle::try_current() {
            Ok(runtime) if !body.is_end_stream() => {
                runtime.spawn(async move {
                    let _ = timeout(limits::LINGER_TIMEOUT, read_on(body)).await;
                    open.note_body_ends();
                });
            }
            _ => open.note_body_ends(),
        }
    }
}

async fn read_on<B: Body + Unpin>(mut body: B) {
    let mut left = limits::LINGER_LIMIT;
    while let Some(Ok(frame)) = body.frame().await {
        let read = frame.data_ref().map_or(0, bytes::Buf::remaining);
        let Some(rest) = left.checked_sub(read) else {
            return;
        };
        left = rest;
    }
}
