//! One attempt of a call: the request goes out on a connection, and the response comes back, from its head
//! to its end ([`ResponseBody`]).

use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{RecvStream, client::ResponseFuture};
use http::{Request, Response};
use http_body::{Body, Frame};

use super::{
    activity::Closed,
    connection::Connection,
    in_flight::InFlight,
    request_body::{RequestBody, Upload},
};
use crate::client::ending::{class::Ending, failure::Failure};

/// How far an attempt reads before the call gets its response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReadUntil {
    /// The head of the response. A caller of a stream may wait for the head before it sends, and
    /// the first message may take any time.
    Head,
    /// The first frame after the head. A server may send an error as a head that looks fine,
    /// followed by trailers.
    FirstFrame,
}

impl InFlight {
    /// Makes one attempt of the call, which is in flight until the end of its response.
    pub(crate) async fn attempt(
        mut self,
        request: Box<Request<RequestBody>>,
        until: ReadUntil,
    ) -> Result<Response<ResponseBody>, Failure> {
        let exchanged = self.connection.exchange(request).await;
        let mut response = exchanged.inspect_err(|failure| {
            if failure.ending.is_of_closed_connection() {
                // At once, or the next attempt would take the connection again.
                self.connection.activity.close(Closed::GoingAway);
            }
        })?;
        if until == ReadUntil::FirstFrame {
            response.body_mut().read_first_frame().await?;
        }
        self.settle();
        response.body_mut().hold(self);
        Ok(response)
    }
}

impl Connection {
    /// Sends a request and returns once the response has begun. Does not count as a call.
    pub(crate) async fn exchange(
        &self,
        mut request: Box<Request<RequestBody>>,
    ) -> Result<Response<ResponseBody>, Failure> {
        let mut sender = self.sender();
        if poll_fn(|cx| sender.poll_ready(cx)).await.is_err() {
            self.activity.close(Closed::Lost);
            let why = "the connection was closed before the call";
            return Err(Failure::new(Ending::NotSent, why));
        }
        self.origin.write_to(&mut *request);
        let (head, body) = (*request).into_parts();
        let (response, mut stream) = sender
            .send_request(Request::from_parts(head, ()), false)
            .map_err(|error| Failure::of_sending(&error))?;
        self.activity.count_unsent();
        let mut upload = match body {
            RequestBody::Message(message) => {
                stream.send_data(message, true)?;
                None
            }
            RequestBody::Stream(body) => Some(Upload::start(&body, stream)),
        };
        let response = head_of(response, upload.as_mut()).await?;
        self.activity.note_answer();
        Ok(response.map(|body| ResponseBody::new(body, upload)))
    }
}

/// Waits for the head of a response, or for the failure of the upload.
async fn head_of(
    mut response: ResponseFuture,
    mut upload: Option<&mut Upload>,
) -> Result<Response<RecvStream>, Failure> {
    poll_fn(|cx| {
        let response = Pin::new(&mut response).poll(cx);
        if !matches!(response, Poll::Ready(Ok(_)))
            && let Some(upload) = &mut upload
            && let Poll::Ready(status) = upload.poll_failure(cx)
        {
            return Poll::Ready(Err(Failure::of_request(status)));
        }
        response.map_err(Failure::from)
    })
    .await
}

/// The body of a response. When it ends, so does the upload of the request stream.
#[derive(Debug)]
pub(crate) struct ResponseBody {
    /// A frame that was read ahead.
    first: Option<Frame<Bytes>>,
    /// The rest of the response, until its end.
    rest: Option<RecvStream>,
    upload: Option<Upload>,
    in_flight: Option<InFlight>,
}

impl ResponseBody {
    pub(crate) fn new(body: RecvStream, upload: Option<Upload>) -> Self {
        let is_over = body.is_end_stream();
        Self {
            first: None,
            rest: (!is_over).then_some(body),
            upload: upload.filter(|_| !is_over),
            in_flight: None,
        }
    }

    /// Keeps the call in flight until the end of the response.
    pub(crate) fn hold(&mut self, in_flight: InFlight) {
        self.in_flight = self.rest.is_some().then_some(in_flight);
    }

    /// Reads the first frame ahead.
    pub(crate) async fn read_first_frame(&mut self) -> Result<(), Failure> {
        self.first = poll_fn(|cx| self.poll_rest(cx)).await.transpose()?;
        Ok(())
    }

    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        let Some(rest) = &mut self.rest else {
            return Poll::Ready(None);
        };
        let frame = match poll_frame(rest, cx) {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(in_flight) = &self.in_flight {
                    in_flight.note_answer();
                }
                Some(Ok(frame))
            }
            Poll::Ready(None) => None,
            // A request stream that failed has reset its call. Its failure is the cause.
            broken => match self.upload.as_mut().map(|upload| upload.poll_failure(cx)) {
                Some(Poll::Ready(status)) => Some(Err(Failure::of_request(status))),
                _ => ready!(broken)
                    .map(|frame| frame.map_err(|error| Failure::from(error).after_head())),
            },
        };
        if !matches!(&frame, Some(Ok(frame)) if frame.is_data()) {
            self.rest = None;
            self.upload = None;
            self.in_flight = None;
        }
        Poll::Ready(frame)
    }
}

/// Reads a frame of data, or the trailers once no data is left.
fn poll_frame(
    stream: &mut RecvStream,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
    if let Some(data) = ready!(stream.poll_data(cx)) {
        return Poll::Ready(Some(data.map(|data| {
            // Lets the peer send as much again. Fails only if more is released than was received.
            let _ = stream.flow_control().release_capacity(data.len());
            Frame::data(data)
        })));
    }
    let trailers = ready!(stream.poll_trailers(cx)).transpose();
    Poll::Ready(trailers.map(|trailers| trailers.map(Frame::trailers)))
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(first)));
        }
        self.poll_rest(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.rest.is_none()
    }
}
