//! [`Socket`]: a socket with the timeouts that hyper lacks, and a limit on control frames.
//!
//! - hyper-util has no timeout for the first bytes, which show the protocol.
//! - hyper does not poll the body of a response while its client reads nothing, so the guard layer
//!   can't end the response at its deadline.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

use super::control_frames::{ControlFrames, GOAWAY_CALM, TooMany};
use crate::{metrics, server::capacity::open::Open};

/// The first bytes of an HTTP/2 connection (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pin_project_lite::pin_project! {
    /// A socket whose operations fail with [`io::ErrorKind::TimedOut`]: reads, if the first bytes
    /// do not show the protocol in time; writes, if the peer has read nothing for too long.
    #[derive(Debug)]
    pub(crate) struct Socket<S> {
        #[pin]
        inner: S,
        open: Arc<Open>,
        undecided: Option<Undecided>,
        // `None` until the first bytes show HTTP/2.
        frames: Option<ControlFrames>,
        // Whether the last write was complete, and so ended at the end of a frame.
        is_between_frames: bool,
        write_timeout: Duration,
        stalled: Option<Pin<Box<Sleep>>>,
        // Whether the last flush waits. That of TCP never does; TLS has a buffer.
        is_flushing: bool,
    }
}

#[derive(Debug)]
struct Undecided {
    /// Bytes of the preface that have been read.
    matched: usize,
    timeout: Pin<Box<Sleep>>,
}

impl<S> Socket<S> {
    pub(crate) fn new(
        inner: S,
        open: Arc<Open>,
        first_bytes_timeout: Duration,
        write_timeout: Duration,
    ) -> Self {
        Self {
            inner,
            open,
            frames: None,
            is_between_frames: true,
            undecided: Some(Undecided {
                matched: 0,
                timeout: Box::pin(sleep(first_bytes_timeout)),
            }),
            write_timeout,
            stalled: None,
            is_flushing: false,
        }
    }
}

/// Up to this number of bytes, copying costs less than passing several slices to the kernel.
const SMALL: usize = 512;

/// Copies the slices into one, if they fit into `copy`.
fn gather<'a>(slices: &[io::IoSlice<'_>], copy: &'a mut [u8; SMALL]) -> Option<&'a [u8]> {
    let mut end = 0;
    for slice in slices {
        copy.get_mut(end..end + slice.len())?.copy_from_slice(slice);
        end += slice.len();
    }
    Some(&copy[..end])
}

fn timed_out(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, what)
}

impl<S: AsyncRead + AsyncWrite> AsyncRead for Socket<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut this = self.project();
        let before = buffer.filled().len();
        let poll = this.inner.as_mut().poll_read(cx, buffer);
        if buffer.filled().len() > before {
            this.open.note_bytes();
        } else if matches!(poll, Poll::Ready(Ok(())))
            && this.frames.is_none()
            && this.open.note_end()
        {
            // The client may wait for the response.
            return Poll::Pending;
        }
        let Some(undecided) = this.undecided else {
            if let Some(frames) = this.frames
                && let Err(TooMany) = frames.count(&buffer.filled()[before..])
            {
                metrics::count(|counters| &counters.floods);
                if *this.is_between_frames {
                    // If the frame does not fit at once, the client does not read.
                    let _ = this.inner.poll_write(cx, &GOAWAY_CALM);
                }
                return Poll::Ready(Err(io::Error::other("too many control frames")));
            }
            return poll;
        };
        if poll.is_pending() {
            let timeout = undecided.timeout.as_mut().poll(cx);
            return timeout.map(|()| Err(timed_out("no request in time")));
        }
        let read = &buffer.filled()[before..];
        undecided.matched += read.len();
        let so_far = undecided.matched - read.len();
        let is_preface = PREFACE[so_far..].starts_with(read);
        if is_preface && undecided.matched == PREFACE.len() {
            *this.frames = Some(ControlFrames::new());
            this.open.note_http2();
        }
        if read.is_empty() || !is_preface || undecided.matched == PREFACE.len() {
            *this.undecided = None;
        }
        poll
    }
}

