//! A socket that must say which protocol it speaks in time.
//!
//! hyper's header timeout begins once the protocol is known, and hyper-util's detection of it
//! waits without end: for a client that sends nothing, or the beginning of the HTTP/2 preface
//! and no more.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

/// What an HTTP/2 connection begins with (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pin_project_lite::pin_project! {
    /// Fails to read with [`io::ErrorKind::TimedOut`] when the first bytes, as far as they came,
    /// leave open whether it is HTTP/1 or HTTP/2 for too long.
    #[derive(Debug)]
    pub(super) struct FirstBytes<S> {
        #[pin]
        socket: S,
        undecided: Option<Undecided>,
    }
}

#[derive(Debug)]
struct Undecided {
    /// How much of the preface has come.
    matched: usize,
    timeout: Pin<Box<Sleep>>,
}

impl<S> FirstBytes<S> {
    pub(super) fn new(socket: S, timeout: Duration) -> Self {
        Self {
            socket,
            undecided: Some(Undecided {
                matched: 0,
                timeout: Box::pin(sleep(timeout)),
            }),
        }
    }
}

impl<S: AsyncRead> AsyncRead for FirstBytes<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.project();
        let before = buffer.filled().len();
        let poll = this.socket.poll_read(cx, buffer);
        let Some(undecided) = this.undecided else {
            return poll;
        };
        if poll.is_pending() {
            return undecided.timeout.as_mut().poll(cx).map(|()| {
                Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "no request in time",
                ))
            });
        }
        let read = &buffer.filled()[before..];
        undecided.matched += read.len();
        let so_far = undecided.matched - read.len();
        if read.is_empty()
            || !PREFACE[so_far..].starts_with(read)
            || undecided.matched == PREFACE.len()
        {
            *this.undecided = None;
        }
        poll
    }
}

impl<S: AsyncWrite> AsyncWrite for FirstBytes<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.project().socket.poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().socket.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().socket.poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.project().socket.poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(5);

    /// Sends `bytes`, then nothing more; whether the read after them times out.
    async fn times_out_after(bytes: &[u8]) -> bool {
        let (mut client, server) = duplex(64);
        let mut server = FirstBytes::new(server, TIMEOUT);
        client.write_all(bytes).await.unwrap();
        let mut read = vec![0; bytes.len()];
        server.read_exact(&mut read).await.unwrap();
        let next = tokio::time::timeout(TIMEOUT * 2, server.read_u8()).await;
        next.is_ok_and(|next| next.unwrap_err().kind() == io::ErrorKind::TimedOut)
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_leaves_the_protocol_open_is_cut_off() {
        assert!(times_out_after(b"").await);
        assert!(times_out_after(b"P").await);
        assert!(times_out_after(b"PRI * HTTP/2.0\r\n").await);
    }

    #[tokio::test(start_paused = true)]
    async fn once_the_protocol_is_known_the_connection_may_wait() {
        assert!(!times_out_after(PREFACE).await);
        assert!(!times_out_after(b"G").await);
        assert!(!times_out_after(b"POST").await);
    }
}
