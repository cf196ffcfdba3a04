//! [`Connection`]: one HTTP/2 connection to a replica.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, Weak},
    task::{Context, Poll},
};

use bytes::Bytes;
use h2::{
    Ping, PingPong,
    client::{self, SendRequest},
};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    select,
    task::AbortHandle,
    time::{sleep, timeout},
};
use tokio_util::{io::InspectReader, task::AbortOnDropHandle};

use super::{
    call_head::Head,
    signs::{Closed, Signs},
};
use crate::{limits, lock::lock, tls::time_to_drain};

/// An open connection to a replica. It closes once this is dropped and its calls have ended.
#[derive(Debug)]
pub(in crate::client) struct Connection {
    pub(super) head: Head,
    sender: Arc<Mutex<SendRequest<Bytes>>>,
    pub(in crate::client) signs: Arc<Signs>,
    driver: AbortHandle,
    /// Watches the trusted authorities.
    _outdating: Option<AbortOnDropHandle<()>>,
}

impl Connection {
    /// Opens a connection. Whether the other end serves is not known yet.
    pub(in crate::client) async fn open(address: SocketAddr, head: Head) -> io::Result<Self> {
        let socket = timeout(limits::CONNECT_TIMEOUT, TcpStream::connect(address)).await??;
        socket.set_nodelay(true)?;
        let options = SockRef::from(&socket);
        options.set_tcp_user_timeout(Some(limits::TCP_USER_TIMEOUT))?;
        let keepalive = TcpKeepalive::new()
            .with_time(limits::TCP_KEEPALIVE_IDLE)
            .with_interval(limits::TCP_KEEPALIVE_INTERVAL);
        options.set_tcp_keepalive(&keepalive)?;
        let Some(tls) = head.tls.clone() else {
            return Self::with_io(socket, head).await;
        };
        let generation = tls.current();
        let host = head.authority.host();
        let socket = timeout(limits::HANDSHAKE_TIMEOUT, generation.connect(socket, host)).await??;
        let connection = Self::with_io(socket, head).await?;
        let (signs, trust) = (connection.signs.clone(), generation.trust);
        let outdating = tokio::spawn(async move {
            tls.outdates(trust).await;
            sleep(time_to_drain()).await;
            signs.close(Closed::Outdated);
        });
        Ok(Self {
            _outdating: Some(AbortOnDropHandle::new(outdating)),
            ..connection
        })
    }

    /// Starts HTTP/2 on a connection that is open already.
    pub(in crate::client) async fn with_io(
        io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        head: Head,
    ) -> io::Result<Self> {
        let signs = Arc::new(Signs::default());
        let io = {
            let signs = signs.clone();
            InspectReader::new(io, move |bytes: &[u8]| signs.note_read(bytes))
        };
        let (sender, mut connection) = client::Builder::new()
            .enable_push(false)
            .initial_window_size(limits::RESPONSE_WINDOW)
            .initial_connection_window_size(limits::CONNECTION_WINDOW)
            .data_frame_budget(limits::DATA_FRAME_BUDGET)
            .handshake(io)
            .await
            .map_err(io::Error::other)?;
        let pings = connection.ping_pong().expect("asked for once");
        let sender = Arc::new(Mutex::new(sender));
        let driver = Driver {
            connection,
            sender: Arc::downgrade(&sender),
            signs: signs.clone(),
            reads: 0,
        };
        let pinger = ping_until_silent(pings, signs.clone());
        let driver = tokio::spawn(async move {
            // The reason for the end does not matter here: each call gets it.
            select! {
                () = driver => {}
                () = pinger => {}
            }
        });
        Ok(Self {
            head,
            sender,
            signs,
            driver: driver.abort_handle(),
            _outdating: None,
        })
    }

    /// Breaks off the connection and the calls in flight.
    pub(in crate::client) fn abort(&self) {
        self.driver.abort();
        self.signs.close(Closed::Lost);
    }

    /// Whether the peer takes one more stream now. If not, the next call has to wait.
    pub(in crate::client) fn has_free_stream(&self) -> bool {
        self.signs.in_flight() < self.max_streams()
    }

    /// The most streams that the peer takes at once.
    pub(super) fn max_streams(&self) -> u64 {
        self.sender().current_max_send_streams() as u64
    }

    pub(in crate::client) fn sender(&self) -> SendRequest<Bytes> {
        lock(&self.sender).clone()
    }
}

/// Drives the connection until its end, and notices a GOAWAY. From then on h2 refuses new
/// requests, but the connection's future goes on while streams are open.
struct Driver<T> {
    connection: client::Connection<T, Bytes>,
    sender: Weak<Mutex<SendRequest<Bytes>>>,
    signs: Arc<Signs>,
    reads: u64,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Future for Driver<T> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let end = Pin::new(&mut self.connection).poll(cx);
        let reads = self.signs.counts().reads;
        if reads != self.reads {
            self.reads = reads;
            if let Some(sender) = self.sender.upgrade()
                && let Poll::Ready(Err(error)) = lock(&sender).poll_ready(cx)
            {
                let is_going_away = error.is_go_away() && error.is_remote();
                self.signs.close(if is_going_away {
                    Closed::GoingAway
                } else {
                    Closed::Lost
                });
            }
        }
        end.map(drop)
    }
}

impl<T> Drop for Driver<T> {
    fn drop(&mut self) {
        self.signs.close(Closed::Lost);
    }
}

/// Sends PINGs while calls are in flight, until one gets no response in time.
async fn ping_until_silent(mut pings: PingPong, signs: Arc<Signs>) {
    loop {
        sleep(limits::PING_INTERVAL).await;
        if signs.in_flight() == 0 {
            continue;
        }
        let pong = pings.ping(Ping::opaque());
        if !matches!(timeout(limits::PING_TIMEOUT, pong).await, Ok(Ok(_))) {
            return;
        }
    }
}
