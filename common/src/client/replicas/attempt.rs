//! [`Attempt`]: one attempt of a call on a replica, from its start to its end, however that comes.

use std::{
    future::poll_fn,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Body, Frame};
use tokio::time::Instant;
use tonic::Status;

use super::replica::Replica;
use crate::{
    client::{
        ending::{
            class::Ending,
            codec::RefusedMessage,
            failure::Failure,
            reading::{self, Reading},
        },
        method::CalledMethod,
        wire::{
            attempt::{ReadUntil, ResponseBody},
            request_body::RequestBody,
        },
    },
    request::{
        context::{self, Deadline},
        timings::{RunningAttempt, WANT_SERVER_TIMING},
    },
    telemetry::metrics::{self, Measure},
};
#[cfg(feature = "traces")]
use crate::{request::trace::Trace, telemetry::traces};

/// One attempt of a call. When this is dropped, the attempt has ended: this is where its replica
/// and its metrics learn how.
#[derive(Debug)]
struct Attempt {
    replica: Arc<Replica>,
    method: Arc<CalledMethod>,
    start: Instant,
    deadline: Option<Deadline>,
    /// When the response began.
    responded: Option<Instant>,
    /// Whether the first message of a stream was counted in the cost.
    is_open: bool,
    /// How the attempt has ended, if it has.
    ending: Option<Ending>,
    /// What the codec of the caller says of the response.
    refusal: Arc<RefusedMessage>,
    /// Whether the caller has got the beginning of a message that is too long, and nothing else
    /// since. tonic asks for no more, and drops the response.
    is_too_long: bool,
    /// The call as a whole, if this is its last attempt.
    measured: Option<CallMetrics>,
    /// The attempt in the record of its request, if that is recorded.
    recorded: Option<RunningAttempt>,
    /// The trace of its span, if that is recorded.
    #[cfg(feature = "traces")]
    trace: Option<Arc<Trace>>,
}

impl Replica {
    /// Makes one attempt of a call. The request is boxed, as each future on its way down holds it.
    pub(crate) async fn attempt(
        self: Arc<Self>,
        mut request: Box<Request<RequestBody>>,
        method: Arc<CalledMethod>,
        is_hedge: bool,
        read_ahead: usize,
    ) -> Result<Response<Box<ReplicaBody>>, Failure> {
        self.metrics.picks.add(1);
        self.cost.begin();
        #[cfg(feature = "traces")]
        let span = traces::of_attempt();
        let recorded = context::begin_attempt(is_hedge, self.address);
        if recorded.is_some() {
            let yes = HeaderValue::from_static("1");
            request.headers_mut().insert(WANT_SERVER_TIMING, yes);
        }
        let is_unary = method.declared.has_one_response;
        let mut attempt = Attempt {
            #[cfg(feature = "traces")]
            trace: span.as_ref().map(|(_, trace)| trace.clone()),
            replica: self,
            method,
            start: Instant::now(),
            deadline: context::deadline(),
            responded: None,
            is_open: false,
            ending: None,
            refusal: Arc::default(),
            is_too_long: false,
            measured: None,
            recorded,
        };
        let until = if is_unary {
            ReadUntil::FirstFrame
        } else {
            ReadUntil::Head
        };
        let sent = attempt.replica.connections.attempt(request, until);
        #[cfg(feature = "traces")]
        let outcome = match span {
            // The id of the span goes with the attempt, and on its log lines.
            Some((context, _)) => context.scope(sent).await,
            None => sent.await,
        };
        #[cfg(not(feature = "traces"))]
        let outcome = sent.await;
        let response = outcome.inspect_err(|failure| attempt.ending = Some(failure.ending))?;
        let now = Instant::now();
        attempt.responded = Some(now);
        if let Some(recorded) = &attempt.recorded {
            recorded.see_response(response.headers());
        }
        let (reading, end) = match Reading::begin(&response, is_unary) {
            Ok(reading) => (Some(reading), None),
            Err(ending) => {
                attempt.ending = Some(ending);
                if !ending.is_status() {
                    return Err(Failure::of_response(ending));
                }
                (None, Some(End::InHead))
            }
        };
        if reading.is_some() && !is_unary {
            let took = now - attempt.start;
            attempt.replica.learn_latency(&attempt.method, took, now);
        }
        let (mut head, body) = response.into_parts();
        if end.is_some() {
            reading::remove_invalid(&mut head.headers);
        }
        let mut body = Box::new(ReplicaBody {
            body,
            reading,
            ahead: Bytes::new(),
            end,
            attempt: Some(attempt),
        });
        if is_unary {
            body.read_ahead(read_ahead).await?;
            body.check()?;
        }
        Ok(Response::from_parts(head, body))
    }
}

