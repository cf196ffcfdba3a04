//! [`Connection`]: one HTTP/2 connection to a replica, from how it is opened (TCP, TLS, HTTP/2 and a health
//! check) to its end; and its [`Pings`].

use std::{
    future::pending,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, Weak},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use futures_util::{FutureExt, future::join};
use h2::{
    Ping, PingPong,
    client::{self, Builder, SendRequest},
};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::AbortHandle,
    time::{Instant, sleep, timeout},
};
use tokio_util::{io::InspectReader, task::AbortOnDropHandle};

use super::{
    activity::{Closed, ConnectionActivity, Room, Suspicion},
    attempt::Origin,
    watch::watch,
};
use crate::{limits, sync::lock, tls::time_to_drain};

/// An open connection to a replica. It closes once this is dropped and its calls have ended.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) origin: Origin,
    sender: Arc<Mutex<SendRequest<Bytes>>>,
    pub(crate) activity: Arc<ConnectionActivity>,
    driver: AbortHandle,
    /// Watches the calls, and the trusted authorities.
    _watch: AbortOnDropHandle<()>,
}

impl Connection {
    /// Drives a connection from now on, beside the watch over its calls.
    pub(super) fn drive<W: Future<Output = ()> + Send + 'static>(
        connection: client::Connection<impl AsyncRead + AsyncWrite + Send + Unpin + 'static, Bytes>,
        sender: SendRequest<Bytes>,
        origin: Origin,
        activity: Arc<ConnectionActivity>,
        watch: impl FnOnce(Weak<Self>) -> W,
    ) -> Arc<Self> {
        let sender = Arc::new(Mutex::new(sender));
        let driver = tokio::spawn(Driver {
            connection,
            sender: Arc::downgrade(&sender),
            activity: activity.clone(),
            reads: 0,
        });
        Arc::new_cyclic(|connection| Self {
            origin,
            sender,
            activity,
            driver: driver.abort_handle(),
            _watch: AbortOnDropHandle::new(tokio::spawn(watch(connection.clone()))),
        })
    }

    /// Closes the connection to new calls, as another one has taken its place.
    pub(crate) fn replace(&self) {
        self.activity.close(Closed::Replaced);
    }

    /// Breaks off the connection, as it is silent, and the calls in flight.
    pub(crate) fn break_off(&self) {
        self.activity.close(Closed::Silent);
        self.driver.abort();
    }

    /// Whether the connection and all its calls have ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.driver.is_finished()
    }

    /// Whether the peer takes one more stream now. If not, the next call has to wait.
    pub(crate) fn has_free_stream(&self) -> bool {
        self.activity.in_flight() < self.max_streams()
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
        // Their room counts the silent connections to a replica.
        self.activity.set_suspicion(Suspicion::None);
    }
}

/// Drives the connection until its end, and notices a GOAWAY. From then on h2 refuses new
/// requests, but the connection's future goes on while streams are open.
struct Driver<T> {
    connection: client::Connection<T, Bytes>,
    sender: Weak<Mutex<SendRequest<Bytes>>>,
    activity: Arc<ConnectionActivity>,
    reads: u64,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Future for Driver<T> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let end = Pin::new(&mut self.connection).poll(cx);
        let reads = self.activity.counts().reads;
        if reads != self.reads {
            self.reads = reads;
            if let Some(sender) = self.sender.upgrade() {
                let mut sender = lock(&sender);
                if let Poll::Ready(Err(error)) = sender.poll_ready(cx) {
                    let is_going_away = error.is_go_away() && error.is_remote();
                    self.activity.close(if is_going_away {
                        Closed::GoingAway
                    } else {
                        Closed::Lost
                    });
                }
                // The peer may have raised its limit.
                if self.activity.room().is_waited_for()
                    && self.activity.in_flight() < sender.current_max_send_streams() as u64
                {
                    self.activity.room().wake_one();
                }
            }
        }
        end.map(drop)
    }
}

impl<T> Drop for Driver<T> {
    fn drop(&mut self) {
        self.activity.close(Closed::Lost);
    }
}

