//! [`Peer`]: who a peer is, as its certificate says. [`AllowedPeers`]: who may call. [`SpiffeId`]: whom a
//! channel expects.

use std::{fmt, net::IpAddr, str::FromStr, sync::Arc};

use rustls::pki_types::CertificateDer;

use super::certificate::{CertificateNames, MAX_URI};
use crate::request::identity::Identity;

/// What a SPIFFE ID begins with.
const SCHEME: &str = "spiffe://";

/// The identity of a service: `spiffe://`, a trust domain, and a path that names the service, as
/// [SPIFFE](https://spiffe.io/docs/latest/spiffe-about/spiffe-concepts/) has it. Clones share their text.
///
/// ```
/// use common::tls::SpiffeId;
///
/// let service1: SpiffeId = "spiffe://mesh.local/service1".parse().unwrap();
/// assert_eq!(service1.to_string(), "spiffe://mesh.local/service1");
/// assert!("https://mesh.local/service1".parse::<SpiffeId>().is_err());
/// assert!("spiffe://mesh.local".parse::<SpiffeId>().is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SpiffeId(Arc<str>);

/// The text is not a SPIFFE ID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidSpiffeId {
    /// It begins otherwise, or is empty.
    #[error("it must begin with spiffe://, as in spiffe://mesh.local/service1")]
    Scheme,
    /// It has more than 2,048 bytes.
    #[error("it must have at most {MAX_URI} bytes")]
    Long,
    /// What follows the scheme is no trust domain.
    #[error(
        "the trust domain, such as mesh.local, must be of lower-case letters, digits, dots, hyphens and \
         underscores"
    )]
    TrustDomain,
    /// It names no service, or has a segment that is not allowed.
    #[error(
        "after the trust domain it must have a path, such as /service1, of letters, digits, dots, \
         hyphens and underscores, without a slash at its end"
    )]
    Path,
}

impl FromStr for SpiffeId {
    type Err = InvalidSpiffeId;

    fn from_str(text: &str) -> Result<Self, InvalidSpiffeId> {
        let rest = text.strip_prefix(SCHEME).ok_or(InvalidSpiffeId::Scheme)?;
        if text.len() > MAX_URI {
            return Err(InvalidSpiffeId::Long);
        }
        let (domain, path) = match rest.split_once('/') {
            Some((domain, path)) => (domain, Some(path)),
            None => (rest, None),
        };
        let is_common = |byte: u8| byte.is_ascii_digit() || b".-_".contains(&byte);
        let is_of_domain = |byte: u8| byte.is_ascii_lowercase() || is_common(byte);
        if domain.is_empty() || !domain.bytes().all(is_of_domain) {
            return Err(InvalidSpiffeId::TrustDomain);
        }
        let is_of_path = |byte: u8| byte.is_ascii_alphabetic() || is_common(byte);
        let is_segment =
            |segment: &str| !["", ".", ".."].contains(&segment) && segment.bytes().all(is_of_path);
        let is_path = path.is_some_and(|path| path.split('/').all(is_segment));
        is_path
            .then(|| Self(text.into()))
            .ok_or(InvalidSpiffeId::Path)
    }
}

impl SpiffeId {
    /// The identity as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// The peers that may call: SPIFFE IDs, DNS names and IP addresses, separated by commas.
///
/// ```
/// use common::tls::AllowedPeers;
///
/// assert!("spiffe://mesh.local/service2, orders.example".parse::<AllowedPeers>().is_ok());
/// assert!("10.0.0.7".parse::<AllowedPeers>().is_ok());
/// assert!("".parse::<AllowedPeers>().is_err());
/// assert!("service2,,".parse::<AllowedPeers>().is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowedPeers(Arc<[AllowedPeer]>);

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum AllowedPeer {
    Uri(String),
    DnsName(String),
    Address(IpAddr),
}

/// The text is not a list of peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "it must be one or more identities separated by commas, such as spiffe://mesh.local/service2, \
     a DNS name or an IP address"
)]
pub struct InvalidPeers;

impl FromStr for AllowedPeers {
    type Err = InvalidPeers;

    fn from_str(text: &str) -> Result<Self, InvalidPeers> {
        let peers = text.split(',').map(|peer| peer.trim().parse());
        peers.collect::<Result<_, _>>().map(Self)
    }
}

impl FromStr for AllowedPeer {
    type Err = InvalidPeers;

    fn from_str(peer: &str) -> Result<Self, InvalidPeers> {
        let is_name = !peer.is_empty() && peer.bytes().all(|byte| byte.is_ascii_graphic());
        if !is_name || peer.len() > MAX_URI {
            return Err(InvalidPeers);
        }
        Ok(match peer.parse() {
            Ok(address) => Self::Address(address),
            Err(_) if peer.contains(':') => Self::Uri(peer.to_owned()),
            Err(_) => Self::DnsName(peer.to_owned()),
        })
    }
}

impl AllowedPeers {
    /// The name by which a peer may call, if it has one. Of several, a URI is the first.
    fn find(&self, names: &CertificateNames) -> Option<String> {
        let listed = self.0.iter().filter(|peer| peer.is_in(names));
        listed.min().map(ToString::to_string)
    }
}

