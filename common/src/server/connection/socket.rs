//! [`Socket`]: a socket with the timeouts and the reset that hyper lacks, and limits on the frames of
//! HTTP/2.
//!
//! - hyper-util has no timeout for the first bytes, which show the protocol.
//! - hyper does not poll the body of a response while its client reads nothing, so the guard layer
//!   can't end the response at its deadline.
//! - hyper drops the socket once it has shut it down. If the client then sends anything, the kernel
//!   answers with a reset, and the client may lose the last response. So the socket is read until the
//!   client closes it, too.
//! - hyper drops the socket when a response breaks off. If only the end of the connection shows the end
//!   of the response, the client must see a reset.

use std::{
    future::Future,
    io,
    mem::{self, MaybeUninit},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use h2::Reason;
use rustix::{
    fd::AsFd,
    ioctl::{Getter, Opcode, ioctl},
};
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep},
};

use super::{
    error::{self, GOAWAY_CALM},
    frames::FrameLimits,
    state::ConnectionState,
};
use crate::{limits, telemetry::metrics, transport::Transport};

/// The first bytes of an HTTP/2 connection (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pin_project_lite::pin_project! {
    /// A socket whose operations fail with [`io::ErrorKind::TimedOut`]: reads, if the first bytes
    /// do not show the protocol in time; writes, if the peer has read nothing for too long.
    pub(crate) struct Socket {
        #[pin]
        inner: Transport,
        connection: Arc<ConnectionState>,
        undecided: Option<Undecided>,
        // `None` until the first bytes show HTTP/2.
        frames: Option<FrameLimits>,
        // Whether the last write was complete, and so ended at the end of a frame.
        is_between_frames: bool,
        write_timeout: Duration,
        stalled: Option<Stalled>,
        // Whether the last flush waits. That of TCP never does; TLS has a buffer.
        is_flushing: bool,
        // Whether the connection ends with a reset when it is dropped.
        ends_with_reset: bool,
        // The time limit for the client to close, after the end of all output.
        lingers: Option<Pin<Box<Sleep>>>,
    }
}

#[derive(Debug)]
struct Undecided {
    /// Bytes of the preface that have been read.
    matched: usize,
    timeout: Pin<Box<Sleep>>,
}

impl Socket {
    pub(crate) fn new(
        inner: Transport,
        connection: Arc<ConnectionState>,
        write_timeout: Duration,
    ) -> Self {
        Self {
            inner,
            connection,
            frames: None,
            is_between_frames: true,
            undecided: Some(Undecided {
                matched: 0,
                timeout: Box::pin(sleep(limits::HEADER_TIMEOUT)),
            }),
            write_timeout,
            stalled: None,
            is_flushing: false,
            ends_with_reset: false,
            lingers: None,
        }
    }
}

