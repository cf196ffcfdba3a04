//! [`Connection`]: one HTTP/2 connection to a replica.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, Weak},
    task::{Context, Poll},
    time::Duration,
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
use tokio_util::io::InspectReader;

use super::{
    call_head::Head,
    signs::{Closed, Counts, Signs},
};
use crate::lock::lock;

/// The time limit of opening a TCP connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Pause between two PINGs while calls are in flight. gRPC's servers close a connection for more
/// than one in 5 minutes, and for any while no call is in flight (gRFC A8).
const PING_INTERVAL: Duration = Duration::from_secs(310);

/// The time limit of a PING's response, as gRPC has it (gRFC A8).
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// A host that acknowledges nothing for this long is gone (`TCP_USER_TIMEOUT`, gRFC A18). On an
/// idle connection the kernel asks for acknowledgements itself, which gRPC's servers do not see.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(20);
const TCP_KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const TCP_KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// Bytes that a response may send before they are read: a replica in the same data centre (1 ms
/// away) sends 128 MB/s through it. Half of it slows a stream over loopback down by a quarter,
/// twice as much gains nothing, and each response that nobody reads holds as much memory.
const STREAM_WINDOW: u32 = 128 * 1_024;

/// The largest window that HTTP/2 has: responses that nobody reads must not stop the others on
/// their connection. What is buffered is bounded by the windows of the streams.
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;

/// Memory for the frames of responses that wait to be read, beside what is in them, in bytes
/// (RUSTSEC-2026-0258). The smallest messages that fill the window of a stream take 6.5 MB, so 40
/// responses that nobody reads at all break no connection, and with it the calls of others.
const DATA_FRAME_BUDGET: usize = 256 * 1_024 * 1_024;

/// An open connection to a replica. It closes when this is dropped and its calls are over.
#[derive(Debug)]
pub(in crate::client) struct Connection {
    pub(super) head: Head,
    sender: Arc<Mutex<SendRequest<Bytes>>>,
    pub(super) signs: Arc<Signs>,
    driver: AbortHandle,
}

impl Connection {
    /// Opens a connection. Whether anybody listens at its other end is not known then.
    pub(in crate::client) async fn open(address: SocketAddr, head: Head) -> io::Result<Self> {
        let socket = timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await??;
        socket.set_nodelay(true)?;
        let options = SockRef::from(&socket);
        options.set_tcp_user_timeout(Some(TCP_USER_TIMEOUT))?;
        let keepalive = TcpKeepalive::new()
            .with_time(TCP_KEEPALIVE_IDLE)
            .with_interval(TCP_KEEPALIVE_INTERVAL);
        options.set_tcp_keepalive(&keepalive)?;
        Self::with_io(socket, head).await
    }

    /// The same over a connection that is open already.
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
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .data_frame_budget(DATA_FRAME_BUDGET)
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
        let end = CloseOnDrop(signs.clone());
        let driver = tokio::spawn(async move {
            // Why it ended does not matter: its calls know.
            select! {
                () = driver => {}
                () = unanswered_ping(pings, &end.0) => {}
            }
        });
        Ok(Self {
            head,
            sender,
            signs,
            driver: driver.abort_handle(),
        })
    }

    /// Waits until no new call can be made: after GOAWAY, an I/O error or [`Self::abort`].
    pub(in crate::client) async fn closed(&self) -> Closed {
        self.signs.closed().await
    }

    pub(in crate::client) fn is_closed(&self) -> bool {
        self.signs.is_closed()
    }

    /// Breaks the connection off, and with it the calls in flight.
    pub(in crate::client) fn abort(&self) {
        self.driver.abort();
        self.signs.close(Closed::Lost);
    }

    pub(in crate::client) fn counts(&self) -> Counts {
        self.signs.counts()
    }

    pub(in crate::client) fn in_flight(&self) -> u64 {
        self.signs.in_flight()
    }

    /// Waits until a call is begun.
    pub(in crate::client) async fn begin(&self) {
        self.signs.begin().await;
    }

    /// Whether the peer takes one more stream now; if not, one more call waits for its turn.
    pub(in crate::client) fn has_free_stream(&self) -> bool {
        usize::try_from(self.in_flight()).is_ok_and(|in_flight| in_flight < self.max_streams())
    }

    /// How many streams the peer takes at once.
    pub(super) fn max_streams(&self) -> usize {
        lock(&self.sender).current_max_send_streams()
    }

    pub(super) fn sender(&self) -> SendRequest<Bytes> {
        lock(&self.sender).clone()
    }
}

/// Reads and writes the connection until its end, and looks out for GOAWAY: h2 refuses new
/// requests from then on, but tells nobody while streams are open.
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

struct CloseOnDrop(Arc<Signs>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close(Closed::Lost);
    }
}

/// Sends PINGs while calls are in flight, until one has no response in time.
async fn unanswered_ping(mut pings: PingPong, signs: &Signs) {
    loop {
        sleep(PING_INTERVAL).await;
        if signs.in_flight() == 0 {
            continue;
        }
        let pong = pings.ping(Ping::opaque());
        if !matches!(timeout(PING_TIMEOUT, pong).await, Ok(Ok(_))) {
            return;
        }
    }
}
