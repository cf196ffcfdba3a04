//! [`handshake`]: opens TLS on the connections of a worker.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    io,
    time::Duration,
};

use axum::response::IntoResponse;
use http::StatusCode;
use http_body_util::BodyExt;
use tokio::{
    io::{AsyncWriteExt, BufReader},
    net::TcpStream,
    sync::oneshot,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tracing::info;

use crate::{
    Context, Deadline, Problem, RequestId, context, limits, metrics,
    rate_limit::RateLimit,
    server::capacity::open::Open,
    tls::{AllowedPeers, Tls},
};

/// The first byte of each TLS connection: a handshake record (RFC 8446, 5.1).
const HANDSHAKE_RECORD: u8 = 22;

/// What a client that speaks no TLS gets.
const SPEAK_TLS: &str = "This port speaks TLS, and the request came without; send it over TLS: an \
    HTTP client with a URL that begins with https, a gRPC client with its certificate.";

/// The certificates of a port, and who may call it.
#[derive(Debug, Clone)]
pub(crate) struct Certificates {
    pub(crate) tls: Tls,
    pub(crate) allowed: Option<AllowedPeers>,
}

/// Opens TLS on a connection, and notes its peer in `open`. Failures are counted and logged, with
/// an id that a client without TLS gets, too.
pub(super) async fn handshake(
    certificates: &Certificates,
    socket: TcpStream,
    open: &Open,
) -> Option<TlsStream<BufReader<TcpStream>>> {
    let deadline = Deadline::after(limits::HANDSHAKE_TIMEOUT);
    let context = Context::new(RequestId::fresh(), deadline);
    context.scope(attempt(certificates, socket, open)).await
}

async fn attempt(
    certificates: &Certificates,
    socket: TcpStream,
    open: &Open,
) -> Option<TlsStream<BufReader<TcpStream>>> {
    let shaken = async {
        let place = Place::take();
        tokio::select! {
            shaken = shake_hands(certificates, socket, open) => shaken,
            () = place.lost() => Err(io::Error::other("too many handshakes at once")),
        }
    };
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, "not complete in time");
    match timeout(limits::HANDSHAKE_TIMEOUT, shaken)
        .await
        .map_err(late)
        .flatten()
    {
        Ok(stream) => {
            metrics::count(|counters| &counters.tls_handshakes);
            Some(stream)
        }
        Err(error) => {
            metrics::count(|counters| &counters.tls_handshake_failures);
            if let Some(untold) = LINES.with(RateLimit::allow) {
                info!(
                    action = "tls",
                    status = "failure",
                    remote_address = %open.address,
                    %error,
                    untold,
                    "a TLS handshake failed"
                );
            }
            None
        }
    }
}

async fn shake_hands(
    Certificates { tls, allowed }: &Certificates,
    mut socket: TcpStream,
    open: &Open,
) -> io::Result<TlsStream<BufReader<TcpStream>>> {
    let mut first = [0];
    let read = socket.peek(&mut first).await?;
    if read == 1 && first[0] != HANDSHAKE_RECORD {
        refuse(&mut socket).await?;
        return Err(io::Error::other("the client speaks no TLS"));
    }
    let generation = tls.current();
    let socket = BufReader::with_capacity(limits::TLS_READ_BUFFER, socket);
    let stream = TlsAcceptor::from(generation.server.clone())
        .accept(socket)
        .await?;
    if let Some(peer) = generation.peer(stream.get_ref().1, allowed.as_ref()) {
        let _ = open.peer.set(peer); // it is not set yet
        // From now on, a change of the authorities reaches the connection.
        if tls.current().trust != generation.trust {
            return Err(io::Error::other("the authorities have changed meanwhile"));
        }
    }
    Ok(stream)
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

/// The time that such a client has to close.
const LINGER: Duration = Duration::from_secs(1);

thread_local! {
    static LINES: RateLimit = RateLimit::per_second(limits::HANDSHAKE_LINES);
    /// The handshakes of this worker, the oldest first. Dropping a sender gives one up.
    static RUNNING: RefCell<BTreeMap<u64, oneshot::Sender<()>>> = const { RefCell::new(BTreeMap::new()) };
    static NEXT: Cell<u64> = const { Cell::new(0) };
}

/// The place of a handshake. At the limit, a new one gets that of the oldest: with places that
/// clients keep until the timeout, a few slow ones would keep the others out.
struct Place {
    number: u64,
    lost: oneshot::Receiver<()>,
}

impl Place {
    fn take() -> Self {
        let number = NEXT.replace(NEXT.get() + 1);
        let (sender, lost) = oneshot::channel();
        RUNNING.with_borrow_mut(|running| {
            if running.len() >= limits::MAX_HANDSHAKES {
                running.pop_first();
            }
            running.insert(number, sender);
        });
        Self { number, lost }
    }

    /// Completes when another handshake has the place.
    async fn lost(mut self) {
        let _ = (&mut self.lost).await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        RUNNING.with_borrow_mut(|running| running.remove(&self.number));
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn at_the_limit_the_oldest_handshake_gives_way() {
        let mut places: Vec<_> = (0..=limits::MAX_HANDSHAKES)
            .map(|_| Place::take())
            .collect();
        let newest = places.pop().expect("there are many");
        let mut lost = places.into_iter().map(|place| place.lost().now_or_never());
        assert!(lost.next().flatten().is_some(), "the oldest");
        assert!(lost.all(|lost| lost.is_none()));
        drop(newest);
        RUNNING.with_borrow(|running| assert!(running.is_empty()));
    }
}