impl Connection {
    /// Opens a connection to a replica that serves. Calls that wait in `room` may take its streams.
    pub(crate) async fn open_and_check(
        address: SocketAddr,
        origin: Origin,
        room: Arc<Room>,
    ) -> io::Result<Arc<Self>> {
        let connection = Self::open(address, origin, room).await?;
        match connection.serves().await {
            Ok(()) => Ok(connection),
            Err(why) => {
                connection.break_off();
                Err(io::Error::other(why))
            }
        }
    }

    /// Opens a connection. Whether the other end serves is not known yet.
    pub(crate) async fn open(
        address: SocketAddr,
        origin: Origin,
        room: Arc<Room>,
    ) -> io::Result<Arc<Self>> {
        if let Some(network) = origin.network.clone() {
            let io = timeout(limits::CONNECT_TIMEOUT, network.connect(address)).await??;
            return Self::secure(io, origin, room).await;
        }
        let socket = timeout(limits::CONNECT_TIMEOUT, TcpStream::connect(address)).await??;
        socket.set_nodelay(true)?;
        let options = SockRef::from(&socket);
        options.set_tcp_user_timeout(Some(limits::TCP_USER_TIMEOUT))?;
        let keepalive = TcpKeepalive::new()
            .with_time(limits::TCP_KEEPALIVE_IDLE)
            .with_interval(limits::TCP_KEEPALIVE_INTERVAL);
        options.set_tcp_keepalive(&keepalive)?;
        Self::secure(socket, origin, room).await
    }

    /// Starts HTTP/2, over TLS if the origin has it.
    async fn secure(
        socket: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        origin: Origin,
        room: Arc<Room>,
    ) -> io::Result<Arc<Self>> {
        let Some(tls) = origin.tls.clone() else {
            return Self::with_io(socket, origin, room).await;
        };
        let generation = tls.current();
        let host = origin.authority.host();
        let socket = timeout(limits::HANDSHAKE_TIMEOUT, generation.connect(socket, host)).await??;
        let trust = generation.trust;
        let outdated = async move {
            tls.outdates(trust).await;
            sleep(time_to_drain()).await;
        };
        Self::start(socket, origin, room, outdated).await
    }

    /// Starts HTTP/2 on a connection that is open already.
    pub(crate) async fn with_io(
        io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        origin: Origin,
        room: Arc<Room>,
    ) -> io::Result<Arc<Self>> {
        Self::start(io, origin, room, pending()).await
    }

