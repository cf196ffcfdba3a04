//! How a [`Connection`] follows a step.

use bytes::{Bytes, BytesMut};
use tests::frame::{CONNECTION, DATA, END_STREAM, GOAWAY, RST_STREAM, frame};
use tokio::time::Instant;

use super::{
    connection::Connection,
    step::{Last, Step},
};

impl Connection {
    /// Follows the first step of a stream, and returns whether it is done.
    pub(super) fn step(&mut self, number: u32, now: Instant) -> bool {
        let Some(stream) = self.streams.get_mut(&number) else {
            return false;
        };
        let Some(step) = stream.steps.pop_front() else {
            return false;
        };
        let waits = match &step {
            Step::Pause(pause) => {
                let due = *stream.due.get_or_insert(now + *pause);
                if due <= now {
                    stream.due = None;
                }
                due > now
            }
            Step::RequestEnd => !stream.has_ended,
            Step::ClientReset => true,
            Step::Data { bytes, .. } => !bytes.is_empty() && self.window.min(stream.window) <= 0,
            _ => false,
        };
        if waits {
            stream.steps.push_front(step);
            return false;
        }
        self.take(number, step);
        true
    }

    fn take(&mut self, number: u32, step: Step) {
        match step {
            Step::Pause(_) | Step::RequestEnd | Step::ClientReset => {}
            Step::Data { bytes, frame, ends } => self.send_data(number, bytes, frame, ends),
            Step::Frame {
                kind,
                flags,
                stream,
                payload,
            } => self.send_frame(kind, flags, stream, &payload),
            Step::Bytes(bytes) => self.waiting.extend_from_slice(&bytes),
            Step::GoAway(last, code, debug) => self.send_go_away(last, code, &debug),
            Step::Mute => {
                self.habits.listens = false;
                self.streams.clear();
                self.muted = Some(Instant::now());
            }
            Step::Close => self.is_closing = true,
        }
    }

    /// Sends as much as the windows allow in a frame, and leaves the rest for later.
    fn send_data(&mut self, number: u32, mut bytes: Bytes, longest: usize, ends: bool) {
        let stream = self.streams.get_mut(&number).expect("it has a step");
        let window = usize::try_from(self.window.min(stream.window)).unwrap_or(0);
        let part = bytes.split_to(bytes.len().min(longest).min(window));
        let is_last = bytes.is_empty();
        if !is_last {
            stream.steps.push_front(Step::Data {
                bytes,
                frame: longest,
                ends,
            });
        }
        let flags = if ends && is_last { END_STREAM } else { 0 };
        self.send_frame(DATA, flags, number, &part);
    }

    fn send_frame(&mut self, kind: u8, flags: u8, number: u32, payload: &[u8]) {
        match (self.streams.get_mut(&number), kind) {
            (Some(stream), DATA) => {
                let length = i64::try_from(payload.len()).expect("a frame is short");
                stream.window -= length;
                self.window -= length;
            }
            // The rest of the request never comes.
            (Some(stream), RST_STREAM) => stream.has_ended = true,
            _ => {}
        }
        let bytes = frame(kind, flags, number.to_be_bytes(), payload);
        self.waiting.extend_from_slice(&bytes);
    }

    fn send_go_away(&mut self, last: Last, code: u32, debug: &[u8]) {
        let last = match last {
            Last::Processed => self.processed,
            // The client's streams have odd ids.
            Last::Next => (self.processed + 1) | 1,
            Last::Max => u32::MAX >> 1,
        };
        self.last = self.last.min(last);
        let mut payload = BytesMut::from(&last.to_be_bytes()[..]);
        payload.extend_from_slice(&code.to_be_bytes());
        payload.extend_from_slice(debug);
        self.waiting
            .extend_from_slice(&frame(GOAWAY, 0, CONNECTION, &payload));
    }
}
