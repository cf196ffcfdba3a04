//! [`Peer`]: who a peer is, as its certificate says. [`AllowedPeers`]: who may call.

use std::{str::FromStr, sync::Arc};

use rustls::pki_types::CertificateDer;
use webpki::EndEntityCert;

use crate::request::identity::Identity;

/// The names in a certificate: URIs first, then DNS names.
pub(super) fn names_of(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok(certificate) = EndEntityCert::try_from(certificate) else {
        return Vec::new();
    };
    let uris = certificate.valid_uri_names();
    uris.chain(certificate.valid_dns_names())
        .map(str::to_owned)
        .collect()
}

/// The peers that may call: SPIFFE IDs and DNS names, separated by commas.
///
/// ```
/// use common::tls::AllowedPeers;
///
/// assert!("spiffe://mesh.local/service2, orders.example".parse::<AllowedPeers>().is_ok());
/// assert!("".parse::<AllowedPeers>().is_err());
/// assert!("service2,,".parse::<AllowedPeers>().is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowedPeers(Arc<[String]>);

/// The text is not a list of peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "it must be one or more identities separated by commas, such as spiffe://mesh.local/service2 \
     or a DNS name"
)]
pub struct InvalidPeers;

impl FromStr for AllowedPeers {
    type Err = InvalidPeers;

    fn from_str(text: &str) -> Result<Self, InvalidPeers> {
        let peers = text.split(',').map(str::trim);
        let is_name =
            |peer: &str| !peer.is_empty() && peer.bytes().all(|byte| byte.is_ascii_graphic());
        peers
            .map(|peer| is_name(peer).then(|| peer.to_owned()).ok_or(InvalidPeers))
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

/// Numbers the sets of authorities of a directory, one after the other. A set that has grown keeps
/// its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TrustVersion(pub(super) u64);

/// The peer of a connection with mutual TLS.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub(crate) identity: Identity,
    /// Whether it may call.
    pub(crate) is_allowed: bool,
    /// The authorities that have vouched for it.
    pub(crate) trust: TrustVersion,
}

impl Peer {
    /// The peer with this certificate, whose chain has been verified.
    pub(super) fn new(
        certificate: &CertificateDer<'_>,
        allowed: Option<&AllowedPeers>,
        trust: TrustVersion,
    ) -> Self {
        let names = names_of(certificate);
        let listed = |allowed: &AllowedPeers| {
            let is_listed = |name: &&String| allowed.0.iter().any(|peer| peer == *name);
            names.iter().find(is_listed)
        };
        let listed = allowed.map(listed);
        let name = listed.flatten().or(names.first());
        Self {
            identity: Identity::new(name.map_or("(no name)", String::as_str)),
            is_allowed: listed.is_none_or(|name| name.is_some()),
            trust,
        }
    }
}
