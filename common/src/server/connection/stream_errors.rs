//! [`StreamErrors`]: a limit on the streams that a client makes the server reset.
//!
//! A stream that is reset does not count among the open ones, so a client that makes the server reset
//! its streams is not held up by their limit (CVE-2025-8671, "made you reset"). h2 limits the resets
//! in the life of a connection. Behind a proxy, a connection lives long and has many clients, and a
//! few odd requests of one of them would end it for all. So this limit is one of their rate.

use h2::Reason;

use super::allowance::{Allowance, TooMany};
use crate::{limits, telemetry::metrics};

/// The bytes of a frame header, in which the length has three and the type has one (RFC 9113, 4.1).
const HEAD: usize = 9;
const KIND: usize = 3;

const RST_STREAM: u8 = 3;

/// The bytes of a frame header and an error code (RFC 9113, 6.4).
const RESET: usize = HEAD + 4;

/// Reads the frames that the server writes.
#[derive(Debug)]
pub(crate) struct StreamErrors {
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
    pub(crate) fn new() -> Self {
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
    pub(crate) fn check(&self) -> Result<(), TooMany> {
        if self.is_over { Err(TooMany) } else { Ok(()) }
    }

    /// Notes bytes that were written to the client.
    pub(crate) fn note_written(&mut self, mut bytes: &[u8]) {
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

#[cfg(test)]
mod tests {
    use super::*;

    const DATA: [u8; 22] = [
        0, 0, 13, 0, 0, 0, 0, 0, 1, 0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 1,
    ];
    const SETTINGS_ACK: [u8; 9] = [0, 0, 0, 4, 1, 0, 0, 0, 0];

    fn reset(code: Reason) -> [u8; 13] {
        let [w, x, y, z] = u32::from(code).to_be_bytes();
        [0, 0, 4, 3, 0, 0, 0, 0, 1, w, x, y, z]
    }

    /// The number of repetitions after which `frames`, written in pieces of `cut` bytes, are too many.
    fn too_many_after(frames: &[u8], cut: usize) -> Option<usize> {
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
                let frames = [&SETTINGS_ACK[..], &reset(code), &DATA].concat();
                let after = too_many_after(&frames, cut).expect("they are many");
                let allowed = limits::STREAM_ERRORS_AT_ONCE as usize;
                assert!((allowed..2 * allowed).contains(&after), "{after}");
            }
            for code in [Reason::NO_ERROR, Reason::CANCEL, Reason::INTERNAL_ERROR] {
                let frames = [&reset(code)[..], &DATA].concat();
                assert_eq!(too_many_after(&frames, cut), None, "{code:?}");
            }
        }
    }
}
