//! The other end of a connection, frame by frame (RFC 9113, 4.1), for what an `h2` server never
//! sends.

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::*;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;

const END_STREAM_AND_HEADERS: u8 = 5;

/// `:status: 200` and `grpc-status: 0` as HPACK.
const OK: &[u8] = b"\x88\0\x0bgrpc-status\x010";

pub(crate) struct Raw(DuplexStream);

pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

/// A connection to a raw end, which has sent nothing yet and read the preface.
pub(crate) async fn raw() -> (Arc<Connection>, Raw) {
    let (ours, theirs) = duplex(64 * 1_024);
    let head = Origin::in_memory(RequestIdNames::Both);
    let connection = Connection::with_io(ours, head, Arc::default())
        .await
        .unwrap();
    let mut raw = Raw(theirs);
    raw.0.read_exact(&mut [0; 24]).await.unwrap();
    (connection, raw)
}

impl Raw {
    pub(crate) async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
        self.0.write_all(&head).await.unwrap();
        self.0.write_all(payload).await.unwrap();
    }

    /// Sends settings, with these values by identifier (RFC 9113, 6.5.1).
    pub(crate) async fn send_settings(&mut self, values: &[(u16, u32)]) {
        let values = values.iter();
        let values = values.flat_map(|(id, value)| {
            let value = value.to_be_bytes();
            id.to_be_bytes().into_iter().chain(value)
        });
        let payload: Vec<_> = values.collect();
        self.send(SETTINGS, 0, 0, &payload).await;
    }

    /// Sends a whole response: a head with the status OK.
    pub(crate) async fn respond(&mut self, stream: u32) {
        self.send(HEADERS, END_STREAM_AND_HEADERS, stream, OK).await;
    }

    pub(crate) async fn next(&mut self) -> Frame {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).await.unwrap();
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        self.0.read_exact(&mut payload).await.unwrap();
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let (kind, flags) = (head[3], head[4]);
        Frame {
            kind,
            flags,
            stream,
            payload,
        }
    }

    /// Reads up to a frame of this type.
    pub(crate) async fn next_of(&mut self, kind: u8) -> Frame {
        loop {
            let frame = self.next().await;
            if frame.kind == kind {
                return frame;
            }
        }
    }
}
