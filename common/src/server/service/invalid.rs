//! [`InvalidFace`]: why a listener can't serve.

/// A listener can't serve what it was given.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidFace {
    /// The router has a route for a path that every HTTP port serves itself.
    #[error(
        "the path {0} is taken: every HTTP port serves it itself; choose another for the router"
    )]
    PathTaken(&'static str),
    /// A deadline was set for a route that the router does not have.
    #[error("a deadline is set for the route {0:?}, which the router does not have")]
    UnknownRoute(String),
    /// A deadline was set for a route of a gRPC port.
    #[error(
        "a deadline is set for the route {0:?} of a gRPC port; declare it in the .proto file: option (mesh.deadline)"
    )]
    GrpcRoute(String),
    /// The descriptors of a gRPC port can't be read.
    #[error("the descriptors of {services:?}: {reason}")]
    Descriptors {
        /// The services of the port.
        services: Vec<&'static str>,
        /// What is wrong with them.
        reason: String,
    },
}
