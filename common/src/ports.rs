//! [`Ports`]: where the process listens, for what its pages say about it.

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
};

/// The ports of a process, once they are bound, and the pages on them. Clones share their state.
/// [`Links`](crate::pages::Links) leads from one to the other. The default is for tests: a process
/// without ports.
#[derive(Debug, Clone, Default)]
pub struct Ports(Arc<State>);

#[derive(Debug, Default)]
struct State {
    bound: OnceLock<Bound>,
    pages: OnceLock<Pages>,
}

/// The addresses of a process.
#[derive(Debug)]
pub(crate) struct Bound {
    /// The first port for HTTP.
    pub(crate) http: Option<Port>,
    /// The first port for gRPC.
    #[cfg_attr(not(feature = "openapi"), allow(dead_code))] // `/docs` alone names it
    pub(crate) grpc: Option<Port>,
    /// The port for operators.
    pub(crate) admin: Option<SocketAddr>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Port {
    pub(crate) number: u16,
    pub(crate) speaks_tls: bool,
}

/// The pages on the port for HTTP, beside `/docs`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pages {
    /// The service has a page of its own at `/`.
    pub(crate) has_own: bool,
}

impl Ports {
    /// Notes the addresses. Later calls change nothing.
    pub(crate) fn note_bound(&self, bound: Bound) {
        let _ = self.0.bound.set(bound);
    }

    /// Notes the pages. All workers note the same.
    #[cfg(feature = "openapi")]
    pub(crate) fn note_pages(&self, pages: Pages) {
        let _ = self.0.pages.set(pages);
    }

    pub(crate) fn bound(&self) -> Option<&Bound> {
        self.0.bound.get()
    }

    /// The pages, if the service has `/docs`.
    pub(crate) fn pages(&self) -> Option<Pages> {
        self.0.pages.get().copied()
    }
}
