//! [`Face`]: the router of one port, with its protocol, its deadlines and its body limit.

use std::time::Duration;

use axum::Router;

use crate::{
    limits,
    methods::{Deadlines, Methods},
    protocol::Protocol,
};

/// The router of one port, and the rules for its requests.
#[derive(Debug, Clone)]
pub(crate) struct Face {
    pub(crate) router: Router,
    /// The protocol of the port.
    pub(crate) protocol: Protocol,
    pub(crate) deadlines: Deadlines,
    /// The longest body of an HTTP request, or message of a gRPC request, in bytes.
    pub(crate) body_limit: usize,
}

impl Face {
    /// A face for HTTP, whose requests all have the same deadline.
    pub(crate) fn http(router: Router, deadline: Duration) -> Self {
        Self {
            router,
            protocol: Protocol::Http,
            deadlines: Deadlines::all(deadline),
            body_limit: limits::BODY,
        }
    }

    /// A face for gRPC, whose methods may declare deadlines of their own.
    pub(crate) fn grpc(router: Router, deadline: Duration, methods: &Methods) -> Self {
        Self {
            router,
            protocol: Protocol::Grpc,
            deadlines: Deadlines::new(deadline, methods),
            body_limit: limits::BODY,
        }
    }

    /// The same face with another body limit.
    pub(crate) fn with_body_limit(self, body_limit: usize) -> Self {
        Self { body_limit, ..self }
    }
}
