//! How a connection is opened: TCP, TLS, HTTP/2, and a health check.

use std::{future::pending, io, net::SocketAddr, sync::Arc};

use futures_util::{FutureExt, future::join};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::{sleep, timeout},
};
use tokio_util::io::InspectReader;

use super::{
    activity::{Closed, ConnectionActivity},
    connection::Connection,
    origin::Origin,
    pings::Pings,
    room::Room,
    settings,
    watch::watch,
};
use crate::{limits, tls::time_to_drain};

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
        let handshake = settings::builder().handshake(io);
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