impl AllowedPeer {
    fn is_in(&self, names: &CertificateNames) -> bool {
        match self {
            Self::Uri(uri) => names.uri() == Some(uri),
            Self::DnsName(name) => names.dns.contains(name),
            Self::Address(address) => names.addresses.contains(address),
        }
    }
}

impl fmt::Display for AllowedPeer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uri(name) | Self::DnsName(name) => formatter.write_str(name),
            Self::Address(address) => address.fmt(formatter),
        }
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
        let names = CertificateNames::of(certificate);
        let listed = allowed.map(|allowed| allowed.find(&names));
        let is_allowed = listed.as_ref().is_none_or(Option::is_some);
        let name = listed.flatten().or_else(|| names.first());
        Self {
            identity: Identity::new(name.as_deref().unwrap_or("(no name)")),
            is_allowed,
            trust,
        }
    }
}

#[cfg(test)]
mod tests {
    use certs::{Authority, Certificate};
    use rustls::pki_types::pem::PemObject;

    use super::*;

    fn peer(change: impl FnOnce(&mut Certificate), allowed: Option<&str>) -> Peer {
        let mut certificate = Certificate::of_service("service2", "mesh.local");
        change(&mut certificate);
        let authority = Authority::new("test").unwrap();
        let issued = authority.issue(&certificate).unwrap();
        let certificate = CertificateDer::from_pem_slice(issued.certificate.as_bytes());
        let allowed: Option<AllowedPeers> = allowed.map(|it| it.parse().unwrap());
        Peer::new(&certificate.unwrap(), allowed.as_ref(), TrustVersion(0))
    }

    #[test]
    fn a_peer_may_call_by_any_of_its_names_and_is_called_by_it() {
        let addressed = |it: &mut Certificate| {
            (it.uris, it.dns_names) = (Vec::new(), Vec::new());
            it.addresses = vec!["10.0.0.7".parse().unwrap(), "fd00::7".parse().unwrap()];
        };
        for (allowed, name) in [
            (
                "spiffe://mesh.local/service2",
                Some("spiffe://mesh.local/service2"),
            ),
            ("orders.example,localhost", Some("localhost")),
            (
                "localhost,spiffe://mesh.local/service2",
                Some("spiffe://mesh.local/service2"),
            ),
            ("spiffe://mesh.local/service", None),
            ("spiffe://mesh.local/service2/", None),
            ("127.0.0.1", None),
        ] {
            let peer = peer(|_| {}, Some(allowed));
            assert_eq!(peer.is_allowed, name.is_some(), "{allowed}");
            let name = name.unwrap_or("spiffe://mesh.local/service2");
            assert_eq!(peer.identity.as_str(), name, "{allowed}");
        }
        for (allowed, is_allowed) in [("10.0.0.7", true), ("fd00:0::7", true), ("10.0.0.8", false)]
        {
            assert_eq!(
                peer(addressed, Some(allowed)).is_allowed,
                is_allowed,
                "{allowed}"
            );
        }
        assert_eq!(peer(addressed, None).identity.as_str(), "10.0.0.7");
    }

    #[test]
    fn a_peer_with_two_uris_may_call_by_neither() {
        let two = |it: &mut Certificate| it.uris.push("spiffe://mesh.local/orders".into());
        for uri in ["spiffe://mesh.local/service2", "spiffe://mesh.local/orders"] {
            assert!(!peer(two, Some(uri)).is_allowed, "{uri}");
        }
        assert!(peer(two, Some("service2")).is_allowed, "by its DNS name");
        assert_eq!(peer(two, None).identity.as_str(), "service2");
    }

    #[test]
    fn a_uri_is_no_dns_name() {
        let like_a_name = |it: &mut Certificate| {
            it.dns_names.clear();
            it.uris = vec!["orders".into()];
        };
        assert!(!peer(like_a_name, Some("orders")).is_allowed);
    }

    #[test]
    fn text_that_is_no_spiffe_id_is_refused_with_the_reason() {
        use InvalidSpiffeId::{Long, Path, Scheme, TrustDomain};
        let long = format!("spiffe://a/{}", "b".repeat(MAX_URI - 10));
        for (text, reason) in [
            ("", Scheme),
            ("service1", Scheme),
            ("https://mesh.local/service1", Scheme),
            ("SPIFFE://mesh.local/service1", Scheme),
            (" spiffe://mesh.local/service1", Scheme),
            (&long, Long),
            ("spiffe:///service1", TrustDomain),
            ("spiffe://Mesh.local/service1", TrustDomain),
            ("spiffe://mesh.local:1/service1", TrustDomain),
            ("spiffe://a@mesh.local/service1", TrustDomain),
            ("spiffe://mesh.local", Path),
            ("spiffe://mesh.local/", Path),
            ("spiffe://mesh.local/service1/", Path),
            ("spiffe://mesh.local//service1", Path),
            ("spiffe://mesh.local/../service1", Path),
            ("spiffe://mesh.local/service1?a", Path),
            ("spiffe://mesh.local/service1,spiffe://mesh.local/b", Path),
            ("spiffe://mesh.local/%61", Path),
        ] {
            assert_eq!(text.parse::<SpiffeId>(), Err(reason), "{text}");
        }
        let longest = &long[..MAX_URI];
        assert!(longest.parse::<SpiffeId>().is_ok());
        assert!(
            "spiffe://mesh.local/ns/shop/sa/Service_1"
                .parse::<SpiffeId>()
                .is_ok()
        );
    }
}
