//! [`ClientTls`]: the certificates of a channel, and whom it expects.

use super::{identity::SpiffeId, reload::Tls};

/// The certificates of a channel, and whom it expects: without a peer, whoever has the host name of its
/// target.
#[derive(Debug, Clone)]
pub(crate) struct ClientTls {
    pub(crate) tls: Tls,
    pub(crate) expected: Option<SpiffeId>,
}
