//! [`Upload`]: a request stream on its way out.

use std::{
    future::{Future, poll_fn},
    panic::AssertUnwindSafe,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use futures_util::FutureExt;
use h2::{Reason, SendStream};
use tokio::{
    select,
    sync::oneshot,
    task::{AbortHandle, coop::consume_budget},
    time::Instant,
};
use tonic::Status;

use crate::{
    bounded::Bounded,
    client::request_body::{Reader, Replay},
    context,
    deadline::DeadlineExceeded,
};

/// A request stream that is being sent, in the context of its call and up to its deadline. When
/// this is dropped, sending ends, and the stream is reset unless all of it was sent.
///
/// It is sent by a task: a caller may send without reading the response.
#[derive(Debug)]
pub(super) struct Upload {
    failure: oneshot::Receiver<Status>,
    is_over: bool,
    task: AbortHandle,
}

impl Upload {
    pub(super) fn start(body: &Replay, stream: SendStream<Bytes>) -> Self {
        let (failed, failure) = oneshot::channel();
        let mut outgoing = Outgoing {
            stream,
            is_over: false,
        };
        let reader = body.reader();
        let task = context::spawn(async move {
            let sending = bounded(send(reader, &mut outgoing));
            let sent = AssertUnwindSafe(sending).catch_unwind().await;
            // The panic hook has logged a panic, with the location.
            let sent =
                sent.unwrap_or_else(|_| Err(Status::internal("the request stream panicked")));
            if let Err(status) = sent {
                // Before the reset, which the response would name as the cause.
                let _ = failed.send(status);
            }
        });
        Self {
            failure,
            is_over: false,
            task: task.abort_handle(),
        }
    }

    /// Is ready if the stream itself fails, and never otherwise.
    pub(super) fn poll_failure(&mut self, cx: &mut Context<'_>) -> Poll<Status> {
        if self.is_over {
            return Poll::Pending;
        }
        match Pin::new(&mut self.failure).poll(cx) {
            Poll::Ready(end) => {
                self.is_over = true;
                end.map_or(Poll::Pending, Poll::Ready)
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Ends `sending` at the deadline of the call, if it is part of any.
async fn bounded(sending: impl Future<Output = Result<(), Status>>) -> Result<(), Status> {
    match context::deadline() {
        Some(deadline) => Bounded::start(Instant::now(), deadline, || sending)
            .await
            .unwrap_or_else(|exceeded: DeadlineExceeded| {
                Err(Status::deadline_exceeded(exceeded.to_string()))
            }),
        None => sending.await,
    }
}

/// Sends a stream as the replica takes it. Where that wants no more, the response says why.
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
        // A stream that is always ready, to a replica that takes it all, must let others run.
        consume_budget().await;
    }
}

/// The sending half of a stream. If it is dropped before its end, the stream is reset.
struct Outgoing {
    stream: SendStream<Bytes>,
    is_over: bool,
}

impl Outgoing {
    /// Waits until the replica wants no more.
    async fn refused(&mut self) {
        let _reason = poll_fn(|cx| self.stream.poll_reset(cx)).await;
    }

    /// Sends all of `data`, as there is room for it.
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
