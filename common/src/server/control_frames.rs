//! For the socket: HTTP/2 control frames, counted as they come.
//!
//! A control frame costs a client nine bytes; it may cost the server a pass over all streams. h2
//! limits some kinds of them and has no hook for the others, so they are counted below it.

use std::time::Instant;

/// Control frames that a connection may send in a second, beyond those that its requests and our
/// responses explain; as many may come at once.
const MAX_PER_SECOND: u32 = 1_000;

/// Control frames that a request explains: its priority, its window, an end without data. Its
/// reset is counted by itself, as a client may give up all of its requests at once.
const PER_REQUEST: u32 = 3;

/// Bytes of a response that explain two window updates, one for the stream and one for the
/// connection: the head of a DATA frame and a little in it.
const BYTES_PER_UPDATE: u32 = 8;

/// Window updates, and resets, that may be explained in advance.
const MAX_EXPLAINED: u32 = 64 * 1_024;

/// The head of a frame (RFC 9113, 4.1): three bytes of length, the type, flags, the stream.
const HEAD: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const WINDOW_UPDATE: u8 = 8;

/// The last thing that a connection is told: GOAWAY (type 7) with `ENHANCE_YOUR_CALM` (11). The
/// stream is the highest there is, as requests in flight may have been processed.
pub(super) const GOAWAY_CALM: [u8; 17] = [
    0, 0, 8, 7, 0, 0, 0, 0, 0, 0x7F, 0xFF, 0xFF, 0xFF, 0, 0, 0, 11,
];

/// Counts the frames of one connection.
#[derive(Debug)]
pub(super) struct ControlFrames {
    head: [u8; HEAD],
    /// How much of the head is there.
    read: usize,
    /// Bytes of the frame that are still to come.
    left: usize,
    /// Frames that may come now, and when that was last raised by the time that passed.
    budget: u32,
    refilled: Instant,
    /// Window updates that the responses explain.
    updates: u32,
    /// Resets that the requests explain.
    resets: u32,
}

impl ControlFrames {
    /// For what comes after the preface.
    pub(super) fn new() -> Self {
        Self {
            head: [0; HEAD],
            read: 0,
            left: 0,
            budget: MAX_PER_SECOND,
            refilled: Instant::now(),
            updates: 0,
            resets: 0,
        }
    }

    /// The connection was sent that many bytes.
    pub(super) fn note_written(&mut self, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let updates = self.updates.saturating_add(bytes / BYTES_PER_UPDATE);
        self.updates = updates.min(MAX_EXPLAINED);
    }

    /// Whether, with these bytes, there are too many.
    pub(super) fn are_too_many(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            let payload = self.left.min(bytes.len());
            self.left -= payload;
            bytes = &bytes[payload..];
            let head = (HEAD - self.read).min(bytes.len());
            self.head[self.read..self.read + head].copy_from_slice(&bytes[..head]);
            self.read += head;
            bytes = &bytes[head..];
            if self.read == HEAD && !self.begin_frame() {
                return true;
            }
        }
        false
    }

    /// Whether the frame whose head is there may come.
    fn begin_frame(&mut self) -> bool {
        let [a, b, c, kind, ..] = self.head;
        self.left = u32::from_be_bytes([0, a, b, c]) as usize;
        self.read = 0;
        match kind {
            HEADERS => {
                self.budget = (self.budget + PER_REQUEST).min(2 * MAX_PER_SECOND);
                self.resets = (self.resets + 1).min(MAX_EXPLAINED);
            }
            DATA if self.left > 0 => {}
            RST_STREAM if self.resets > 0 => self.resets -= 1,
            WINDOW_UPDATE if self.updates > 0 => self.updates -= 1,
            _ => return self.spend(),
        }
        true
    }

    fn spend(&mut self) -> bool {
        if self.budget == 0 {
            let millis = self.refilled.elapsed().as_millis();
            let earned = u32::try_from(millis).unwrap_or(u32::MAX);
            self.budget = earned
                .saturating_mul(MAX_PER_SECOND / 1_000)
                .min(MAX_PER_SECOND);
            self.refilled = Instant::now();
        }
        let is_left = self.budget > 0;
        self.budget = self.budget.saturating_sub(1);
        is_left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PING: [u8; 17] = [0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
    const UPDATE: [u8; 13] = [0, 0, 4, 8, 0, 0, 0, 0, 1, 0, 0, 0, 20];
    const RESET: [u8; 13] = [0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 8];
    const REQUEST: [u8; 10] = [0, 0, 1, 1, 5, 0, 0, 0, 1, 0x82];

    /// How many of these come before there are too many.
    fn too_many_at(frame: &[u8], cut: usize) -> Option<usize> {
        let mut frames = ControlFrames::new();
        (1..10_000).find(|_| frame.chunks(cut).any(|bytes| frames.are_too_many(bytes)))
    }

    #[test]
    fn a_flood_is_told_from_requests_however_it_is_cut() {
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
            // DATA with an empty gRPC message and one with a little in it.
            frames.note_written(HEAD + 5 + 2);
            assert!(!frames.are_too_many(&[UPDATE, UPDATE].concat()));
        }
        for _ in 0..10_000 {
            frames.note_written(16_384);
            assert!(!frames.are_too_many(&UPDATE));
        }
        assert!(
            (0..10_000).any(|_| frames.are_too_many(&PING)),
            "they explain no others"
        );
    }

    #[test]
    fn a_client_may_give_up_all_of_its_requests_at_once() {
        let mut frames = ControlFrames::new();
        assert!(!frames.are_too_many(&REQUEST.repeat(16_384)));
        assert!(!frames.are_too_many(&RESET.repeat(16_384)));
    }

    #[test]
    fn a_client_that_was_busy_once_has_no_more_in_hand_than_twice_the_rate() {
        let mut frames = ControlFrames::new();
        assert!(!frames.are_too_many(&REQUEST.repeat(100_000)));
        assert!((0..2_500).any(|_| frames.are_too_many(&PING)));
    }
}
