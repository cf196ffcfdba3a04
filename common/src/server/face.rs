//! A face of a service: the router of one port, and what its requests may take.

use std::time::Duration;

use axum::Router;

use super::BODY_LIMIT;
use crate::methods::{Deadlines, Methods};

/// What serves the requests of one port.
#[derive(Debug, Clone)]
pub(super) struct Face {
    pub(super) router: Router,
    pub(super) deadlines: Deadlines,
    /// The longest body of a request, in bytes.
    pub(super) body_limit: usize,
}

impl Face {
    /// One for HTTP, whose requests all have the same deadline.
    pub(super) fn http(router: Router, deadline: Duration) -> Self {
        Self {
            router,
            deadlines: Deadlines::all(deadline),
            body_limit: BODY_LIMIT,
        }
    }

    /// One for gRPC, whose methods may declare their own. A body is a stream of messages there:
    /// each of them has a limit, which is tonic's.
    pub(super) fn grpc(router: Router, deadline: Duration, methods: &Methods) -> Self {
        Self {
            router,
            deadlines: Deadlines::new(deadline, methods),
            body_limit: usize::MAX,
        }
    }
}
