//! What HTTP/1 needs help with, so that no request and no answer is lost; HTTP/2 has frames for both.
//!
//! An answer that comes before the request is read to its end (more requests than there may be, a
//! body over the limit, a path that is not there): a server that then closes makes the kernel reset
//! the connection, for there is input that nobody read; and a client that is still sending may lose
//! the answer to that. So the rest is read and thrown away, within bounds.
//!
//! A connection that is too old: closed between two requests, it may meet the next one, which is
//! lost. So a response says that it is the last.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{HeaderValue, Request, Response, Version, header::CONNECTION};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::{runtime::Handle, time::timeout};
use tower::{Layer, Service};

use super::connections::Open;
use crate::body::DroppableBody;

/// How long the rest of a request is read (nginx: `lingering_timeout`).
const LINGER_TIMEOUT: Duration = Duration::from_secs(5);

/// How much of it is read, in bytes: enough for a body that is too long by mistake.
const LINGER_LIMIT: usize = 16 * 1_024 * 1_024;

/// Reads the rest of each HTTP/1 request that was answered early, and ends an old connection.
#[derive(Debug, Clone)]
pub(super) struct Http1Layer {
    pub(super) open: Arc<Open>,
}

impl<S> Layer<S> for Http1Layer {
    type Service = Http1Service<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Http1Service {
            inner,
            open: self.open.clone(),
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Http1Service<S> {
    inner: S,
    open: Arc<Open>,
}

impl<S, B, R> Service<Request<B>> for Http1Service<S>
where
    S: Service<Request<Http1Body<B>>, Response = Response<R>>,
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let is_http1 = request.version() < Version::HTTP_2;
        let is_last = is_http1 && self.open.is_old();
        let has_rest = is_http1 && !request.body().is_end_stream();
        let lingers_on = has_rest.then(|| self.open.clone());
        if let Some(open) = &lingers_on {
            open.note_body_begins();
        }
        let body = |body| Http1Body {
            body: DroppableBody::new(body),
            lingers_on,
        };
        ResponseFuture {
            inner: self.inner.call(request.map(body)),
            is_last,
        }
    }
}

pin_project_lite::pin_project! {
    /// The future of [`Http1Service`].
    pub(super) struct ResponseFuture<F> {
        #[pin]
        inner: F,
        // Whether the connection ends after the response.
        is_last: bool,
    }
}

impl<F, R, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut response = ready!(this.inner.poll(cx))?;
        if *this.is_last {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
        }
        Poll::Ready(Ok(response))
    }
}

/// A request body whose rest is read by a task of its own when it is dropped early.
#[derive(Debug)]
pub(super) struct Http1Body<B>
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
                    let _ = timeout(LINGER_TIMEOUT, read_on(body)).await;
                    open.note_body_ends();
                });
            }
            _ => open.note_body_ends(),
        }
    }
}

async fn read_on<B: Body + Unpin>(mut body: B) {
    let mut left = LINGER_LIMIT;
    while let Some(Ok(frame)) = body.frame().await {
        let read = frame.data_ref().map_or(0, bytes::Buf::remaining);
        let Some(rest) = left.checked_sub(read) else {
            return;
        };
        left = rest;
    }
}
