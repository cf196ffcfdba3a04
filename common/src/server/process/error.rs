//! [`Error`]: why a service can't start, or ended without a drain.

use std::{io, net::SocketAddr};

use crate::server::service::invalid::InvalidFace;

/// The reason why a service can't start, or ended without a drain.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A listener can't serve what it was given.
    #[error(transparent)]
    Face(#[from] InvalidFace),
    /// `faces` returned other ports on one worker than on another.
    #[error("the workers listen on different ports: faces must return the same for each worker")]
    Differ,
    /// A port is taken, or is not this user's to take.
    #[error("cannot listen on {address}: {source}; choose another host or port")]
    Listen {
        /// The host and the port.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// A channel was made from settings without mutual TLS, and those of the service have it.
    #[error(
        "calls to {0} would be plain text although MESH_TLS_DIR is set: give Channel::new the \
         settings of the service, or say Channel::plain"
    )]
    PlainCalls(&'static str),
    /// The target of a channel with mutual TLS begins with `http://`.
    #[error(
        "the target {0} begins with http://, which says plain text, and MESH_TLS_DIR is set: write it without \
         http://, or say Channel::plain for a service outside of the mesh"
    )]
    HttpWithTls(&'static str),
    /// The clock of the machine was never set.
    #[error("cannot start: the clock is before 1970, and responses need a date; set the clock")]
    Clock,
    /// [`run`](crate::server::run) was called in a runtime, such as that of `#[tokio::main]`.
    #[error(
        "a service has runtimes of its own: call run from a plain fn main, without #[tokio::main], and \
         make what needs a runtime in faces, or give it to Builder::shared"
    )]
    InRuntime,
    /// A shared value panicked while it was made.
    #[error("a shared value panicked while it was made; the log says where")]
    Shared,
    /// The system refuses a thread or a runtime.
    #[error("cannot start: {0}")]
    System(#[from] io::Error),
    /// A worker panicked outside of any request, or in `faces`.
    #[error("a worker panicked outside of any request; the log says where")]
    Worker,
    /// A task panicked.
    #[error("the task {0:?} panicked")]
    Task(&'static str),
}

impl Error {
    /// Whether another configuration or other code would help, as opposed to another time.
    pub(crate) fn is_of_configuration(&self) -> bool {
        matches!(
            self,
            Self::Face(_)
                | Self::Differ
                | Self::PlainCalls(_)
                | Self::HttpWithTls(_)
                | Self::InRuntime
        )
    }
}
