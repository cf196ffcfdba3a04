//! TLS: mutual between services, and with a server certificate only at the edge. New files take
//! effect without a restart.
//!
//! | file | contents |
//! |---|---|
//! | `material` | what the files of a directory hold, and the checks before its use |
//! | `generation` | the configurations for rustls, from one reading of the directory |
//! | `plain_calls` | whether calls would be plain text although nobody has said so |
//! | `reload` | [`Tls`]: the current generation, and the thread that looks for new files |
//! | `identity` | who a peer is, and who may call |

pub(crate) mod generation;
mod identity;
mod material;
pub(crate) mod plain_calls;
mod reload;

use std::time::Duration;

pub(crate) use self::{generation::is_of_other_name, identity::Peer, reload::expiries};
pub use self::{
    identity::{AllowedPeers, InvalidPeers},
    material::InvalidTls,
    reload::Tls,
};
use crate::limits;
pub use crate::request::identity::Identity;

/// What a directory is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Calls between services: both sides show a certificate.
    Mesh,
    /// HTTP from outside: only the server shows a certificate.
    Edge,
}

impl Purpose {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Mesh => "mesh",
            Self::Edge => "edge",
        }
    }
}

/// A random time after which a connection that former authorities have vouched for drains, so that
/// not all of them are opened again at once.
pub(crate) fn time_to_drain() -> Duration {
    limits::DRAIN_OUTDATED.mul_f64(fastrand::f64())
}
