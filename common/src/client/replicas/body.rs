//! [`ReplicaBody`]: the body of a response, which its caller reads and by whose end its attempt is judged.

use std::{
    future::poll_fn,
    mem,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame};
use tokio::time::Instant;
use tonic::Status;

use super::{call_metrics::CallMetrics, judged_attempt::JudgedAttempt};
use crate::client::{
    ending::{
        class::Ending,
        failure::Failure,
        reading::{self, Reading},
    },
    wire::attempt::ResponseBody,
};

/// The end of a response, as its caller gets it.
#[derive(Debug)]
enum End {
    InHead,
    Trailers(HeaderMap),
    Failed(Failure),
}

/// The body of a response, whose end says something about its replica. It is boxed, as it is large,
/// and each layer moves the response.
#[derive(Debug)]
pub struct ReplicaBody {
    body: ResponseBody,
    /// `None` if the head was all of the response.
    reading: Option<Reading>,
    /// The data that was read ahead, in one piece.
    ahead: Bytes,
    /// The end of the response, once it was read, until the caller gets it.
    end: Option<End>,
    /// `None` once the caller has got all of the response.
    attempt: Option<JudgedAttempt>,
}

impl ReplicaBody {
    /// The body of the response to an attempt. It is over if there is no `reading`: the head was all of it.
    pub(super) fn new(
        body: ResponseBody,
        reading: Option<Reading>,
        attempt: JudgedAttempt,
    ) -> Self {
        Self {
            body,
            ahead: Bytes::new(),
            end: reading.is_none().then_some(End::InHead),
            reading,
            attempt: Some(attempt),
        }
    }

    /// Makes this the response of a call, which ends with it.
    pub(crate) fn end_with(&mut self, measured: CallMetrics) {
        if let Some(attempt) = &mut self.attempt {
            attempt.measured = Some(measured);
        }
    }

    /// Whether messages may be compressed.
    pub(crate) fn is_encoded(&self) -> bool {
        self.reading.as_ref().is_some_and(Reading::is_encoded)
    }

    /// Ends the response here, as its caller can't read it.
    pub(crate) fn refuse(mut self, ending: Ending) -> Failure {
        if let Some(attempt) = &mut self.attempt {
            attempt.ending = Some(ending);
        }
        Failure::of_response(ending)
    }

    /// How the attempt has ended, if all of the response was read.
    pub(crate) fn ending(&self) -> Option<Ending> {
        self.attempt.as_ref()?.ending
    }

    /// Reads the response to its end, if that is near. So an attempt that fails late can still be
    /// followed by another. The caller needs the end as well. A message that is longer than `most` is
    /// not waited for: its prefix may be all that the caller needs, to refuse it.
    pub(super) async fn read_ahead(&mut self, most: usize) -> Result<(), Failure> {
        // In one piece, as soon as there are two.
        let mut joined = BytesMut::new();
        while self.end.is_none() {
            let read = self.ahead.len() + joined.len();
            if read >= most || self.left() > most - read {
                break;
            }
            let Some(data) = poll_fn(|cx| self.poll_data(cx)).await else {
                break;
            };
            if read == 0 {
                self.ahead = data;
            } else {
                joined.extend_from_slice(&mem::take(&mut self.ahead));
                joined.extend_from_slice(&data);
            }
        }
        if !joined.is_empty() {
            self.ahead = joined.freeze();
        }
        match self.end.take() {
            Some(End::Failed(failure)) => Err(failure),
            end => {
                self.end = end;
                Ok(())
            }
        }
    }

    /// The bytes of the current message that are still to come.
    fn left(&self) -> usize {
        self.reading.as_ref().map_or(0, Reading::left)
    }

    /// Lets the codec that reads the response report to this attempt.
    pub(crate) fn offer_to_codec(&self) {
        if let Some(attempt) = &self.attempt {
            attempt.refusal.offer();
        }
    }

    /// Ends the response after a message that the codec has refused. tonic takes the error of a codec
    /// for no end of the stream, but it does so with a status.
    fn end_refused(&mut self) -> Result<Frame<Bytes>, Status> {
        self.attempt = None;
        self.ahead = Bytes::new();
        self.end = None;
        let mut trailers = HeaderMap::new();
        let failure = Failure::of_response(Ending::Undecodable);
        failure.into_status().add_header(&mut trailers)?;
        Ok(Frame::trailers(trailers))
    }

    /// Checks a message before its caller gets it, if a message of the method was refused before and
    /// this replica has failed lately. So another replica may serve the call.
    pub(super) fn check(&mut self) -> Result<(), Failure> {
        let Some(attempt) = &mut self.attempt else {
            return Ok(());
        };
        let is_too_long = self.reading.as_ref().is_some_and(Reading::is_too_long);
        let is_refused = match (&self.end, attempt.method.check()) {
            (Some(_), Some(check)) => {
                match &self.ahead[..] {
                    [0, _, _, _, _, message @ ..] => !check(message),
                    _ => false, // compressed, or none
                }
            }
            _ => is_too_long && attempt.method.was_too_long(),
        };
        if !is_refused || !attempt.replica.has_failed_lately(Instant::now()) {
            return Ok(());
        }
        attempt.ending = Some(Ending::Undecodable);
        Err(Failure::of_response(Ending::Undecodable))
    }

    /// Reads data of messages, or notes the end.
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let Some(reading) = &mut self.reading else {
            return Poll::Ready(None);
        };
        let (ending, trailers) = loop {
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => match reading.read(&data) {
                        Ok(()) if reading.is_message() => return Poll::Ready(Some(data)),
                        Ok(()) => {}
                        Err(ending) => break (ending, None),
                    },
                    Err(frame) => {
                        let trailers = frame.into_trailers().unwrap_or_default();
                        break (reading.end(Some(&trailers)), Some(Ok(trailers)));
                    }
                },
                None => break (reading.end(None), None),
                Some(Err(failure)) => break (failure.ending, Some(Err(failure))),
            }
        };
        if let Some(attempt) = &mut self.attempt {
            attempt.ending = Some(ending);
        }
        self.end = Some(match (ending, trailers) {
            (_, Some(Err(failure))) => End::Failed(failure),
            (ending, Some(Ok(mut trailers))) if ending.is_status() => {
                reading::remove_invalid(&mut trailers);
                End::Trailers(trailers)
            }
            _ => End::Failed(Failure::of_response(ending)),
        });
        Poll::Ready(None)
    }
}

impl Body for ReplicaBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(attempt) = &mut self.attempt {
            if attempt.refusal.check().is_some() {
                return Poll::Ready(Some(self.end_refused()));
            }
            attempt.is_too_long = false;
        }
        let data = if !self.ahead.is_empty() {
            Some(mem::take(&mut self.ahead))
        } else if self.end.is_none() && self.attempt.is_some() {
            ready!(self.poll_data(cx))
        } else {
            None
        };
        if let Some(data) = data {
            let is_too_long = self.reading.as_ref().is_some_and(Reading::is_too_long);
            if let Some(attempt) = &mut self.attempt {
                attempt.open();
                attempt.is_too_long = is_too_long;
            }
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        self.attempt = None;
        Poll::Ready(match self.end.take() {
            None | Some(End::InHead) => None,
            Some(End::Trailers(trailers)) => Some(Ok(Frame::trailers(trailers))),
            Some(End::Failed(failure)) => Some(Err(failure.into_status())),
        })
    }

    fn is_end_stream(&self) -> bool {
        let is_over = self.attempt.is_none() || self.reading.is_none();
        self.ahead.is_empty() && is_over
    }
}
