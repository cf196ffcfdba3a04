//! [`Connector`]: opens the connections of an HTTP client.

use std::{
    io, iter,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use ::http::{Uri, uri::Scheme};
use futures_util::{StreamExt, stream::FuturesUnordered};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpStream, lookup_host},
    select,
    time::{sleep, timeout},
};
use tower::Service;

use crate::limits;

/// The time after which the next address is tried as well (RFC 8305, 8).
const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(250);

/// Connects to the host of an `http` URI over TCP.
///
/// The addresses of the host are tried one after the other: the next one as soon as one has failed,
/// or has not been connected for 250 ms. Each has a second of its own, however many there are; with
/// hyper's connector, they share it.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Connector {}

impl Service<Uri> for Connector {
    type Response = TokioIo<TcpStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TokioIo<TcpStream>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(async move {
            if uri.scheme() != Some(&Scheme::HTTP) {
                return Err(io::Error::other("the URI does not begin with http://"));
            }
            let host = uri.host().unwrap_or_default();
            let host = host.trim_start_matches('[').trim_end_matches(']'); // of an IPv6 address
            let addresses = lookup_host((host, uri.port_u16().unwrap_or(80))).await?;
            let socket = first_connected(addresses.collect(), TcpStream::connect).await?;
            socket.set_nodelay(true)?;
            Ok(TokioIo::new(socket))
        })
    }
}

/// The first of the addresses that is connected.
async fn first_connected<T, F>(
    addresses: Vec<SocketAddr>,
    connect: impl Fn(SocketAddr) -> F,
) -> io::Result<T>
where
    F: Future<Output = io::Result<T>>,
{
    let mut left = alternating(addresses).into_iter();
    let mut attempts = FuturesUnordered::new();
    let mut last_error = io::Error::other("the host has no address");
    loop {
        let next = left.next();
        if next.is_none() && attempts.is_empty() {
            return Err(last_error);
        }
        attempts.extend(next.map(|address| timeout(limits::CONNECT_TIMEOUT, connect(address))));
        select! {
            Some(outcome) = attempts.next() => match outcome {
                Ok(Ok(connected)) => return Ok(connected),
                Ok(Err(error)) => last_error = error,
                Err(elapsed) => last_error = elapsed.into(),
            },
            () = sleep(NEXT_ADDRESS_AFTER), if left.len() > 0 => {}
        }
    }
}

/// Puts the families of the addresses in turns, in the order of the system.
fn alternating(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let is_v4 = addresses.first().is_some_and(SocketAddr::is_ipv4);
    let is_first = |address: &SocketAddr| address.is_ipv4() == is_v4;
    let (first, others): (Vec<_>, Vec<_>) = addresses.into_iter().partition(is_first);
    let mut others = others.into_iter();
    let first = first.into_iter();
    let mut all: Vec<_> = first
        .flat_map(|one| iter::once(one).chain(others.next()))
        .collect();
    all.extend(others);
    all
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::time::Instant;

    use super::*;

    fn v4(number: u16) -> SocketAddr {
        ([127, 0, 0, 1], number).into()
    }

    fn v6(number: u16) -> SocketAddr {
        ([0, 0, 0, 0, 0, 0, 0, 1], number).into()
    }

    /// The address that is connected, and the milliseconds until then. An address is connected after
    /// the milliseconds that are its port; port 1 refuses, and port 2 does not respond.
    async fn connect(addresses: &[SocketAddr]) -> (io::Result<SocketAddr>, u128) {
        let begin = Instant::now();
        let connected = first_connected(addresses.to_vec(), async |address| {
            match address.port() {
                1 => return Err(io::ErrorKind::ConnectionRefused.into()),
                2 => pending().await,
                millis => sleep(Duration::from_millis(millis.into())).await,
            }
            Ok(address)
        });
        let connected = connected.await;
        (connected, begin.elapsed().as_millis())
    }

    #[tokio::test(start_paused = true)]
    async fn each_address_has_its_own_time() {
        let (connected, took) = connect(&[v4(900); 100]).await;
        assert_eq!((connected.unwrap(), took), (v4(900), 900));
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_address_is_tried_at_once_after_a_refusal() {
        let (connected, took) = connect(&[v4(1), v4(1), v4(30)]).await;
        assert_eq!((connected.unwrap(), took), (v4(30), 30));
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_does_not_respond_delays_the_next_by_250_ms() {
        let (connected, took) = connect(&[v6(2), v6(2), v4(30)]).await;
        assert_eq!(
            (connected.unwrap(), took),
            (v4(30), 280),
            "the families take turns"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_error_is_that_of_all() {
        let (error, took) = connect(&[v4(1), v4(2)]).await;
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(took, limits::CONNECT_TIMEOUT.as_millis());
        assert!(connect(&[]).await.0.is_err());
    }
}
