//! [`Socket`]: one end of a connection.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Sleep,
};

use super::{path::Path, pipe::Pipe};
use crate::random::Shared as Random;

/// One end of a connection. Dropping it closes the connection, as a kernel does.
#[derive(Debug)]
pub struct Socket {
    reads: Pipe,
    writes: Pipe,
    timer: Option<Pin<Box<Sleep>>>,
    host_has_vanished: Arc<AtomicBool>,
}

/// Counts what a peer has written, also after the end of the connection.
#[derive(Debug, Clone)]
pub struct Written(Pipe);

impl Written {
    /// The bytes that the kernel of the peer has taken so far.
    pub fn bytes(&self) -> u64 {
        self.0.written()
    }
}

impl Socket {
    /// What the peer writes.
    pub fn written_by_peer(&self) -> Written {
        Written(self.reads.clone())
    }
}

/// Both directions of a connection, for what the network does to it.
#[derive(Debug, Clone)]
pub(super) struct Wires {
    there: Pipe,
    back: Pipe,
    server_has_vanished: Arc<AtomicBool>,
}

/// A connection: the ends of the client and of the server, and the wires between them.
pub(super) fn connection(there: Path, back: Path, random: &Random) -> (Socket, Socket, Wires) {
    let wires = Wires {
        there: Pipe::new(there, random.clone()),
        back: Pipe::new(back, random.clone()),
        server_has_vanished: Arc::default(),
    };
    let client = Socket {
        reads: wires.back.clone(),
        writes: wires.there.clone(),
        timer: None,
        host_has_vanished: Arc::default(),
    };
    let server = Socket {
        reads: wires.there.clone(),
        writes: wires.back.clone(),
        timer: None,
        host_has_vanished: wires.server_has_vanished.clone(),
    };
    (client, server, wires)
}

impl Wires {
    /// Resets the connection.
    pub(super) fn reset(&self, error: io::ErrorKind) {
        self.there.fail(error);
        self.back.fail(error);
    }

    /// The host of the server is gone without a word: the client notices nothing.
    pub(super) fn vanish(&self) {
        self.server_has_vanished.store(true, Relaxed);
        self.there.deafen();
    }

    pub(super) fn has_vanished(&self) -> bool {
        self.server_has_vanished.load(Relaxed)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.host_has_vanished.load(Relaxed) {
            return;
        }
        if self.reads.has_unread() {
            self.writes.fail(io::ErrorKind::ConnectionReset);
        } else {
            self.writes.shut();
        }
        self.reads.deafen();
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.reads.poll_read(&mut this.timer, cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.writes.poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writes.shut();
        Poll::Ready(Ok(()))
    }
}
