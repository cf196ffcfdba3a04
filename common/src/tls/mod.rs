//! TLS: mutual between services, and with a server certificate only at the edge. New files take
//! effect without a restart.
//!
//! | file | contents |
//! |---|---|
//! | `directory` | what a directory of certificates is for, and what is in it |
//! | `files` | the files of a directory, read without being blocked |
//! | `certificate` | the names in a certificate, and the kind of its key |
//! | `material` | the files of a directory, checked |
//! | `invalid` | why a directory can't be used, in a sentence |
//! | `identity` | who a peer is, who may call, and whom a channel expects |
//! | `expected_peer` | verifies that a server is the peer that a channel expects |
//! | `any_peer` | a client that takes any certificate, for `healthcheck` |
//! | `generation` | the settings for rustls, from one reading of the directory |
//! | `reload` | [`Tls`]: the last reading that passed, and the thread that looks for new files |
//! | `channel` | the certificates of a channel, and whom it expects |
//! | `plain_calls` | whether calls would be plain text although nobody has said so |

#[cfg(feature = "cli")]
mod any_peer;
mod certificate;
mod channel;
mod directory;
mod expected_peer;
mod files;
mod generation;
pub(crate) mod identity;
mod invalid;
mod material;
pub(crate) mod plain_calls;
mod reload;

#[cfg(feature = "cli")]
pub(crate) use self::any_peer::unverified_client;
pub(crate) use self::{
    channel::ClientTls,
    generation::is_of_other_name,
    identity::{Peer, TrustVersion},
    reload::{facts, time_to_drain},
};
pub use self::{
    identity::{AllowedPeers, InvalidPeers, InvalidSpiffeId, SpiffeId},
    invalid::InvalidTls,
    reload::Tls,
};
pub use crate::request::identity::Identity;
