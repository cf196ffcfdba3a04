//! [`handshake`]: opens TLS on the connections of a worker.

use std::{future::poll_fn, io, task::Poll, time::Duration};

use axum::response::IntoResponse;
use http::StatusCode;
use http_body_util::BodyExt;
use rustix::net::RecvFlags;
use tokio::{
    io::{AsyncWriteExt, BufReader},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsStream};
use tracing::info;

use super::handshake_permits::{HandshakePermit, Stage};
use crate::{
    limits,
    problem::Problem,
    rate_limit::RateLimit,
    request::{
        context::{self, Context, Deadline},
        id::RequestId,
    },
    server::capacity::handle::{Close, ConnectionHandle},
    telemetry::metrics,
    tls::{AllowedPeers, Peer, Tls},
    transport::Transport,
};

/// The first byte of each TLS connection: a handshake record (RFC 8446, 5.1).
const HANDSHAKE_RECORD: u8 = 22;

/// What a client that speaks no TLS gets.
const SPEAK_TLS: &str = "This port speaks TLS, and the request came without; send it over TLS: an \
    HTTP client with a URL that begins with https, a gRPC client with its certificate.";

/// A connection with TLS, and the peer that mutual TLS has shown.
type Shaken = (Transport, Option<Peer>);

/// The certificates of a port, and who may call it.
#[derive(Debug, Clone)]
pub(crate) struct Certificates {
    pub(crate) tls: Tls,
    pub(crate) allowed: Option<AllowedPeers>,
}

/// Opens TLS on a connection. Returns it with the peer that mutual TLS has shown. Failures are counted and
/// logged, with an id that a client without TLS gets, too.
pub(crate) async fn handshake(
    certificates: &Certificates,
    socket: TcpStream,
    handle: &ConnectionHandle,
) -> Option<Shaken> {
    let deadline = Deadline::after(limits::HANDSHAKE_TIMEOUT);
    let context = Context::new(RequestId::fresh(), deadline);
    context.scope(attempt(certificates, socket, handle)).await
}

async fn attempt(
    certificates: &Certificates,
    socket: TcpStream,
    handle: &ConnectionHandle,
) -> Option<Shaken> {
    let shaken = async {
        tokio::select! {
            shaken = with_permits(certificates, socket, handle) => shaken,
            () = makes_room(handle) => Err(io::Error::other("another connection needs the permit")),
        }
    };
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, "not complete in time");
    match timeout(limits::HANDSHAKE_TIMEOUT, shaken)
        .await
        .map_err(late)
        .flatten()
    {
        Ok(Some(shaken)) => {
            metrics::count(|counters| &counters.tls_handshakes);
            Some(shaken)
        }
        Ok(None) => None,
        Err(error) => {
            metrics::count(|counters| &counters.tls_handshake_failures);
            if let Some(untold) = LINES.with(RateLimit::allow) {
                info!(
                    action = "tls",
                    status = "failure",
                    remote_address = %handle.address,
                    %error,
                    untold,
                    "a TLS handshake failed"
                );
            }
            None
        }
    }
}

/// Completes when the connection must make room for another one.
async fn makes_room(handle: &ConnectionHandle) {
    poll_fn(|cx| {
        handle.wake_to_close(cx.waker());
        if handle.told_to_close() == Some(Close::MakeRoom) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
}

/// Shakes hands with a permit for each stage. Without one, none of the costly part is done. Returns `None` if
/// the client closes before it has sent a byte, as the TCP check of a load balancer does.
async fn with_permits(
    certificates: &Certificates,
    socket: TcpStream,
    handle: &ConnectionHandle,
) -> io::Result<Option<Shaken>> {
    let first = if let Some(first) = first_byte_by_now(&socket) {
        first
    } else {
        let silent = HandshakePermit::take(Stage::Silent, handle.network)?;
        let first = silent.run(async { Ok(first_byte(&socket).await) }).await?;
        let Some(first) = first else {
            return Ok(None);
        };
        first
    };
    let begun = HandshakePermit::take(Stage::Begun, handle.network)?;
    let shaken = begun.run(shake_hands(certificates, socket, first, handle));
    shaken.await.map(Some)
}

/// The first byte, if it has come.
fn first_byte_by_now(socket: &TcpStream) -> Option<u8> {
    let mut first = [0];
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    let (_, read) = rustix::net::recv(socket, &mut first, flags).ok()?;
    (read == 1).then_some(first[0])
}

/// The first byte, unless the connection ends or is reset before it.
async fn first_byte(socket: &TcpStream) -> Option<u8> {
    let mut first = [0];
    let read = socket.peek(&mut first).await.ok()?;
    (read == 1).then_some(first[0])
}

async fn shake_hands(
    Certificates { tls, allowed }: &Certificates,
    mut socket: TcpStream,
    first: u8,
    handle: &ConnectionHandle,
) -> io::Result<Shaken> {
    if first != HANDSHAKE_RECORD {
        refuse(&mut socket).await?;
        return Err(io::Error::other("the client speaks no TLS"));
    }
    let generation = tls.current();
    let socket = Transport::Tcp(socket);
    let socket = BufReader::with_capacity(limits::TLS_READ_BUFFER, socket);
    let stream = TlsAcceptor::from(generation.server.clone())
        .accept(socket)
        .await?;
    let peer = generation.peer(stream.get_ref().1, allowed.as_ref());
    if let Some(peer) = &peer {
        let _ = handle.trust.set(peer.trust); // it is not set yet
        // From now on, a change of the authorities reaches the connection.
        if tls.current().trust != generation.trust {
            return Err(io::Error::other("the authorities have changed meanwhile"));
        }
    }
    Ok((Transport::tls(TlsStream::Server(stream)), peer))
}

/// Tells a client that speaks no TLS, and reads what it sends until it closes.
async fn refuse(socket: &mut TcpStream) -> io::Result<()> {
    let response = Problem::new(StatusCode::BAD_REQUEST, SPEAK_TLS).into_response();
    let body = response.into_body().collect().await;
    let body = body.map_err(io::Error::other)?.to_bytes();
    let head = context::with_request_id(|id| {
        format!(
            "HTTP/1.1 400 Bad Request\r\ncontent-type: application/problem+json\r\n\
             x-request-id: {id}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            body.len()
        )
    });
    socket.write_all(&[head.as_bytes(), &body].concat()).await?;
    socket.shutdown().await?;
    // With something unread, closing would reset the connection and destroy the response.
    let mut sink = tokio::io::sink();
    let _ = timeout(LINGER, tokio::io::copy(socket, &mut sink)).await;
    Ok(())
}

/// The time that a client without TLS has to close.
const LINGER: Duration = Duration::from_secs(1);

thread_local! {
    /// The lines of this worker alone, so that workers share nothing.
    static LINES: RateLimit = RateLimit::per_second(limits::HANDSHAKE_LINES);
}
