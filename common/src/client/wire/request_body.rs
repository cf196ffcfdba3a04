//! [`RequestBody`]: what a call sends, and keeps for another attempt; and [`Upload`]: a request stream on its
//! way out.

use std::{
    future::poll_fn,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use futures_util::FutureExt;
use h2::{Reason, SendStream};
use http_body::Body;
use tokio::{select, sync::oneshot, task::coop::consume_budget, time::Instant};
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;

use crate::{
    body::WithDeadline,
    request::context::{self, Deadline},
    sync::lock,
};

/// What a call sends. A clone sends the same messages.
#[derive(Debug, Clone)]
pub(crate) enum RequestBody {
    /// One message.
    Message(Bytes),
    /// Messages that become ready one by one.
    Stream(Replay),
}

impl RequestBody {
    /// No message yet.
    pub(crate) const EMPTY: Self = Self::Message(Bytes::new());

    /// Reads a body that is one message.
    pub(crate) async fn message(mut body: tonic::body::Body) -> Result<Self, Status> {
        let mut message = Bytes::new();
        // The generated clients send one frame, which is not copied.
        while let Some(data) = poll_fn(|cx| poll_data(&mut body, cx)).await.transpose()? {
            message = if message.is_empty() {
                data
            } else {
                [message, data].concat().into()
            };
        }
        Ok(Self::Message(message))
    }

    /// Whether another attempt could send the whole body.
    pub(crate) fn is_whole(&self) -> bool {
        match self {
            Self::Message(_) => true,
            Self::Stream(replay) => lock(&replay.0).is_whole,
        }
    }

    /// Stops keeping what is read: no other attempt will follow.
    pub(crate) fn commit(&self) {
        if let Self::Stream(replay) = self {
            lock(&replay.0).is_whole = false;
        }
    }
}

/// A request stream, with its beginning for as long as that can be sent again.
#[derive(Debug, Clone)]
pub(crate) struct Replay(Arc<Mutex<Source>>);

#[derive(Debug)]
struct Source {
    rest: tonic::body::Body,
    is_over: bool,
    /// The beginning of the stream.
    begin: Vec<Bytes>,
    /// The memory that all frames read so far take, in bytes.
    size: usize,
    /// The most memory of the beginning, in bytes.
    most: usize,
    /// Whether `begin` is all that was read.
    is_whole: bool,
}

impl Replay {
    /// Keeps at most this much of the stream, in bytes.
    pub(crate) fn new(body: tonic::body::Body, most: usize) -> Self {
        Self(Arc::new(Mutex::new(Source {
            rest: body,
            is_over: false,
            begin: Vec::new(),
            size: 0,
            most,
            is_whole: true,
        })))
    }

    /// Returns a reader of the whole stream, for one attempt. The previous attempt must have ended.
    pub(crate) fn reader(&self) -> Reader {
        Reader {
            source: self.0.clone(),
            read: 0,
        }
    }
}

/// Reads a request stream: first its beginning, then the rest.
#[derive(Debug)]
pub(crate) struct Reader {
    source: Arc<Mutex<Source>>,
    /// The number of frames of `begin` that were read.
    read: usize,
}

impl Reader {
    pub(crate) fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Status>>> {
        let source = &mut *lock(&self.source);
        if let Some(data) = source.begin.get(self.read) {
            self.read += 1;
            return Poll::Ready(Some(Ok(data.clone())));
        }
        if source.is_over {
            return Poll::Ready(None);
        }
        let data = ready!(poll_data(&mut source.rest, cx));
        match &data {
            Some(Ok(data)) => {
                source.keep(data);
                self.read = source.begin.len();
            }
            Some(Err(_)) | None => source.is_over = true,
        }
        Poll::Ready(data)
    }
}

impl Source {
    fn keep(&mut self, data: &Bytes) {
        self.size += data.len() + size_of::<Bytes>();
        self.is_whole &= self.size <= self.most;
        if self.is_whole {
            self.begin.push(data.clone());
        } else {
            self.begin = Vec::new();
        }
    }
}

fn poll_data(
    body: &mut tonic::body::Body,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Bytes, Status>>> {
    loop {
        let Some(frame) = ready!(Pin::new(&mut *body).poll_frame(cx)).transpose()? else {
            return Poll::Ready(None);
        };
        // A client sends no trailers.
        if let Ok(data) = frame.into_data() {
            return Poll::Ready(Some(Ok(data)));
        }
    }
}

/// The upload of a request stream, in the context of its call and up to the call's deadline.
/// Dropping this ends the upload, and resets the stream unless all of it was sent.
///
/// A task of its own sends the stream, as a caller may send without reading the response.
#[derive(Debug)]
pub(crate) struct Upload {
    failure: oneshot::Receiver<Status>,
    _task: AbortOnDropHandle<()>,
}

impl Upload {
    pub(crate) fn start(body: &Replay, stream: SendStream<Bytes>) -> Self {
        let (failed, failure) = oneshot::channel();
        let mut outgoing = Outgoing {
            stream,
            is_over: false,
        };
        let reader = body.reader();
        let deadline = context::deadline().unwrap_or_else(|| Deadline::after(Duration::MAX));
        let task = context::spawn(async move {
            let sending = || send(reader, &mut outgoing);
            let sending = WithDeadline::start(Instant::now(), deadline, sending);
            let sent = match AssertUnwindSafe(sending).catch_unwind().await {
                Ok(Ok(sent)) => sent,
                Ok(Err(exceeded)) => Err(Status::deadline_exceeded(exceeded.to_string())),
                // The panic hook has logged the panic with its location.
                Err(_panic) => Err(Status::internal("the request stream panicked")),
            };
            if let Err(status) = sent {
                // Before `outgoing` is dropped, whose reset would become the cause of the failure.
                let _ = failed.send(status);
            }
        });
        Self {
            failure,
            _task: AbortOnDropHandle::new(task),
        }
    }

    /// Becomes ready only if the request stream itself fails.
    pub(crate) fn poll_failure(&mut self, cx: &mut Context<'_>) -> Poll<Status> {
        if self.failure.is_terminated() {
            return Poll::Pending;
        }
        ready!(Pin::new(&mut self.failure).poll(cx)).map_or(Poll::Pending, Poll::Ready)
    }
}

/// Sends a stream at the pace of the replica. If the replica wants no more, the response says why.
async fn send(mut reader: Reader, outgoing: &mut Outgoing) -> Result<(), Status> {
    loop {
        let data = select! {
            biased;
            () = outgoing.refused() => return Ok(()),
            data = poll_fn(|cx| reader.poll_data(cx)) => data,
        };
        let Some(data) = data.transpose()? else {
            outgoing.end();
            return Ok(());
        };
        if outgoing.send(data).await.is_err() {
            return Ok(());
        }
        // Lets other tasks run if the stream is always ready and the replica takes all of it.
        consume_budget().await;
    }
}

/// The sending half of a stream. Dropping it before its end resets the stream.
struct Outgoing {
    stream: SendStream<Bytes>,
    is_over: bool,
}

impl Outgoing {
    /// Waits until the replica resets the stream.
    async fn refused(&mut self) {
        let _reason = poll_fn(|cx| self.stream.poll_reset(cx)).await;
    }

    /// Sends all of `data`, at the pace of the stream's window.
    async fn send(&mut self, mut data: Bytes) -> Result<(), h2::Error> {
        while data.has_remaining() {
            self.stream.reserve_capacity(data.len());
            let room = poll_fn(|cx| self.stream.poll_capacity(cx)).await;
            let room = room.unwrap_or_else(|| Err(Reason::STREAM_CLOSED.into()))?;
            let next = data.split_to(room.min(data.len()));
            self.stream.send_data(next, false)?;
        }
        Ok(())
    }

    fn end(&mut self) {
        self.is_over = self.stream.send_data(Bytes::new(), true).is_ok();
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        if !self.is_over {
            self.stream.send_reset(Reason::CANCEL);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{StreamExt, stream};
    use http_body::Frame;
    use http_body_util::StreamBody;

    use super::*;

    const MOST: usize = 64 * 1_024;

    /// A stream of messages of these sizes. Each byte of a message is the message's number.
    fn replay(sizes: &'static [usize]) -> RequestBody {
        let frames = sizes
            .iter()
            .zip((0..=u8::MAX).cycle())
            .map(|(size, number)| {
                let data = Bytes::from(vec![number; *size]);
                Ok::<_, Status>(Frame::data(data))
            });
        let body = tonic::body::Body::new(StreamBody::new(stream::iter(frames)));
        RequestBody::Stream(Replay::new(body, MOST))
    }

    /// Reads at most `most` messages and returns the number of each.
    async fn read(body: &RequestBody, most: usize) -> Vec<u8> {
        let RequestBody::Stream(replay) = body else {
            unreachable!()
        };
        let mut reader = replay.reader();
        let messages = stream::poll_fn(move |cx| reader.poll_data(cx));
        messages
            .take(most)
            .map(|data| data.unwrap()[0])
            .collect()
            .await
    }

    #[tokio::test]
    async fn a_small_beginning_can_be_read_again_and_the_stream_goes_on() {
        let body = replay(&[10, 20, 30]);
        assert_eq!(read(&body, 2).await, [0, 1]);
        assert!(body.is_whole());
        assert_eq!(read(&body, 1).await, [0]);
        assert_eq!(read(&body, 9).await, [0, 1, 2]);
        assert_eq!(
            read(&body, 9).await,
            [0, 1, 2],
            "the stream has ended and is still whole"
        );
    }

    #[tokio::test]
    async fn a_beginning_that_is_too_large_is_not_kept() {
        for sizes in [&[40_000, 40_000, 10], &[10, MOST, 10]] {
            let body = replay(sizes);
            assert_eq!(read(&body, 3).await, [0, 1, 2]);
            assert!(!body.is_whole());
            let RequestBody::Stream(Replay(source)) = &body else {
                unreachable!()
            };
            assert_eq!(lock(source).begin.capacity(), 0);
        }
    }

    #[tokio::test]
    async fn many_small_messages_count_with_the_memory_of_each() {
        static SMALL: [usize; 5_000] = [1; 5_000];
        let body = replay(&SMALL);
        read(&body, 1_900).await;
        assert!(body.is_whole());
        read(&body, 2_100).await;
        assert!(!body.is_whole());
    }

    #[tokio::test]
    async fn the_last_attempt_sends_the_whole_stream() {
        let body = replay(&[1, 1, 1, 1]);
        assert_eq!(read(&body, 3).await, [0, 1, 2]);
        let RequestBody::Stream(replay) = &body else {
            unreachable!()
        };
        let mut reader = replay.reader();
        let mut next = async || poll_fn(|cx| reader.poll_data(cx)).await.unwrap().unwrap()[0];
        assert_eq!(next().await, 0);
        body.commit();
        assert_eq!([next().await, next().await, next().await], [1, 2, 3]);
        assert!(!body.is_whole());
    }
}