    /// Starts HTTP/2. The connection takes no new calls once it is `outdated`.
    async fn start(
        io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        origin: Origin,
        room: Arc<Room>,
        outdated: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<Arc<Self>> {
        let activity = Arc::new(ConnectionActivity::new(room));
        let io = {
            let activity = activity.clone();
            InspectReader::new(io, move |bytes: &[u8]| activity.note_read(bytes))
        };
        let handshake = builder().handshake(io);
        let (sender, mut connection) = handshake.await.map_err(io::Error::other)?;
        let pings = Pings::new(connection.ping_pong().expect("first call of `ping_pong`"));
        let outdating = {
            let activity = activity.clone();
            async move {
                outdated.await;
                activity.close(Closed::Outdated);
            }
        };
        let watched = activity.clone();
        let watch = |weak| join(watch(weak, watched, pings), outdating).map(drop);
        Ok(Self::drive(connection, sender, origin, activity, watch))
    }
}

/// The settings of h2's client, each with its reason. h2's defaults are those of a browser, whose
/// peers are not trusted and whose connections are short; a replica is trusted, and its connection
/// carries the calls of thousands of clients for days.
///
/// | setting | value | reason |
/// |---|---|---|
/// | `initial_window_size` | [`RESPONSE_WINDOW`](limits::RESPONSE_WINDOW) | the speed of one stream, and the memory of a response that nobody reads |
/// | `initial_connection_window_size` | [`CONNECTION_WINDOW`](limits::CONNECTION_WINDOW) | a response that nobody reads stops no other one |
/// | `data_frame_budget` | [`DATA_FRAME_BUDGET`](limits::DATA_FRAME_BUDGET) | small messages that nobody reads end no connection; half of the window would be 1 GB |
/// | `max_header_list_size` | [`RESPONSE_HEAD`](limits::RESPONSE_HEAD), in place of 16 MB | memory. h2 fails a call with a longer response head by a *local* `PROTOCOL_ERROR` (proto/streams/streams.rs:580), cuts longer trailers without a word (proto/streams/recv.rs:430), and ends the connection at four times as much (frame/headers.rs:877) |
/// | `max_local_error_reset_streams` | none, in place of 1,024 | counts over the life of the connection (proto/streams/counts.rs:167), and late frames of calls that were given up count: impatient clients would end the calls of all others |
/// | `max_concurrent_reset_streams` | [`REMEMBERED_RESETS`](limits::REMEMBERED_RESETS), in place of 50 | h2 ignores late frames of the calls that it remembers, and answers those of others with a reset each (proto/streams/streams.rs:500, 630) |
/// | `reset_stream_duration` | 1 s, the default | late frames come within a round trip of the reset. Later ones, of a replica that stood still, cost a reset each and nothing else |
/// | `initial_max_send_streams` | no limit, the default | no call leaves before the reply to the first health check, which follows the replica's own settings |
/// | `max_send_buffer_size` | [`SEND_BUFFER`](limits::SEND_BUFFER), in place of 400 KB | the memory of an upload to a slow replica, as of a download to a slow client |
/// | `enable_push` | off | nobody reads what is pushed |
/// | `max_concurrent_streams`, `max_pending_accept_reset_streams` | the defaults | they bound pushed streams |
/// | `max_frame_size` | 16 KiB, the default | longer frames keep the other streams waiting |
/// | `header_table_size` | 4 KiB, the default | holds the names that repeat |
///
/// h2 has one more limit without a setting: 100 DATA frames without data in the life of a connection
/// (`MAX_RECV_EMPTY_DATA_FRAMES`, proto/mod.rs:40). The calls on the connection fail then.
pub(crate) fn builder() -> Builder {
    let mut builder = Builder::new();
    builder
        .initial_window_size(limits::RESPONSE_WINDOW)
        .initial_connection_window_size(limits::CONNECTION_WINDOW)
        .data_frame_budget(limits::DATA_FRAME_BUDGET)
        .max_header_list_size(limits::RESPONSE_HEAD)
        .max_local_error_reset_streams(None)
        .max_concurrent_reset_streams(limits::REMEMBERED_RESETS)
        .max_send_buffer_size(limits::SEND_BUFFER)
        .enable_push(false);
    builder
}

/// Sends PINGs. Their acknowledgements count as reads, as all bytes do.
///
/// gRPC's servers close a connection for the third PING that follows another one within five
/// minutes, and forget the PINGs whenever they send HEADERS or DATA (gRFC A8). An acknowledgement is
/// neither.
#[derive(Debug)]
pub(crate) struct Pings {
    ping_pong: PingPong,
    last: Option<Instant>,
}

impl Pings {
    pub(crate) fn new(ping_pong: PingPong) -> Self {
        Self {
            ping_pong,
            last: None,
        }
    }

    /// Sends a PING, unless a server could count it as one too many. Returns whether it was sent.
    pub(crate) fn send(&mut self, activity: &ConnectionActivity) -> bool {
        let is_long_ago = |last: Instant| last.elapsed() >= limits::PING_INTERVAL;
        // Taken in any case: the server forgets its count with these frames.
        let has_answered = activity.take_answered();
        let may_send = has_answered || self.last.is_none_or(is_long_ago);
        if may_send {
            // h2 sends no PING before the last acknowledgement was taken (share.rs:556,
            // proto/ping_pong.rs:199).
            let mut nobody = Context::from_waker(Waker::noop());
            let _ = self.ping_pong.poll_pong(&mut nobody);
            // Fails if the last PING is still on its way, or the connection has ended.
            let _ = self.ping_pong.send_ping(Ping::opaque());
            self.last = Some(Instant::now());
        }
        may_send
    }
}
