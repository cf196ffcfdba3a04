//! [`ResponseBody`]: the response of an attempt, from its head to its end.

use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::RecvStream;
use http::HeaderMap;
use http_body::{Body, Frame};
use tonic::Status;

use super::{signs::InFlight, upload::Upload};
use crate::client::Failure;

/// The body of a response. What its call still sends dies with it.
#[derive(Debug)]
pub(in crate::client) struct ResponseBody {
    /// A frame that came already.
    first: Option<Frame<Bytes>>,
    rest: Rest,
    upload: Option<Upload>,
    in_flight: Option<InFlight>,
}

/// What is still to come of a response.
#[derive(Debug)]
enum Rest {
    Data(RecvStream),
    Trailers(RecvStream),
    Over,
}

impl ResponseBody {
    pub(super) fn new(body: RecvStream, upload: Option<Upload>) -> Self {
        let mut this = Self {
            first: None,
            rest: Rest::Over,
            upload,
            in_flight: None,
        };
        if body.is_end_stream() {
            this.end();
        } else {
            this.rest = Rest::Data(body);
        }
        this
    }

    /// The call is in flight until the end of this.
    pub(super) fn hold(&mut self, in_flight: InFlight) {
        if !matches!(self.rest, Rest::Over) {
            self.in_flight = Some(in_flight);
        }
    }

    /// Waits for the first frame.
    pub(super) async fn begin(&mut self) -> Result<(), Failure> {
        self.first = poll_fn(|cx| self.poll_rest(cx)).await.transpose()?;
        Ok(())
    }

    /// The block of headers that has the gRPC status, where the response with this head is known
    /// to be a status and nothing else.
    pub(in crate::client) fn bare_status<'a>(
        &'a self,
        head: &'a HeaderMap,
    ) -> Option<&'a HeaderMap> {
        match (&self.first, &self.rest) {
            (Some(frame), _) => frame.trailers_ref(),
            (None, Rest::Over) => Some(head),
            (None, _) => None,
        }
    }

    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        let frame = match self.rest.poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => Some(Ok(frame)),
            Poll::Ready(None) => None,
            // The failure of the request stream comes before the reset that it makes.
            broken => match self.upload.as_mut().map(|upload| upload.poll_failure(cx)) {
                Some(Poll::Ready(status)) => Some(Err(Failure::Request(status))),
                _ => ready!(broken).map(|frame| frame.map_err(Failure::from)),
            },
        };
        if !matches!(&frame, Some(Ok(frame)) if frame.is_data()) {
            self.end();
        }
        Poll::Ready(frame)
    }

    /// The call is over, and with it what it still sends.
    fn end(&mut self) {
        self.rest = Rest::Over;
        self.upload = None;
        self.in_flight = None;
    }
}

impl Rest {
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        loop {
            match self {
                Self::Data(stream) => match ready!(stream.poll_data(cx)) {
                    Some(Ok(data)) => {
                        // What is read makes room for more.
                        let _ = stream.flow_control().release_capacity(data.len());
                        return Poll::Ready(Some(Ok(Frame::data(data))));
                    }
                    Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                    None => {
                        if let Self::Data(stream) = std::mem::replace(self, Self::Over) {
                            *self = Self::Trailers(stream);
                        }
                    }
                },
                Self::Trailers(stream) => {
                    let trailers = ready!(stream.poll_trailers(cx));
                    *self = Self::Over;
                    let trailers = trailers.transpose();
                    return Poll::Ready(trailers.map(|trailers| trailers.map(Frame::trailers)));
                }
                Self::Over => return Poll::Ready(None),
            }
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(first)));
        }
        let frame = ready!(self.poll_rest(cx));
        Poll::Ready(frame.map(|frame| frame.map_err(Failure::into_status)))
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && matches!(self.rest, Rest::Over)
    }
}