/// Makes the end of a TCP connection a reset, or a regular end. This holds even if the process is
/// killed.
fn end_with_reset(stream: &Transport, reset: bool) {
    if let Some(tcp) = stream.tcp() {
        // It fails if the connection has ended, and then nothing more can be shown.
        let _ = SockRef::from(tcp).set_linger(reset.then_some(Duration::ZERO));
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

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut this = self.project();
        let before = buffer.filled().len();
        let poll = this.inner.as_mut().poll_read(cx, buffer);
        if buffer.filled().len() > before {
            this.connection
                .inbound
                .note_bytes(&buffer.filled()[before..]);
        } else if matches!(poll, Poll::Ready(Ok(())))
            && this.frames.is_none()
            && this.connection.note_end()
        {
            // The client may wait for the response.
            return Poll::Pending;
        }
        let Some(undecided) = this.undecided else {
            if let Some(frames) = this.frames
                && let Err(reason) = frames.check(&buffer.filled()[before..])
            {
                metrics::count(|counters| &counters.floods);
                error::note(
                    this.connection.handle.address,
                    Reason::ENHANCE_YOUR_CALM,
                    reason,
                );
                if *this.is_between_frames {
                    // If the frame does not fit at once, the client does not read.
                    let _ = this.inner.poll_write(cx, &GOAWAY_CALM);
                }
                return Poll::Ready(Err(io::Error::other(reason)));
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
            *this.frames = Some(FrameLimits::new());
            this.connection.is_http2.set(true);
        }
        if read.is_empty() || !is_preface || undecided.matched == PREFACE.len() {
            *this.undecided = None;
        }
        poll
    }
}

impl Socket {
    fn poll_in_time(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
        write: impl FnOnce(Pin<&mut Transport>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let mut this = self.as_mut().project();
        let ends_response = this.connection.http1.ends_response.get();
        if *this.ends_with_reset != ends_response {
            *this.ends_with_reset = ends_response;
            end_with_reset(this.inner.as_ref().get_ref(), *this.ends_with_reset);
        }
        let poll = write(this.inner.as_mut(), cx);
        this.connection.outbound.note_writing(poll.is_pending());
        if let Poll::Ready(written) = &poll {
            if this.stalled.take().is_some() {
                this.connection.handle.usage.note_taken();
            }
            if let (Some(frames), Ok(written)) = (this.frames, written) {
                frames.note_written(slices, *written);
                let length = slices.iter().map(|slice| slice.len()).sum::<usize>();
                *this.is_between_frames = *written == length;
            }
            return poll;
        }
        self.poll_stalled(cx).map(Err)
    }

    /// Begins or continues to wait for a peer that takes nothing.
    ///
    /// The socket takes the next bytes once the kernel has sent half of those that wait in it, and a slow
    /// reader needs longer for them than the timeout. So what the peer acknowledges counts, too.
    fn poll_stalled(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Error> {
        let this = self.project();
        let (inner, timeout) = (this.inner.as_ref(), *this.write_timeout);
        let look = || inner.get_ref().tcp().and_then(unacknowledged);
        let interval = limits::STALLED_LOOK.min(timeout);
        let stalled = this.stalled.get_or_insert_with(|| Stalled {
            until: Instant::now() + timeout,
            unacknowledged: look(),
            next_look: Box::pin(sleep(interval)),
        });
        while stalled.next_look.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            let unacknowledged = look();
            if unacknowledged < stalled.unacknowledged {
                this.connection.handle.usage.note_taken();
                stalled.until = now + timeout;
            } else if stalled.until <= now {
                return Poll::Ready(timed_out("the peer takes nothing"));
            }
            stalled.unacknowledged = unacknowledged;
            let next = stalled.until.min(now + interval);
            stalled.next_look.as_mut().reset(next);
        }
        Poll::Pending
    }
}

/// Reads to the end and discards it.
fn poll_to_end(mut stream: Pin<&mut Transport>, cx: &mut Context<'_>) -> Poll<()> {
    let mut bytes = [MaybeUninit::uninit(); 4 * 1_024];
    loop {
        let mut read = ReadBuf::uninit(&mut bytes);
        match ready!(stream.as_mut().poll_read(cx, &mut read)) {
            Ok(()) if !read.filled().is_empty() => {}
            Ok(()) | Err(_) => return Poll::Ready(()),
        }
    }
}

/// A write that waits for a peer.
#[derive(Debug)]
struct Stalled {
    /// The instant at which the peer has taken nothing for too long.
    until: Instant,
    /// What the peer had not acknowledged at the last look, in bytes, if the kernel tells.
    unacknowledged: Option<u64>,
    next_look: Pin<Box<Sleep>>,
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_in_time(cx, &[io::IoSlice::new(bytes)], |socket, cx| {
            socket.poll_write(cx, bytes)
        })
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut this = self.as_mut().project();
        match this.inner.as_mut().poll_flush(cx) {
            Poll::Pending => {
                this.connection.outbound.note_writing(true);
                *this.is_flushing = true;
                self.poll_stalled(cx).map(Err)
            }
            ready @ Poll::Ready(_) => {
                this.connection.outbound.note_flushed();
                if mem::take(this.is_flushing) {
                    this.connection.outbound.note_writing(false);
                    *this.stalled = None;
                    this.connection.handle.usage.note_taken();
                }
                ready
            }
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut this = self.project();
        if this.lingers.is_none() {
            // hyper shuts a connection down once all is written.
            if mem::take(this.ends_with_reset) {
                end_with_reset(this.inner.as_ref().get_ref(), false);
            }
            ready!(this.inner.as_mut().poll_shutdown(cx))?;
        }
        if poll_to_end(this.inner, cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        let timeout = || Box::pin(sleep(limits::CLOSE_TIMEOUT));
        this.lingers
            .get_or_insert_with(timeout)
            .as_mut()
            .poll(cx)
            .map(Ok)
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
        self.poll_in_time(cx, slices, |socket, cx| {
            socket.poll_write_vectored(cx, slices)
        })
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

/// The request for the bytes in the send queue of a TCP socket (tcp(7)). It has this number on the
/// architectures below; on others, there is no figure.
const SIOCOUTQ: Opcode = 0x5411;

/// The bytes that were written to a TCP socket and that its peer has not acknowledged, sent or not.
#[expect(unsafe_code, reason = "rustix has no function for this request")]
pub(crate) fn unacknowledged(socket: impl AsFd) -> Option<u64> {
    let is_known = cfg!(any(
        target_arch = "x86_64",
        target_arch = "aarch64",
        target_arch = "riscv64"
    ));
    if !is_known {
        return None;
    }
    // SAFETY: the request writes an `int`, and changes nothing else.
    let bytes: i32 = unsafe { ioctl(socket, Getter::<SIOCOUTQ, i32>::new()) }.ok()?;
    u64::try_from(bytes).ok()
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::{TcpListener, TcpStream},
    };

    use tokio::io::{AsyncReadExt, AsyncWriteExt, BufWriter, duplex};

    use super::*;
    use crate::{server::capacity::worker_capacity::WorkerCapacity, transport::Io};

    const TIMEOUT: Duration = limits::HEADER_TIMEOUT;

    fn socket(inner: impl Io + 'static) -> Socket {
        let connection = ConnectionState::alone(Arc::new(WorkerCapacity::alone(1)));
        Socket::new(Transport::of(inner), Arc::new(connection), TIMEOUT)
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
        assert!(
            !server.connection.outbound.is_writing(),
            "the buffer has it all"
        );
        let begin = tokio::time::Instant::now();
        let error = server.flush().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(begin.elapsed(), TIMEOUT);
        assert!(server.connection.outbound.is_writing());
    }

    #[tokio::test(start_paused = true)]
    async fn after_the_end_of_output_input_is_read_until_the_client_closes_or_for_a_while() {
        for closes in [true, false] {
            let (mut client, server) = duplex(64);
            let mut server = socket(server);
            let begin = tokio::time::Instant::now();
            let shutdown = tokio::spawn(async move { server.shutdown().await });
            assert_eq!(client.read(&mut [0]).await.unwrap(), 0, "the end");
            client.write_all(&[0; 64 * 4]).await.unwrap();
            if closes {
                client.shutdown().await.unwrap();
            }
            shutdown.await.unwrap().unwrap();
            let expected = if closes {
                Duration::ZERO
            } else {
                limits::CLOSE_TIMEOUT
            };
            assert_eq!(begin.elapsed(), expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_may_wait_once_its_protocol_is_known() {
        assert!(!times_out_after(PREFACE).await);
        assert!(!times_out_after(b"G").await);
        assert!(!times_out_after(b"POST").await);
    }

    #[test]
    fn it_falls_while_the_peer_reads() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut writer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut reader, _) = listener.accept().unwrap();
        writer.set_nonblocking(true).unwrap();
        let mut some = vec![0; 64 * 1_024];
        while writer.write(&some).is_ok() {}
        let before = unacknowledged(&writer);
        assert!(before > Some(0));
        assert_eq!(unacknowledged(&writer), before);
        while unacknowledged(&writer) == before {
            reader.read_exact(&mut some).unwrap();
        }
        assert!(unacknowledged(&writer) < before);
    }
}
