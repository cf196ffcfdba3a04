//! [`Network`]: how a channel reaches its replicas, where that is not TCP.

use std::{fmt, future::Future, io, net::SocketAddr, pin::Pin};

use crate::transport::Io;

/// Looks up the names of a service and connects to its replicas, in place of the resolver and the
/// sockets of the system. It is for tests, such as simulations of a network, and for transports that
/// look like connections. TLS, if a channel has it, goes on top.
///
/// A look-up or a connection that takes too long is dropped.
///
/// ```
/// use std::{io, net::SocketAddr, sync::Arc};
///
/// use common::client::{BoxConnection, BoxFuture, Config, Network};
///
/// /// One replica, in this process.
/// #[derive(Debug)]
/// struct InMemory;
///
/// impl Network for InMemory {
///     fn look_up<'a>(&'a self, _host: &'a str, port: u16) -> BoxFuture<'a, Vec<SocketAddr>> {
///         Box::pin(async move { Ok(vec![([10, 0, 0, 1], port).into()]) })
///     }
///
///     fn connect(&self, _address: SocketAddr) -> BoxFuture<'_, BoxConnection> {
///         let (ours, _theirs) = tokio::io::duplex(64 * 1_024); // serve the other end
///         Box::pin(async { Ok(Box::new(ours) as BoxConnection) })
///     }
/// }
///
/// let config = Config { network: Some(Arc::new(InMemory)), ..Config::default() };
/// ```
pub trait Network: fmt::Debug + Send + Sync {
    /// The addresses of a host, with this port, in any order.
    fn look_up<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, Vec<SocketAddr>>;

    /// Opens a connection to an address.
    fn connect(&self, address: SocketAddr) -> BoxFuture<'_, BoxConnection>;
}

/// What a [`Network`] finds or opens, or the error.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send + 'a>>;

/// A connection of a [`Network`].
pub type BoxConnection = Box<dyn Io>;
