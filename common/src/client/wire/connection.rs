//! [`Connection`]: one HTTP/2 connection to a replica.

use std::{
    future::pending,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, Weak},
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::{FutureExt, future::join};
use h2::client::{self, SendRequest};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::AbortHandle,
    time::{sleep, timeout},
};
use tokio_util::{io::InspectReader, task::AbortOnDropHandle};

use super::{
    activity::{Closed, ConnectionActivity, Doubt},
    headers::RequestHeaders,
    pings::Pings,
    room::Room,
    settings,
    watch::watch,
};
use crate::{limits, lock::lock, tls::time_to_drain};

/// An open connection to a replica. It closes once this is dropped and its calls have ended.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) head: RequestHeaders,
    sender: Arc<Mutex<SendRequest<Bytes>>>,
    pub(crate) signs: Arc<ConnectionActivity>,
    driver: AbortHandle,
    /// Watches the calls, and the trusted authorities.
    _watch: AbortOnDropHandle<()>,
}

impl Connection {
    /// Opens a connection. Whether the other end serves is not known yet.
    pub(crate) async fn open(
        address: SocketAddr,
        head: RequestHeaders,
        room: Arc<Room>,
    ) -> io::Result<Arc<Self>> {
        if let Some(network) = head.network.clone() {
            let io = timeout(limits::CONNECT_TIMEOUT, network.connect(address)).await??;
            return Self::secure(io, head, room).await;
        }
        let socket = timeout(limits::CONNECT_TIMEOUT, TcpStream::connect(address)).await??;
        socket.set_nodelay(true)?;
        let options = SockRef::from(&socket);
        options.set_tcp_user_timeout(Some(limits::TCP_USER_TIMEOUT))?;
        let keepalive = TcpKeepalive::new()
            .with_time(limits::TCP_KEEPALIVE_IDLE)
            .with_interval(limits::TCP_KEEPALIVE_INTERVAL);
        options.set_tcp_keepalive(&keepalive)?;
        Self::secure(socket, head, room).await
    }

    /// Starts HTTP/2, over TLS if the head has it.
    async fn secure(
        socket: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        head: RequestHeaders,
        room: Arc<Room>,
    ) -> io::Result<Arc<Self>> {
        let Some(tls) = head.tls.clone() else {
            return Self::with_io(socket, head, room).await;
        };
        let generation = tls.current();
        let host = head.authority.host();
        let socket = timeout(limits::HANDSHAKE_TIMEOUT, generation.connect(socket, host)).await??;
        let trust = generation.trust;
        let outdated = async move {
            tls.outdates(trust).await;
            sleep(time_to_drain()).await;
        };
        Self::start(socket, head, room, outdated).await
    }

    /// Starts HTTP/2 on a connection that is open already.
    pub(crate) async fn with_io(
        io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        head: RequestHeaders,
        room: Arc<Room>,
    ) -> io::Result<Arc<Self>> {
        Self::start(io, head, room, pending()).await
    }

    /// Starts HTTP/2. The connection takes no new calls once it is `outdated`.
    async fn start(
        io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        head: RequestHeaders,
        room: Arc<Room>,
        outdated: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<Arc<Self>> {
        let signs = Arc::new(ConnectionActivity::new(room));
        let io = {
            let signs = signs.clone();
            InspectReader::new(io, move |bytes: &[u8]| signs.note_read(bytes))
        };
        let handshake = settings::builder().handshake(io);
        let (sender, mut connection) = handshake.await.map_err(io::Error::other)?;
        let pings = Pings::new(connection.ping_pong().expect("first call of `ping_pong`"));
        let sender = Arc::new(Mutex::new(sender));
        let driver = tokio::spawn(Driver {
            connection,
            sender: Arc::downgrade(&sender),
            signs: signs.clone(),
            reads: 0,
        });
        Ok(Arc::new_cyclic(|connection| {
            let outdating = {
                let signs = signs.clone();
                async move {
                    outdated.await;
                    signs.close(Closed::Outdated);
                }
            };
            let watch = watch(connection.clone(), signs.clone(), pings);
            let watch = tokio::spawn(join(watch, outdating).map(drop));
            Self {
                head,
                sender,
                signs,
                driver: driver.abort_handle(),
                _watch: AbortOnDropHandle::new(watch),
            }
        }))
    }

    /// Closes the connection to new calls, as another one has taken its place.
    pub(crate) fn replace(&self) {
        self.signs.close(Closed::Replaced);
    }

    /// Breaks off the connection, as it is silent, and the calls in flight.
    pub(crate) fn break_off(&self) {
        self.signs.close(Closed::Silent);
        self.driver.abort();
    }

    /// Whether the connection and all its calls have ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.driver.is_finished()
    }

    /// Whether the peer takes one more stream now. If not, the next call has to wait.
    pub(crate) fn has_free_stream(&self) -> bool {
        self.signs.in_flight() < self.max_streams()
    }

    /// The most streams that the peer takes at once.
    pub(crate) fn max_streams(&self) -> u64 {
        lock(&self.sender).current_max_send_streams() as u64
    }

    pub(crate) fn sender(&self) -> SendRequest<Bytes> {
        lock(&self.sender).clone()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // The connections to a replica share their doubts.
        self.signs.set_doubt(Doubt::None);
    }
}

/// Drives the connection until its end, and notices a GOAWAY. From then on h2 refuses new
/// requests, but the connection's future goes on while streams are open.
struct Driver<T> {
    connection: client::Connection<T, Bytes>,
    sender: Weak<Mutex<SendRequest<Bytes>>>,
    signs: Arc<ConnectionActivity>,
    reads: u64,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Future for Driver<T> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let end = Pin::new(&mut self.connection).poll(cx);
        let reads = self.signs.counts().reads;
        if reads != self.reads {
            self.reads = reads;
            if let Some(sender) = self.sender.upgrade() {
                let mut sender = lock(&sender);
                if let Poll::Ready(Err(error)) = sender.poll_ready(cx) {
                    let is_going_away = error.is_go_away() && error.is_remote();
                    self.signs.close(if is_going_away {
                        Closed::GoingAway
                    } else {
                        Closed::Lost
                    });
                }
                // The peer may have raised its limit.
                if self.signs.room().is_waited_for()
                    && self.signs.in_flight() < sender.current_max_send_streams() as u64
                {
                    self.signs.room().wake_one();
                }
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
