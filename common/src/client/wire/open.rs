//! How a connection is opened: TCP, TLS, HTTP/2 with its settings, and a health check.

use std::{io, net::SocketAddr, sync::Arc};

use futures_util::{FutureExt, future::join};
use h2::client::Builder;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};
use tokio_util::io::InspectReader;

use super::{
    activity::{Closed, ConnectionActivity, Room},
    connection::{Connection, Questions},
    origin::Origin,
    settings::SettingsQuestion,
    watch::watch,
};
use crate::{
    limits,
    tls::{ClientTls, Tls, TrustVersion, time_to_drain},
    transport::{Io, Transport},
};

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
            return Self::secure(Transport::Other(io), origin, room).await;
        }
        let socket = timeout(limits::CONNECT_TIMEOUT, TcpStream::connect(address)).await??;
        socket.set_nodelay(true)?;
        let options = SockRef::from(&socket);
        options.set_tcp_user_timeout(Some(limits::TCP_USER_TIMEOUT))?;
        let keepalive = TcpKeepalive::new()
            .with_time(limits::TCP_KEEPALIVE_IDLE)
            .with_interval(limits::TCP_KEEPALIVE_INTERVAL);
        options.set_tcp_keepalive(&keepalive)?;
        Self::secure(Transport::Tcp(socket), origin, room).await
    }

    /// Starts HTTP/2, over TLS if the origin has it.
    async fn secure(socket: Transport, origin: Origin, room: Arc<Room>) -> io::Result<Arc<Self>> {
        let Some(ClientTls { tls, expected }) = origin.tls.clone() else {
            return Self::start(socket, origin, room, None).await;
        };
        let generation = tls.current();
        let host = origin.authority.host();
        let connecting = generation.connect(socket, host, expected.as_ref());
        let socket = timeout(limits::HANDSHAKE_TIMEOUT, connecting).await??;
        let trust = Some((tls, generation.trust));
        Self::start(socket, origin, room, trust).await
    }

    /// Starts HTTP/2 on a connection that is open already.
    pub(crate) async fn with_io(
        io: impl Io + 'static,
        origin: Origin,
        room: Arc<Room>,
    ) -> io::Result<Arc<Self>> {
        Self::start(Transport::of(io), origin, room, None).await
    }

    /// Starts HTTP/2. The connection takes no new calls once the `trust` that TLS began with is outdated.
    async fn start(
        io: Transport,
        origin: Origin,
        room: Arc<Room>,
        trust: Option<(Tls, TrustVersion)>,
    ) -> io::Result<Arc<Self>> {
        let activity = Arc::new(ConnectionActivity::new(room));
        let io = {
            let activity = activity.clone();
            InspectReader::new(io, move |bytes: &[u8]| activity.note_read(bytes))
        };
        let handshake = builder().handshake(io);
        let (sender, mut connection) = handshake.await.map_err(io::Error::other)?;
        let ping_pong = connection.ping_pong().expect("first call of `ping_pong`");
        let settings = Arc::new(SettingsQuestion::default());
        let questions = Questions::new(ping_pong, settings.clone());
        let outdating = {
            let activity = activity.clone();
            async move {
                let Some((tls, trust)) = trust else {
                    return;
                };
                tls.outdates(trust).await;
                sleep(time_to_drain()).await;
                activity.close(Closed::Outdated);
            }
        };
        let watched = activity.clone();
        let watch = |weak| join(watch(weak, watched, questions), outdating).map(drop);
        Ok(Self::drive(
            connection, sender, origin, activity, settings, watch,
        ))
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
