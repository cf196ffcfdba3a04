//! [`ResponseBody`]: the response of an attempt, from its head to its end.

use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::RecvStream;
use http_body::{Body, Frame};

use super::{in_flight::InFlight, upload::Upload};
use crate::client::ending::failure::Failure;

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
