//! [`Listener`]: a port of a service; and [`Face`]: the router that serves it.

use std::time::Duration;

use axum::Router;

use crate::{
    limits,
    methods::{Deadlines, Methods},
    protocol::Protocol,
};

/// A port to listen on, and its protocol.
#[derive(Debug, Clone, Copy)]
pub struct Listener {
    pub(crate) protocol: Protocol,
    pub(crate) port: u16,
    body_limit: usize,
}

impl Listener {
    /// A port for HTTP/1.1 and HTTP/2. It also serves `/healthz`, `/readyz` and `/metrics`.
    pub fn http(port: u16) -> Self {
        Self {
            protocol: Protocol::Http,
            port,
            body_limit: limits::BODY,
        }
    }

    /// A port for gRPC. Its router comes from
    /// [`Grpc::into_router`](crate::server::Grpc::into_router).
    pub fn grpc(port: u16) -> Self {
        Self {
            protocol: Protocol::Grpc,
            port,
            body_limit: limits::BODY,
        }
    }

    /// Sets the limit of the body of a request, or of each message of a gRPC request, in bytes. The
    /// default is [`BODY_LIMIT`](crate::server::BODY_LIMIT). tonic itself refuses messages of more
    /// than 4 MiB (`max_decoding_message_size`).
    #[must_use]
    pub fn body_limit(self, bytes: usize) -> Self {
        Self {
            body_limit: bytes,
            ..self
        }
    }

    /// The face of a router for this port. `methods` are the declarations of its gRPC services.
    pub(crate) fn face(self, router: Router, deadline: Duration, methods: &Methods) -> Face {
        Face {
            router,
            protocol: self.protocol,
            deadlines: match self.protocol {
                Protocol::Http => Deadlines::all(deadline),
                Protocol::Grpc => Deadlines::new(deadline, methods),
            },
            body_limit: self.body_limit,
        }
    }
}

/// The router of one port, and the rules for its requests.
#[derive(Debug, Clone)]
pub(crate) struct Face {
    pub(crate) router: Router,
    pub(crate) protocol: Protocol,
    pub(crate) deadlines: Deadlines,
    /// The longest body of an HTTP request, or message of a gRPC request, in bytes.
    pub(crate) body_limit: usize,
}
