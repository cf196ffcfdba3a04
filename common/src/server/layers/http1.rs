//! [`read_to_end`], [`say_goodbye`] and [`note_framing`]: keep HTTP/1 from losing requests and
//! responses. HTTP/2 has frames for all these cases.
//!
//! - An early response, before the whole request has been read. If the server then closes the
//!   connection, the kernel resets it because of the unread input, and the client may lose the
//!   response. So the rest of the request is read and discarded, within limits.
//! - An early response to a client that waits with its body (`Expect: 100-continue`). Such a client
//!   sends the body or the next request, and the server can't tell which. So the response has
//!   `Connection: close`.
//! - The end of a connection that has reached its maximum age, or whose service drains. If the server
//!   closes it between two requests, the next request may already be on its way, and is lost. So the
//!   last response has `Connection: close`, and the others say when an idle connection ends.
//! - A stream over HTTP/1.0, which is as long as its connection. If it breaks off, a regular end of the
//!   connection would make it look whole. So the socket ends with a reset.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Buf;
use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Response, Version,
    header::{CONNECTION, EXPECT},
};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::{runtime::Handle, time::timeout};

use super::access::length_of;
use crate::{
    body::DroppableBody,
    headers::first,
    limits,
    server::connection::state::{ConnectionState, Tail},
};

/// Returns the request with a body whose rest is read after an early response.
pub(crate) fn read_to_end<B>(
    request: Request<B>,
    connection: &Arc<ConnectionState>,
) -> Request<Http1Body<B>>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
{
    let is_http1 = request.version() < Version::HTTP_2;
    if is_http1 {
        let http1 = &connection.http1;
        http1.is_1_0.set(request.version() == Version::HTTP_10);
        http1.asks_to_close.set(asks_to_close(request.headers()));
    }
    let has_rest = is_http1 && !request.body().is_end_stream();
    let lingers_on = has_rest.then(|| connection.clone());
    if let Some(connection) = &lingers_on {
        connection.inbound.note_body_begins();
        let waits = waits_with_body(&request);
        connection.http1.waits_with_body.set(waits);
    }
    request.map(|body| Http1Body {
        last: body.size_hint().exact().map(|_| Tail::default()),
        body: DroppableBody::new(body),
        lingers_on,
    })
}

/// Whether the client waits for `100 Continue` with the body.
fn waits_with_body<B>(request: &Request<B>) -> bool {
    let expected = request.headers().get(EXPECT);
    let is_continue = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"100-continue");
    request.version() == Version::HTTP_11 && expected.is_some_and(is_continue)
}

fn asks_to_close(headers: &HeaderMap) -> bool {
    first(headers, &CONNECTION).is_some_and(|connection| connection == "close")
}

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// Marks the response as the last one of a connection that is to end, or of one whose client may still
/// send the body of its request or not. Other responses say with `keep_alive` how long the connection
/// stays open without a request.
pub(crate) fn say_goodbye(
    headers: &mut HeaderMap,
    connection: &ConnectionState,
    keep_alive: Option<&HeaderValue>,
) {
    let is_last = connection.handle.told_to_close().is_some();
    if connection.is_http2.get() {
        if is_last {
            connection.has_responded.set(true);
        }
    } else if is_last || connection.http1.waits_with_body.get() {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    } else if let Some(keep_alive) = keep_alive
        && !connection.http1.asks_to_close.get()
    {
        headers.insert(KEEP_ALIVE, keep_alive.clone());
    }
}

/// Notes whether the end of the connection is the end of this response. hyper decides by the version of
/// the request and that of the response, which a handler may pass on (h1/role.rs, `encode_headers`).
pub(crate) fn note_framing<R: Body>(response: &Response<R>, connection: &ConnectionState) {
    if !connection.is_http2.get() {
        let http1 = &connection.http1;
        let is_1_0 = http1.is_1_0.get() || response.version() == Version::HTTP_10;
        let has_length = || response.body().is_end_stream() || length_of(response).is_some();
        http1.ends_response.set(is_1_0 && !has_length());
    }
}

/// A request body. When it is dropped early, a task reads the rest.
#[derive(Debug)]
pub(crate) struct Http1Body<B>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
{
    body: DroppableBody<B>,
    /// The last bytes, unless it is chunked.
    last: Option<Tail>,
    lingers_on: Option<Arc<ConnectionState>>,
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
        if let Some(connection) = &self.lingers_on {
            connection.http1.waits_with_body.set(false); // hyper sends `100 Continue` now
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let (Some(last), Some(Ok(frame))) = (&mut self.last, &frame) {
            note_last(last, frame);
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

impl<B> Drop for Http1Body<B>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
{
    fn drop(&mut self) {
        let Some((connection, body)) = self.lingers_on.take().zip(self.body.take()) else {
            return;
        };
        let mut last = self.last;
        match Handle::try_current() {
            Ok(runtime) if !body.is_end_stream() => {
                runtime.spawn(async move {
                    connection.http1.waits_with_body.set(false);
                    let _ = timeout(limits::LINGER_TIMEOUT, read_on(body, &mut last)).await;
                    connection.inbound.note_body_ends(last);
                });
            }
            _ => connection.inbound.note_body_ends(last),
        }
    }
}

/// Adds the bytes of a frame to the last bytes of its body. A frame of hyper has one piece.
fn note_last<D: Buf>(last: &mut Tail, frame: &Frame<D>) {
    if let Some(data) = frame.data_ref() {
        last.add(data.chunk());
    }
}

async fn read_on<B: Body + Unpin>(mut body: B, last: &mut Option<Tail>) {
    let mut left = limits::LINGER_LIMIT;
    while let Some(Ok(frame)) = body.frame().await {
        if let Some(last) = last {
            note_last(last, &frame);
        }
        let read = frame.data_ref().map_or(0, Buf::remaining);
        let Some(rest) = left.checked_sub(read) else {
            return;
        };
        left = rest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::capacity::{handle::Close, worker_capacity::WorkerCapacity};

    #[test]
    fn a_response_says_how_long_its_connection_stays() {
        const TOLD: HeaderValue = HeaderValue::from_static("timeout=70");
        let headers_of = |prepare: fn(&ConnectionState)| {
            let connection = ConnectionState::alone(Arc::new(WorkerCapacity::alone(1)));
            prepare(&connection);
            let mut headers = HeaderMap::new();
            say_goodbye(&mut headers, &connection, Some(&TOLD));
            let header = |name| Some(headers.get(name)?.to_str().unwrap().to_owned());
            (header(CONNECTION), header(KEEP_ALIVE))
        };
        let (close, told) = (Some("close".to_owned()), Some("timeout=70".to_owned()));
        assert_eq!(headers_of(|_| ()), (None, told));
        let asks_to_close = |connection: &ConnectionState| connection.http1.asks_to_close.set(true);
        assert_eq!(headers_of(asks_to_close), (None, None));
        assert_eq!(
            headers_of(|connection| connection.handle.close(Close::Leave)),
            (close, None)
        );
        let over_http_2 = |connection: &ConnectionState| {
            connection.is_http2.set(true);
            connection.handle.close(Close::Leave);
        };
        assert_eq!(headers_of(over_http_2), (None, None));
    }
}
