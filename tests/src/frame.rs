//! Frames of HTTP/2 on the wire (RFC 9113, section 4.1), for peers that do what no library does.

use bytes::{Buf, Bytes, BytesMut};

/// The type of DATA.
pub const DATA: u8 = 0;
/// The type of HEADERS.
pub const HEADERS: u8 = 1;
/// The type of PRIORITY.
pub const PRIORITY: u8 = 2;
/// The type of `RST_STREAM`.
pub const RST_STREAM: u8 = 3;
/// The type of SETTINGS.
pub const SETTINGS: u8 = 4;
/// The type of `PUSH_PROMISE`.
pub const PUSH_PROMISE: u8 = 5;
/// The type of PING.
pub const PING: u8 = 6;
/// The type of GOAWAY.
pub const GOAWAY: u8 = 7;
/// The type of `WINDOW_UPDATE`.
pub const WINDOW_UPDATE: u8 = 8;
/// The type of CONTINUATION.
pub const CONTINUATION: u8 = 9;

/// The flag of an acknowledgement, on SETTINGS and PING.
pub const ACK: u8 = 1;
/// The flag of the last frame of a stream.
pub const END_STREAM: u8 = 1;
/// The flag of HEADERS without CONTINUATION.
pub const END_HEADERS: u8 = 4;
/// The flag of padding, on DATA and HEADERS.
pub const PADDED: u8 = 8;

/// The stream id of frames that concern the whole connection.
pub const CONNECTION: [u8; 4] = [0; 4];

/// The bytes that a client sends before any frame.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const HEAD: usize = 9;

/// A frame.
#[derive(Debug)]
pub struct Frame {
    /// The type.
    pub kind: u8,
    /// The flags.
    pub flags: u8,
    /// The id of its stream.
    pub stream: [u8; 4],
    /// The bytes after the head.
    pub payload: Bytes,
}

impl Frame {
    /// Takes the first frame off the bytes, if all of it has been received.
    pub fn take(received: &mut BytesMut) -> Option<Self> {
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
///
/// # Panics
///
/// When the length of the payload does not fit into three bytes.
pub fn frame(kind: u8, flags: u8, stream: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("it is short");
    let [0, a, b, c] = length.to_be_bytes() else {
        panic!("{length} bytes are too long for a frame");
    };
    let mut frame = vec![a, b, c, kind, flags];
    frame.extend(stream);
    frame.extend(payload);
    frame
}

/// The preface of a client with empty SETTINGS.
pub fn hello() -> Vec<u8> {
    [PREFACE, &frame(SETTINGS, 0, CONNECTION, b"")].concat()
}

/// The HEADERS of a request: a GET without a body, or a POST whose body follows. `number` counts
/// the requests of a client from 0.
///
/// # Panics
///
/// When the path is longer than 126 bytes.
pub fn request(number: u32, is_get: bool, path: &str) -> Vec<u8> {
    request_to(b"a", number, is_get, path.as_bytes())
}

/// The same, with any authority, and any bytes as the path.
///
/// # Panics
///
/// When the authority or the path is longer than 126 bytes.
pub fn request_to(authority: &[u8], number: u32, is_get: bool, path: &[u8]) -> Vec<u8> {
    // RFC 7541: indexed fields, and two literals without indexing under an indexed name.
    let mut block = vec![if is_get { 0x82 } else { 0x83 }, 0x86];
    for (name, value) in [(0x01, authority), (0x04, path)] {
        let length = u8::try_from(value.len())
            .ok()
            .filter(|length| *length < 127);
        block.extend([name, length.expect("it is short")]);
        block.extend(value);
    }
    let flags = END_HEADERS | if is_get { END_STREAM } else { 0 };
    frame(HEADERS, flags, stream_of(number), &block)
}

/// The id of the stream of a request.
pub fn stream_of(number: u32) -> [u8; 4] {
    (number * 2 + 1).to_be_bytes()
}
