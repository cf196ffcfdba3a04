//! A server that counts PINGs as gRPC's servers do (gRFC A8). It handles frames itself, as HTTP/2
//! libraries acknowledge PINGs unseen.

use std::{
    collections::HashMap,
    io,
    time::{Duration, Instant},
};

use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    select,
    task::JoinSet,
    time::sleep,
};

use crate::frame::{
    ACK, CONNECTION, DATA, END_HEADERS, END_STREAM, Frame, GOAWAY, HEADERS, PING, PREFACE,
    SETTINGS, frame,
};

/// A PING that follows another sooner than this is a strike. One strike more than the maximum
/// closes the connection. These are the defaults of gRPC's servers.
const MIN_PING_INTERVAL: Duration = Duration::from_mins(5);
const MAX_PING_STRIKES: u32 = 2;

/// The time until the response for a quiet name.
const QUIET: Duration = Duration::from_secs(100);

/// The request of `grpc.health.v1` for the whole server: an empty message. The message identifies
/// it, as the path is compressed.
const HEALTH: &[u8] = &[0; 5];

/// Headers as HPACK: `:status: 200`, the content type, and the gRPC status.
const HEAD: &[u8] = b"\x88\x0f\x10\x10application/grpc";
const OK: &[u8] = b"\0\x0bgrpc-status\x010";
const UNIMPLEMENTED: &[u8] = b"\0\x0bgrpc-status\x0212";

/// Serves a connection until it is closed, by the client or for its PINGs.
pub(super) async fn serve(socket: TcpStream) -> io::Result<()> {
    let mut connection = Connection {
        socket,
        pings: Pings::default(),
    };
    let mut received = BytesMut::new();
    while received.len() < PREFACE.len() {
        connection.receive(&mut received).await?;
    }
    received.advance(PREFACE.len());
    connection.send(SETTINGS, 0, CONNECTION, b"").await?;
    let mut messages = HashMap::<[u8; 4], Vec<u8>>::new();
    let mut quiet = JoinSet::new();
    loop {
        while let Some(Frame {
            kind,
            flags,
            stream,
            payload,
        }) = Frame::take(&mut received)
        {
            match kind {
                SETTINGS if flags & ACK == 0 => {
                    connection.send(SETTINGS, ACK, stream, b"").await?;
                }
                PING if flags & ACK == 0 => connection.ping(&payload).await?,
                DATA => {
                    let mut message = messages.remove(&stream).unwrap_or_default();
                    message.extend(payload);
                    if flags & END_STREAM == 0 {
                        messages.insert(stream, message);
                    } else if message.windows(5).any(|part| part == b"quiet") {
                        quiet.spawn(async move {
                            sleep(QUIET).await;
                            (stream, message)
                        });
                    } else {
                        connection.respond(stream, &message).await?;
                    }
                }
                _ => {}
            }
        }
        select! {
            received = connection.receive(&mut received) => received?,
            Some(call) = quiet.join_next() => {
                let (stream, message) = call.expect("it does not panic");
                connection.respond(stream, &message).await?;
            }
        }
    }
}

struct Connection {
    socket: TcpStream,
    pings: Pings,
}

impl Connection {
    async fn receive(&mut self, received: &mut BytesMut) -> io::Result<()> {
        match self.socket.read_buf(received).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    async fn send(
        &mut self,
        kind: u8,
        flags: u8,
        stream: [u8; 4],
        payload: &[u8],
    ) -> io::Result<()> {
        let frame = frame(kind, flags, stream, payload);
        self.socket.write_all(&frame).await
    }

    /// Sends the response to a message, and forgets the PINGs so far.
    async fn respond(&mut self, stream: [u8; 4], message: &[u8]) -> io::Result<()> {
        self.pings = Pings::default();
        let last = END_HEADERS | END_STREAM;
        if message == HEALTH {
            let head = [HEAD, UNIMPLEMENTED].concat();
            return self.send(HEADERS, last, stream, &head).await;
        }
        self.send(HEADERS, END_HEADERS, stream, HEAD).await?;
        self.send(DATA, 0, stream, message).await?;
        self.send(HEADERS, last, stream, OK).await
    }

    /// Acknowledges a PING, or closes the connection for one too many.
    async fn ping(&mut self, payload: &[u8]) -> io::Result<()> {
        if self.pings.is_one_too_many() {
            // The last stream that was served, any; ENHANCE_YOUR_CALM; why.
            let why = b"\x7f\xff\xff\xff\0\0\0\x0btoo_many_pings";
            self.send(GOAWAY, 0, CONNECTION, why).await?;
            return Err(io::Error::other("too many pings"));
        }
        self.send(PING, ACK, CONNECTION, payload).await
    }
}

/// The PINGs since the last response.
#[derive(Default)]
struct Pings {
    last: Option<Instant>,
    strikes: u32,
}

impl Pings {
    /// Counts a PING.
    fn is_one_too_many(&mut self) -> bool {
        let last = self.last.replace(Instant::now());
        let is_strike = last.is_some_and(|last| last.elapsed() < MIN_PING_INTERVAL);
        self.strikes += u32::from(is_strike);
        self.strikes > MAX_PING_STRIKES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fourth_ping_without_a_response_is_one_too_many() {
        let mut pings = Pings::default();
        let all = [(); 4].map(|()| pings.is_one_too_many());
        assert_eq!(all, [false, false, false, true]);
    }
}
