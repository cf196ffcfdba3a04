//! [`Stream`]: a request, and the script of its response.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use super::step::Step;

/// The bytes before a message.
const PREFIX: usize = 5;

/// The longest first message that is looked at. Orders are short.
const LONGEST_MESSAGE: usize = 1_024;

/// A request, and the script of its response.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) steps: VecDeque<Step>,
    /// The end of the current pause.
    pub(super) due: Option<Instant>,
    /// What the client takes, in bytes.
    pub(super) window: i64,
    /// Whether the request has ended.
    pub(super) has_ended: bool,
    /// Whether the first message was looked at.
    pub(super) has_begun: bool,
    received: BytesMut,
}

impl Stream {
    pub(super) fn new(window: i64) -> Self {
        Self {
            steps: VecDeque::new(),
            due: None,
            window,
            has_ended: false,
            has_begun: false,
            received: BytesMut::new(),
        }
    }

    /// Receives data, and returns the first message once that is complete.
    pub(super) fn receive(&mut self, data: &[u8]) -> Option<Bytes> {
        if self.has_begun {
            return None;
        }
        let room = (PREFIX + LONGEST_MESSAGE).saturating_sub(self.received.len());
        self.received
            .extend_from_slice(&data[..data.len().min(room)]);
        let [_, length @ ..] = *self.received.first_chunk::<PREFIX>()?;
        let end = PREFIX + u32::from_be_bytes(length) as usize;
        if self.received.len() < end {
            return None;
        }
        self.has_begun = true;
        let received = std::mem::take(&mut self.received).freeze();
        Some(received.slice(PREFIX..end))
    }

    /// Goes on after the client's reset, and returns whether there is anything left to do.
    pub(super) fn note_reset(&mut self) -> bool {
        let waits = |step: &Step| matches!(step, Step::ClientReset);
        let Some(place) = self.steps.iter().position(waits) else {
            return false;
        };
        self.steps.drain(..=place);
        self.due = None;
        self.has_ended = true;
        true
    }

    /// Whether nothing is left to send or to receive.
    pub(super) fn is_over(&self) -> bool {
        self.has_ended && self.has_begun && self.steps.is_empty()
    }
}
