//! [`Transport`]: the bytes below HTTP.

use std::{
    any::Any,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, BufReader, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::TlsStream;

/// Bytes in both directions. All types that can be are one.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// What a connection reads from and writes to. It is one type, because the compiler makes HTTP/1, HTTP/2
/// and TLS anew for each type that they read from.
pub(crate) enum Transport {
    Tcp(TcpStream),
    Tls(Box<TlsStream<BufReader<Self>>>),
    Other(Box<dyn Io>),
}

impl Transport {
    pub(crate) fn of(io: impl Io + 'static) -> Self {
        let mut io = Some(io);
        let any: &mut dyn Any = &mut io;
        if let Some(tcp) = any.downcast_mut().and_then(Option::take) {
            return Self::Tcp(tcp);
        }
        Self::Other(Box::new(io.expect("it was not taken")))
    }

    pub(crate) fn tls(stream: TlsStream<BufReader<Self>>) -> Self {
        Self::Tls(Box::new(stream))
    }

    /// The TCP connection, if there is one, also below TLS.
    pub(crate) fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Tcp(stream) => Some(stream),
            Self::Tls(stream) => stream.get_ref().0.get_ref().tcp(),
            Self::Other(_) => None,
        }
    }
}

/// Calls a method of the stream within.
macro_rules! within {
    ($transport:expr, $stream:ident => $call:expr) => {
        match $transport.get_mut() {
            Transport::Tcp(stream) => {
                let $stream = Pin::new(stream);
                $call
            }
            Transport::Tls(stream) => {
                let $stream = Pin::new(stream);
                $call
            }
            Transport::Other(stream) => {
                let $stream = Pin::new(stream);
                $call
            }
        }
    };
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        within!(self, stream => stream.poll_read(cx, buffer))
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        within!(self, stream => stream.poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        within!(self, stream => stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        within!(self, stream => stream.poll_shutdown(cx))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        within!(self, stream => stream.poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
            Self::Other(stream) => stream.is_write_vectored(),
        }
    }
}
