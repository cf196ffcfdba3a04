//! [`FrameLimits`]: limits on what the HTTP/2 frames of a client cost the server.
//!
//! - A control frame costs a client nine bytes, and may cost the server a pass over all streams. h2
//!   limits some kinds and has no hook for the others, so the bytes are counted before h2 reads them.
//! - A stream that is reset does not count among the open ones, so a client that makes the server reset
//!   its streams is not held up by their limit (CVE-2025-8671, "made you reset"). h2 limits the resets
//!   in the life of a connection. Behind a proxy, a connection lives long and has many clients, and a
//!   few odd requests of one of them would end it for all. So this limit is one of their rate.

use std::io::IoSlice;

use h2::Reason;
use tokio::time::Instant;

use crate::{dialect::messages::LengthPrefixed, limits, telemetry::metrics};

/// The bytes of a frame header (RFC 9113, 4.1): length (three), kind, flags, stream (four).
const HEAD: usize = 9;
const KIND: usize = 3;

/// The bytes of a frame header and an error code (RFC 9113, 6.4).
const RESET: usize = HEAD + 4;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const WINDOW_UPDATE: u8 = 8;

/// The limits on the frames of one connection.
#[derive(Debug)]
pub(super) struct FrameLimits {
    control: ControlFrames,
    errors: StreamErrors,
}

impl FrameLimits {
    /// Limits for a connection whose client has sent the preface.
    pub(super) fn new() -> Self {
        Self {
            control: ControlFrames::new(),
            errors: StreamErrors::new(),
        }
    }

    /// Checks the bytes that have come. The error names the exceeded limit.
    pub(super) fn check(&mut self, read: &[u8]) -> Result<(), &'static str> {
        let errors = self.errors.check();
        errors.map_err(|TooMany| "too many stream errors")?;
        let control = self.control.count(read);
        control.map_err(|TooMany| "too many control frames")
    }

    /// Notes the first `written` bytes of the slices.
    pub(super) fn note_written(&mut self, slices: &[IoSlice<'_>], written: usize) {
        self.control.note_written(written);
        let mut left = written;
        for slice in slices {
            let bytes = &slice[..left.min(slice.len())];
            self.errors.note_written(bytes);
            left -= bytes.len();
        }
    }
}

