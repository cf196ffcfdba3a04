//! [`ControlFrames`]: a limit on the HTTP/2 control frames that a client sends.
//!
//! A control frame costs a client nine bytes, and may cost the server a pass over all streams. h2
//! limits some kinds and has no hook for the others, so the bytes are counted before h2 reads them.

use super::allowance::{Allowance, TooMany};
use crate::{dialect::length_prefixed::LengthPrefixed, limits};

/// The bytes of a frame header (RFC 9113, 4.1): length (three), type, flags, stream (four).
const HEAD: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const WINDOW_UPDATE: u8 = 8;

#[derive(Debug)]
pub(crate) struct ControlFrames {
    frames: LengthPrefixed<HEAD>,
    budget: Budget,
}

#[derive(Debug)]
struct Budget {
    /// Control frames that neither requests nor responses explain.
    others: Allowance,
    /// Window updates that responses explain.
    updates: u32,
    /// Resets that requests explain.
    resets: u32,
}

impl ControlFrames {
    /// A count that begins after the preface.
    pub(crate) fn new() -> Self {
        Self {
            frames: LengthPrefixed::new(),
            budget: Budget {
                others: Allowance::new(
                    limits::CONTROL_FRAMES_PER_SECOND,
                    limits::CONTROL_FRAMES_PER_SECOND,
                ),
                updates: 0,
                resets: 0,
            },
        }
    }

    /// Notes bytes that were written to the client.
    pub(crate) fn note_written(&mut self, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let explained = bytes / limits::BYTES_PER_WINDOW_UPDATE;
        let updates = self.budget.updates.saturating_add(explained);
        self.budget.updates = updates.min(limits::MAX_EXPLAINED_FRAMES);
    }

    /// Counts the frames that begin in these bytes of the client.
    pub(crate) fn count(&mut self, bytes: &[u8]) -> Result<(), TooMany> {
        self.frames.read(bytes, |head| {
            let [a, b, c, kind, ..] = head;
            let length = u32::from_be_bytes([0, a, b, c]) as usize;
            self.budget.count(kind, length)?;
            Ok(length)
        })
    }
}

impl Budget {
    fn count(&mut self, kind: u8, length: usize) -> Result<(), TooMany> {
        match kind {
            HEADERS => {
                self.others.add(limits::CONTROL_FRAMES_PER_REQUEST);
                self.resets = (self.resets + 1).min(limits::MAX_EXPLAINED_FRAMES);
            }
            DATA if length > 0 => {}
            RST_STREAM if self.resets > 0 => self.resets -= 1,
            WINDOW_UPDATE if self.updates > 0 => self.updates -= 1,
            _ => return self.others.spend(),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PING: [u8; 17] = [0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
    const UPDATE: [u8; 13] = [0, 0, 4, 8, 0, 0, 0, 0, 1, 0, 0, 0, 20];
    const RESET: [u8; 13] = [0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 8];
    const REQUEST: [u8; 10] = [0, 0, 1, 1, 5, 0, 0, 0, 1, 0x82];

    /// The number of repetitions at which `frame`, in pieces of `cut` bytes, is too many.
    fn too_many_at(frame: &[u8], cut: usize) -> Option<usize> {
        let mut frames = ControlFrames::new();
        (1..10_000).find(|_| frame.chunks(cut).any(|bytes| frames.count(bytes).is_err()))
    }

    #[test]
    fn floods_are_refused_and_requests_are_not_however_the_bytes_are_split() {
        for cut in [1, 7, 9, 17] {
            for flood in [&PING[..], &UPDATE, &RESET] {
                let at = too_many_at(flood, cut).expect("it is a flood");
                assert!((1_000..1_500).contains(&at), "{at}");
            }
            assert_eq!(too_many_at(&REQUEST, cut), None);
            let busy = [&REQUEST[..], &PING, &PING].concat();
            assert_eq!(too_many_at(&busy, cut), None);
        }
    }

    #[test]
    fn a_client_may_update_both_windows_for_the_smallest_message_of_a_response() {
        let mut frames = ControlFrames::new();
        for _ in 0..10_000 {
            // A DATA frame with a gRPC message of two bytes, the smallest that is not empty.
            frames.note_written(HEAD + 5 + 2);
            assert!(frames.count(&[UPDATE, UPDATE].concat()).is_ok());
        }
        for _ in 0..10_000 {
            frames.note_written(16_384);
            assert!(frames.count(&UPDATE).is_ok());
        }
        assert!(
            (0..10_000).any(|_| frames.count(&PING).is_err()),
            "responses explain no PINGs"
        );
    }

    #[test]
    fn a_client_may_reset_all_of_its_requests_at_once() {
        let mut frames = ControlFrames::new();
        assert!(frames.count(&REQUEST.repeat(16_384)).is_ok());
        assert!(frames.count(&RESET.repeat(16_384)).is_ok());
    }

    #[test]
    fn a_busy_client_saves_up_at_most_twice_the_rate() {
        let mut frames = ControlFrames::new();
        assert!(frames.count(&REQUEST.repeat(100_000)).is_ok());
        assert!((0..2_500).any(|_| frames.count(&PING).is_err()));
    }
}
