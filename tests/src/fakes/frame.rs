//! [`Frame`]: a frame of HTTP/2 as it is on the wire (RFC 9113, section 4.1).

use bytes::{Buf, Bytes, BytesMut};

/// Types of frames.
pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;

/// Flags of frames.
pub(super) const ACK: u8 = 1;
pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;

/// The stream of the frames that concern the connection.
pub(super) const CONNECTION: [u8; 4] = [0; 4];

const HEAD: usize = 9;

pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: [u8; 4],
    pub(super) payload: Bytes,
}

impl Frame {
    /// Takes the first frame, if all of it is there.
    pub(super) fn take(received: &mut BytesMut) -> Option<Self> {
        let [a, b, c, kind, flags, stream @ ..] = *received.first_chunk::<HEAD>()?;
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        if received.len() < HEAD + length {
            return None;
        }
        received.advance(HEAD);
        Some(Self {
            kind,
            flags,
            stream,
            payload: received.split_to(length).freeze(),
        })
    }
}

/// The bytes of a frame.
pub(super) fn frame(kind: u8, flags: u8, stream: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).expect("those of fakes are short");
    let mut frame = vec![0, 0, length, kind, flags];
    frame.extend(stream);
    frame.extend(payload);
    frame
}
