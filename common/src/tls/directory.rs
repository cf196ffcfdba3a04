//! [`Purpose`]: what a directory of certificates is for; and what is in it.

use std::time::Duration;

/// The certificate of the service, followed by its intermediate certificates.
pub(super) const CERTIFICATE: &str = "tls.crt";
/// The private key of the service.
pub(super) const KEY: &str = "tls.key";
/// The certificates of all trusted authorities, which the mesh needs and the edge does not.
pub(super) const AUTHORITIES: &str = "ca.crt";

/// The longest file that is read, in bytes. A bundle of all public authorities has 220 KB.
pub(super) const MAX_FILE: u64 = 1_024 * 1_024;

/// The longest that reading the files takes. A mount that is only slow, such as one over a network, has
/// responded by then.
pub(super) const READ_TIMEOUT: Duration = Duration::from_secs(5);

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
