//! [`Step`]: a part of a script.

use std::time::Duration;

use bytes::Bytes;

/// A part of what a fake does on a stream, or on the connection.
#[derive(Debug, Clone)]
pub(super) enum Step {
    /// Waits.
    Pause(Duration),
    /// Waits for the end of the request.
    RequestEnd,
    /// Waits until the client resets the stream.
    ClientReset,
    /// Sends DATA when the client's windows allow it.
    Data {
        /// What is sent.
        bytes: Bytes,
        /// The most bytes in a frame.
        frame: usize,
        /// Whether the stream ends with it.
        ends: bool,
    },
    /// Sends a frame at once.
    Frame {
        /// The type.
        kind: u8,
        /// The flags.
        flags: u8,
        /// The id of its stream.
        stream: u32,
        /// The bytes after the head.
        payload: Bytes,
    },
    /// Sends bytes that are no frame.
    Bytes(Bytes),
    /// Sends a GOAWAY with this last id, error code and debug data.
    GoAway(Last, u32, Bytes),
    /// Sends and reads nothing any more, and leaves the connection open.
    Mute,
    /// Closes the connection once all is sent.
    Close,
}

/// The last id of a GOAWAY. None of them is lower than a stream that was processed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Last {
    /// The last stream that was processed, or 0.
    Processed,
    /// The stream after that one.
    Next,
    /// The highest id.
    Max,
}
