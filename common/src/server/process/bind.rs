//! [`bind`]: opens the socket of a port.

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener},
};

use socket2::{Domain, Socket, Type};
use tracing::info;

use super::error::Error;
use crate::limits;

/// Listens on a port. Connections wait until they are accepted. `protocol` is for the log.
pub(crate) fn bind(
    host: IpAddr,
    port: u16,
    protocol: &str,
) -> Result<(TcpListener, SocketAddr), Error> {
    let address = SocketAddr::new(host, port);
    let listen = || {
        let socket = listen(address)?;
        let address = socket.local_addr()?;
        Ok((socket, address))
    };
    let (socket, address) = listen().map_err(|source| Error::Listen { address, source })?;
    info!(
        action = "listen",
        status = "success",
        protocol,
        %address,
        "listening"
    );
    Ok((socket, address))
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // Connections that the predecessor of the service has left must not block the port.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(limits::BACKLOG)?;
    Ok(socket.into())
}
