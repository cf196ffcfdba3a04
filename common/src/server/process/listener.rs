//! [`Listener`]: a port of a service.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use axum::Router;
use tokio::net::{TcpListener, TcpSocket};
use tracing::info;

use crate::{limits, methods::Methods, protocol::Protocol, server::faces::face::Face};

/// A port to listen on, and its protocol.
#[derive(Debug, Clone, Copy)]
pub struct Listener {
    protocol: Protocol,
    port: u16,
    body_limit: usize,
}

impl Listener {
    /// A port for HTTP/1.1 and HTTP/2; `/healthz` and `/readyz` are served on it as well.
    pub fn http(port: u16) -> Self {
        Self {
            protocol: Protocol::Http,
            port,
            body_limit: limits::BODY,
        }
    }

    /// A port for gRPC: its router comes from [`Grpc::into_router`](crate::server::Grpc::into_router).
    pub fn grpc(port: u16) -> Self {
        Self {
            protocol: Protocol::Grpc,
            port,
            body_limit: limits::BODY,
        }
    }

    /// How long the body of a request may be, or each message where gRPC is spoken, in bytes;
    /// [`BODY_LIMIT`] if it is not said. tonic has a limit of its own for messages over 4 MiB
    /// (`max_decoding_message_size`).
    #[must_use]
    pub fn body_limit(self, bytes: usize) -> Self {
        Self {
            body_limit: bytes,
            ..self
        }
    }

    /// The face of a router that serves this listener; calls may declare these methods.
    pub(crate) fn face(self, router: Router, deadline: Duration, methods: &Methods) -> Face {
        let face = match self.protocol {
            Protocol::Http => Face::http(router, deadline),
            Protocol::Grpc => Face::grpc(router, deadline, methods),
        };
        face.with_body_limit(self.body_limit)
    }

    pub(crate) fn protocol(self) -> Protocol {
        self.protocol
    }

    /// The address to listen on.
    pub(super) fn address(self, host: IpAddr) -> SocketAddr {
        SocketAddr::new(host, self.port)
    }

    /// Begins to listen.
    pub(super) fn bind(self, host: IpAddr) -> io::Result<TcpListener> {
        let listener = listen(self.address(host))?;
        info!(
            action = "listen",
            status = "success",
            protocol = match self.protocol {
                Protocol::Http => "http",
                Protocol::Grpc => "grpc",
            },
            address = %listener.local_addr()?,
            "listening"
        );
        Ok(listener)
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // Connections of the service's predecessor do not block the port.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(limits::BACKLOG)
}