impl<S: AsyncWrite> Socket<S> {
    fn poll_in_time(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        length: usize,
        write: impl FnOnce(Pin<&mut S>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let this = self.project();
        let poll = write(this.inner, cx);
        this.open.note_writing(poll.is_pending());
        if let Poll::Ready(written) = &poll {
            *this.stalled = None;
            if let (Some(frames), Ok(written)) = (this.frames, written) {
                frames.note_written(*written);
                *this.is_between_frames = *written == length;
            }
            return poll;
        }
        poll_stalled(this.stalled, *this.write_timeout, cx).map(Err)
    }
}

/// Begins or continues to wait for a peer that takes nothing.
fn poll_stalled(
    stalled: &mut Option<Pin<Box<Sleep>>>,
    timeout: Duration,
    cx: &mut Context<'_>,
) -> Poll<io::Error> {
    let stalled = stalled.get_or_insert_with(|| Box::pin(sleep(timeout)));
    let fired = stalled.as_mut().poll(cx);
    fired.map(|()| timed_out("the peer takes nothing"))
}

impl<S: AsyncWrite> AsyncWrite for Socket<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_in_time(cx, bytes.len(), |socket, cx| socket.poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.project();
        match this.inner.poll_flush(cx) {
            Poll::Pending => {
                this.open.note_writing(true);
                *this.is_flushing = true;
                poll_stalled(this.stalled, *this.write_timeout, cx).map(Err)
            }
            ready @ Poll::Ready(_) => {
                if std::mem::take(this.is_flushing) {
                    this.open.note_writing(false);
                    *this.stalled = None;
                }
                ready
            }
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().inner.poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut copy = [0; SMALL];
        if let Some(bytes) = gather(slices, &mut copy) {
            return self.poll_write(cx, bytes);
        }
        let length = slices.iter().map(|slice| slice.len()).sum();
        self.poll_in_time(cx, length, |socket, cx| {
            socket.poll_write_vectored(cx, slices)
        })
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, BufWriter, duplex};

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(5);

    fn socket<S>(inner: S) -> Socket<S> {
        let open = Open::new(std::net::Ipv4Addr::LOCALHOST.into());
        Socket::new(inner, Arc::new(open), TIMEOUT, TIMEOUT)
    }

    /// Sends `bytes` and nothing more. Returns whether the next read times out.
    async fn times_out_after(bytes: &[u8]) -> bool {
        let (mut client, server) = duplex(64);
        let mut server = socket(server);
        client.write_all(bytes).await.unwrap();
        let mut read = vec![0; bytes.len()];
        server.read_exact(&mut read).await.unwrap();
        let next = tokio::time::timeout(TIMEOUT * 2, server.read_u8()).await;
        next.is_ok_and(|next| next.unwrap_err().kind() == io::ErrorKind::TimedOut)
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_show_its_protocol_is_cut_off() {
        assert!(times_out_after(b"").await);
        assert!(times_out_after(b"P").await);
        assert!(times_out_after(b"PRI * HTTP/2.0\r\n").await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_reads_nothing_is_cut_off_and_one_that_reads_a_little_is_not() {
        let (mut client, server) = duplex(64);
        let mut server = socket(server);
        let begin = tokio::time::Instant::now();
        let write = tokio::spawn(async move { server.write_all(&[0; 64 * 4]).await });
        for _ in 0..2 {
            tokio::time::sleep(TIMEOUT / 2).await;
            client.read_exact(&mut [0; 64]).await.unwrap();
        }
        let error = write.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(begin.elapsed(), TIMEOUT * 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_reads_nothing_of_a_buffer_like_that_of_tls_is_cut_off_too() {
        let (_client, server) = duplex(64);
        let mut server = socket(BufWriter::with_capacity(1_024, server));
        server.write_all(&[0; 512]).await.unwrap();
        assert!(!server.open.is_writing(), "the buffer has it all");
        let begin = tokio::time::Instant::now();
        let error = server.flush().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(begin.elapsed(), TIMEOUT);
        assert!(server.open.is_writing());
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_may_wait_once_its_protocol_is_known() {
        assert!(!times_out_after(PREFACE).await);
        assert!(!times_out_after(b"G").await);
        assert!(!times_out_after(b"POST").await);
    }
}
