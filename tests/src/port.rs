//! [`Port`]: a port that is kept for the services of one test.

use std::net::SocketAddr;

use tokio::net::TcpSocket;

/// A port of loopback, for a service that is started on it again, or whose port must be known
/// before it starts.
///
/// A socket is bound to the port and never listens. A service can listen there all the same, as
/// both set `SO_REUSEADDR`; but Linux gives the port to nobody who binds port 0, and to no
/// outgoing connection. While no service listens, connections are refused.
#[derive(Debug)]
pub struct Port(TcpSocket);

impl Port {
    /// Keeps a free port.
    ///
    /// # Panics
    ///
    /// When no port is free.
    pub fn keep() -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_reuseaddr(true).expect("an open socket");
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        socket.bind(any).expect("a free port");
        Self(socket)
    }

    /// The address of a service that listens on the port.
    pub fn address(&self) -> SocketAddr {
        self.0.local_addr().expect("it is bound")
    }

    /// The port as the value of a variable.
    pub fn variable(&self) -> String {
        self.address().port().to_string()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_port_is_kept_between_the_services_that_listen_on_it() {
        let port = Port::keep();
        for _ in 0..2 {
            assert!(TcpStream::connect(port.address()).is_err());
            let service = TcpListener::bind(port.address()).expect("it sets SO_REUSEADDR");
            TcpStream::connect(port.address()).expect("it listens");
            drop(service);
        }
        let other = TcpSocket::new_v4().expect("a socket");
        assert!(other.bind(port.address()).is_err(), "without SO_REUSEADDR");
    }
}
