//! [`Upload`]: a request stream on its way out.

use std::{
    future::poll_fn,
    panic::AssertUnwindSafe,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use futures_util::FutureExt;
use h2::{Reason, SendStream};
use tokio::{select, sync::oneshot, task::coop::consume_budget, time::Instant};
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;

use super::request_body::{Reader, Replay};
use crate::{
    body::WithDeadline,
    request::context::{self, Deadline},
};

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