/// Counts the control frames of the client.
#[derive(Debug)]
struct ControlFrames {
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
    fn new() -> Self {
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
    fn note_written(&mut self, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let explained = bytes / limits::BYTES_PER_WINDOW_UPDATE;
        let updates = self.budget.updates.saturating_add(explained);
        self.budget.updates = updates.min(limits::MAX_EXPLAINED_FRAMES);
    }

    /// Counts the frames that begin in these bytes of the client.
    fn count(&mut self, bytes: &[u8]) -> Result<(), TooMany> {
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

/// Counts the streams that the client has made the server reset, in the frames that the server writes.
#[derive(Debug)]
struct StreamErrors {
    /// The header of a frame, and the code if it is a reset.
    start: [u8; RESET],
    /// Bytes of it that have been written.
    read: usize,
    /// Bytes of the frame that are still to come after `start`.
    left: usize,
    allowed: Allowance,
    is_over: bool,
}

impl StreamErrors {
    fn new() -> Self {
        Self {
            start: [0; RESET],
            read: 0,
            left: 0,
            allowed: Allowance::new(
                limits::STREAM_ERRORS_PER_SECOND,
                limits::STREAM_ERRORS_AT_ONCE,
            ),
            is_over: false,
        }
    }

    /// Whether the client has made the server reset more than it may.
    fn check(&self) -> Result<(), TooMany> {
        if self.is_over { Err(TooMany) } else { Ok(()) }
    }

    /// Notes bytes that were written to the client.
    fn note_written(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let rest = self.left.min(bytes.len());
            self.left -= rest;
            bytes = &bytes[rest..];
            let end = self.end_of_start();
            let more = (end - self.read).min(bytes.len());
            self.start[self.read..self.read + more].copy_from_slice(&bytes[..more]);
            self.read += more;
            bytes = &bytes[more..];
            if self.read == self.end_of_start() {
                self.begin_frame();
            }
        }
    }

    fn end_of_start(&self) -> usize {
        if self.read > KIND && self.start[KIND] == RST_STREAM {
            RESET
        } else {
            HEAD
        }
    }

    fn begin_frame(&mut self) {
        // A code fits into the last of its bytes.
        let [a, b, c, .., code] = self.start;
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        self.left = length + HEAD - self.read;
        if self.read == RESET && is_error_of_client(u32::from(code).into()) {
            metrics::count(|counters| &counters.stream_errors);
            self.is_over |= self.allowed.spend().is_err();
        }
        self.read = 0;
    }
}

/// Whether a reset with this code is the answer to frames of the client. Others end a response that
/// broke off, or an upload that nobody reads.
fn is_error_of_client(code: Reason) -> bool {
    matches!(
        code,
        Reason::PROTOCOL_ERROR
            | Reason::FLOW_CONTROL_ERROR
            | Reason::STREAM_CLOSED
            | Reason::REFUSED_STREAM
    )
}

/// The client has done more than it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct TooMany;

/// How often a second a client may do something that costs it little.
#[derive(Debug)]
struct Allowance {
    per_second: u32,
    at_once: u32,
    /// How often it may do so now. Once used up, the time since `refilled` is added.
    left: u32,
    refilled: Instant,
}

impl Allowance {
    fn new(per_second: u32, at_once: u32) -> Self {
        Self {
            per_second,
            at_once,
            left: at_once,
            refilled: Instant::now(),
        }
    }

    /// Allows more, up to twice `at_once`.
    fn add(&mut self, more: u32) {
        self.left = (self.left + more).min(2 * self.at_once);
    }

    fn spend(&mut self) -> Result<(), TooMany> {
        if self.left == 0 {
            let millis = self.refilled.elapsed().as_millis();
            let earned = u32::try_from(millis).unwrap_or(u32::MAX);
            self.left = earned
                .saturating_mul(self.per_second / 1_000)
                .min(self.at_once);
            self.refilled = Instant::now();
        }
        self.left = self.left.checked_sub(1).ok_or(TooMany)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PING: [u8; 17] = [0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
    const UPDATE: [u8; 13] = [0, 0, 4, 8, 0, 0, 0, 0, 1, 0, 0, 0, 20];
    const RESET_FRAME: [u8; 13] = [0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 8];
    const REQUEST: [u8; 10] = [0, 0, 1, 1, 5, 0, 0, 0, 1, 0x82];

    /// The number of repetitions at which `frame`, in pieces of `cut` bytes, is too many.
    fn too_many_at(frame: &[u8], cut: usize) -> Option<usize> {
        let mut frames = ControlFrames::new();
        (1..10_000).find(|_| frame.chunks(cut).any(|bytes| frames.count(bytes).is_err()))
    }

    #[test]
    fn floods_are_refused_and_requests_are_not_however_the_bytes_are_split() {
        for cut in [1, 7, 9, 17] {
            for flood in [&PING[..], &UPDATE, &RESET_FRAME] {
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
        assert!(frames.count(&RESET_FRAME.repeat(16_384)).is_ok());
    }

    #[test]
    fn a_busy_client_saves_up_at_most_twice_the_rate() {
        let mut frames = ControlFrames::new();
        assert!(frames.count(&REQUEST.repeat(100_000)).is_ok());
        assert!((0..2_500).any(|_| frames.count(&PING).is_err()));
    }

    const DATA_FRAME: [u8; 22] = [
        0, 0, 13, 0, 0, 0, 0, 0, 1, 0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 1,
    ];
    const SETTINGS_ACK: [u8; 9] = [0, 0, 0, 4, 1, 0, 0, 0, 0];

    fn reset(code: Reason) -> [u8; 13] {
        let [w, x, y, z] = u32::from(code).to_be_bytes();
        [0, 0, 4, 3, 0, 0, 0, 0, 1, w, x, y, z]
    }

    /// The number of repetitions after which `frames`, written in pieces of `cut` bytes, are too many.
    fn too_many_resets_after(frames: &[u8], cut: usize) -> Option<usize> {
        let mut errors = StreamErrors::new();
        (1..20_000).find(|_| {
            frames
                .chunks(cut)
                .for_each(|bytes| errors.note_written(bytes));
            errors.check().is_err()
        })
    }

    #[test]
    fn only_resets_for_errors_of_the_client_count_however_the_bytes_are_split() {
        for cut in [1, 4, 9, 13, 100] {
            for code in [Reason::PROTOCOL_ERROR, Reason::FLOW_CONTROL_ERROR] {
                let frames = [&SETTINGS_ACK[..], &reset(code), &DATA_FRAME].concat();
                let after = too_many_resets_after(&frames, cut).expect("they are many");
                let allowed = limits::STREAM_ERRORS_AT_ONCE as usize;
                assert!((allowed..2 * allowed).contains(&after), "{after}");
            }
            for code in [Reason::NO_ERROR, Reason::CANCEL, Reason::INTERNAL_ERROR] {
                let frames = [&reset(code)[..], &DATA_FRAME].concat();
                assert_eq!(too_many_resets_after(&frames, cut), None, "{code:?}");
            }
        }
    }
}