impl Attempt {
    /// How the attempt has ended, if it is dropped now.
    fn end(&self, now: Instant) -> Ending {
        if let Some(check) = self.refusal.check() {
            self.method.set_check(check);
            return Ending::Undecodable;
        }
        if self.is_too_long && self.refusal.is_read() {
            self.method.set_too_long();
            return Ending::Undecodable;
        }
        if let Some(ending) = self.ending {
            return ending;
        }
        let is_over = self.deadline.is_some_and(|it| it.instant() <= now);
        let is_late = self.responded.is_none()
            && !self.method.is_endless()
            && time_given(self.start, self.deadline, now) > self.method.late_after();
        Ending::of_dropped(is_over, is_late)
    }

    /// Counts the first message of a stream: from now on it may be quiet.
    fn open(&mut self) {
        if !self.is_open {
            self.is_open = true;
            self.replica.cost.open();
        }
    }
}

/// The time that a replica had for its response by `now`. A worker that sees only long after a deadline
/// that it has passed was stuck, for as long before it as it may have been after it: the response may have
/// come and was not read, or the call may not even have left.
fn time_given(start: Instant, deadline: Option<Deadline>, now: Instant) -> Duration {
    let late_by = deadline.map(|it| now.saturating_duration_since(it.instant()));
    (now - start).saturating_sub(2 * late_by.unwrap_or_default())
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let now = Instant::now();
        let ending = self.end(now);
        let code = ending.code();
        self.replica.cost.end(self.is_open);
        self.replica
            .learn(&self.method, ending, self.start, self.responded, now);
        let took = now - self.start;
        let name = &self.method.name;
        metrics::count_duration(Measure::RpcClientAttempt, name, code as u16, None, took);
        if let Some(measured) = &mut self.measured {
            measured.end = Some((ending, now));
        }
        if let Some(recorded) = &self.recorded {
            recorded.end(took, code);
        }
        #[cfg(feature = "traces")]
        if let Some(trace) = &self.trace {
            traces::AttemptSpan {
                trace,
                method: name,
                replica: self.replica.address,
                code,
                took,
            }
            .record();
        }
    }
}

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
    attempt: Option<Attempt>,
}

impl ReplicaBody {
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
    async fn read_ahead(&mut self, most: usize) -> Result<(), Failure> {
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
    fn check(&mut self) -> Result<(), Failure> {
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

/// A call with all of its attempts. When this is dropped, the call counts.
#[derive(Debug)]
pub(crate) struct CallMetrics {
    method: Arc<CalledMethod>,
    begin: Instant,
    deadline: Option<Deadline>,
    /// How and when the call has ended, if its last attempt has.
    end: Option<(Ending, Instant)>,
}

impl CallMetrics {
    pub(crate) fn begin(method: Arc<CalledMethod>) -> Self {
        Self {
            method,
            begin: Instant::now(),
            deadline: context::deadline(),
            end: None,
        }
    }

    /// Sees the outcome of the last attempt. A response may go on for long.
    pub(crate) fn see(
        mut self,
        mut outcome: Result<Response<Box<ReplicaBody>>, Failure>,
    ) -> Result<Response<Box<ReplicaBody>>, Failure> {
        match &mut outcome {
            Ok(response) => response.body_mut().end_with(self),
            Err(failure) => self.end = Some((failure.ending, Instant::now())),
        }
        outcome
    }
}

impl Drop for CallMetrics {
    fn drop(&mut self) {
        let (ending, now) = self.end.unwrap_or_else(|| {
            let now = Instant::now();
            let is_over = self.deadline.is_some_and(|it| it.instant() <= now);
            (Ending::of_dropped(is_over, false), now)
        });
        let (name, code) = (&self.method.name, ending.code());
        metrics::count_duration(
            Measure::RpcClient,
            name,
            code as u16,
            None,
            now - self.begin,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_for_which_a_worker_was_stuck_is_not_given_to_the_replica() {
        const SECOND: Duration = Duration::from_secs(1);
        let start = Instant::now();
        let given = |deadline, now| {
            let deadline = Deadline::after_from(start, deadline);
            time_given(start, Some(deadline), start + now)
        };
        assert_eq!(given(SECOND, SECOND / 2), SECOND / 2);
        assert_eq!(given(SECOND, SECOND), SECOND);
        assert_eq!(given(SECOND, 2 * SECOND), Duration::ZERO);
        assert_eq!(given(10 * SECOND, 12 * SECOND), 8 * SECOND);
        assert_eq!(time_given(start, None, start + SECOND), SECOND);
    }
}
