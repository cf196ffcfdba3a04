//! A face of a service: the router of one port, and what its requests may take.

use std::time::Duration;

use axum::Router;

use crate::{
    methods::{Deadlines, Methods},
    protocol::Protocol,
};

/// What the body of a request may have, in bytes, where a listener says nothing else: queries and
/// small documents fit, and what many clients send at once still fits the memory. It is for each
/// message where gRPC is spoken.
pub const BODY_LIMIT: usize = 64 * 1_024;

/// What serves the requests of one port.
#[derive(Debug, Clone)]
pub(super) struct Face {
    pub(super) router: Router,
    /// What is spoken on the port.
    pub(super) protocol: Protocol,
    pub(super) deadlines: Deadlines,
    /// The longest body of an HTTP request, or message of a gRPC request, in bytes.
    pub(super) body_limit: usize,
}

impl Face {
    /// One for HTTP, whose requests all have the same deadline.
    pub(super) fn http(router: Router, deadline: Duration) -> Self {
        Self {
            router,
            protocol: Protocol::Http,
            deadlines: Deadlines::all(deadline),
            body_limit: BODY_LIMIT,
        }
    }

    /// One for gRPC, whose methods may declare their own.
    pub(super) fn grpc(router: Router, deadline: Duration, methods: &Methods) -> Self {
        Self {
            router,
            protocol: Protocol::Grpc,
            deadlines: Deadlines::new(deadline, methods),
            body_limit: BODY_LIMIT,
        }
    }

    /// The same with another limit.
    pub(super) fn with_body_limit(self, body_limit: usize) -> Self {
        Self { body_limit, ..self }
    }
}
