//! [`Pipe`]: one direction of a connection.

use std::{
    collections::VecDeque,
    future::Future,
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
};

use bytes::{Buf, Bytes};
use tokio::{
    io::ReadBuf,
    time::{Instant, Sleep, sleep_until},
};

use super::path::Path;
use crate::{clock, lock, random::Shared as Random};

/// The bytes that may be on their way or unread at once.
const WINDOW: usize = 128 * 1_024;

/// The most bytes of a packet.
const SEGMENT: usize = 16 * 1_024;

/// One direction of a connection. Clones share their state.
#[derive(Debug, Clone)]
pub(super) struct Pipe {
    state: Arc<Mutex<State>>,
    path: Path,
    random: Random,
}

#[derive(Debug, Default)]
struct State {
    /// What is on its way, with the time of its arrival; the end has no bytes.
    segments: VecDeque<(Instant, Bytes)>,
    /// The bytes on their way and unread.
    bytes: usize,
    last_arrival: Option<Instant>,
    /// The bytes that were taken from the writer so far.
    written: u64,
    is_shut: bool,
    /// The reader has left: what is written is lost.
    is_deaf: bool,
    error: Option<io::ErrorKind>,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

impl State {
    fn wake(&mut self) {
        wake(&mut self.reader);
        wake(&mut self.writer);
    }
}

impl Pipe {
    pub(super) fn new(path: Path, random: Random) -> Self {
        Self {
            state: Arc::default(),
            path,
            random,
        }
    }

    fn push(&self, state: &mut State, bytes: Bytes) {
        let mut arrival = self.path.arrival(bytes.len(), self.random.fraction());
        if let Some(last) = state.last_arrival {
            arrival = arrival.max(last);
        }
        state.last_arrival = Some(arrival);
        state.bytes += bytes.len();
        state.segments.push_back((arrival, bytes));
        wake(&mut state.reader);
    }

    pub(super) fn poll_write(&self, cx: &Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut state = lock(&self.state);
        if let Some(error) = state.error {
            return Poll::Ready(Err(error.into()));
        }
        if state.is_shut {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if state.is_deaf {
            state.written += bytes.len() as u64;
            return Poll::Ready(Ok(bytes.len()));
        }
        let room = WINDOW - state.bytes.min(WINDOW);
        if room == 0 {
            state.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let mut taken = bytes.len().min(room);
        if self.path.cuts() && taken > 1 {
            taken = self.random.length(taken);
        }
        state.written += taken as u64;
        for segment in bytes[..taken].chunks(SEGMENT) {
            self.push(&mut state, Bytes::copy_from_slice(segment));
        }
        Poll::Ready(Ok(taken))
    }

    /// The bytes that were taken from the writer so far.
    pub(super) fn written(&self) -> u64 {
        lock(&self.state).written
    }

    /// Ends the direction after what was written.
    pub(super) fn shut(&self) {
        let mut state = lock(&self.state);
        if !state.is_shut {
            state.is_shut = true;
            self.push(&mut state, Bytes::new());
        }
    }

    /// Both ends see this error from now on, and what is on its way is lost.
    pub(super) fn fail(&self, error: io::ErrorKind) {
        let mut state = lock(&self.state);
        if state.error.is_none() {
            state.error = Some(error);
            state.segments.clear();
            state.wake();
        }
    }

    /// The reader has gone without a word.
    pub(super) fn deafen(&self) {
        let mut state = lock(&self.state);
        state.is_deaf = true;
        state.segments.clear();
        state.bytes = 0;
        wake(&mut state.writer);
    }

    /// Whether something is on its way or unread.
    pub(super) fn has_unread(&self) -> bool {
        lock(&self.state).bytes > 0
    }

    pub(super) fn poll_read(
        &self,
        timer: &mut Option<Pin<Box<Sleep>>>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut state = lock(&self.state);
        loop {
            if let Some(error) = state.error {
                return Poll::Ready(Err(error.into()));
            }
            state.reader = Some(cx.waker().clone());
            let Some((at, _)) = state.segments.front() else {
                return Poll::Pending;
            };
            let Some(due) = self.path.due(*at, cx.waker()) else {
                return Poll::Pending;
            };
            if due > Instant::now() {
                let timer = timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
                if timer.deadline() != due {
                    timer.as_mut().reset(due);
                }
                if timer.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                continue;
            }
            break;
        }
        clock::tick();
        let cuts = self.path.cuts();
        let state = &mut *state;
        while let Some((at, bytes)) = state.segments.front_mut() {
            if *at > Instant::now() || bytes.is_empty() || buf.remaining() == 0 {
                break; // the end stays
            }
            let mut taken = bytes.len().min(buf.remaining());
            if cuts && taken > 1 {
                taken = self.random.length(taken);
            }
            buf.put_slice(&bytes[..taken]);
            bytes.advance(taken);
            state.bytes -= taken;
            if bytes.is_empty() {
                state.segments.pop_front();
            }
            if cuts {
                break;
            }
        }
        wake(&mut state.writer);
        Poll::Ready(Ok(()))
    }
}
