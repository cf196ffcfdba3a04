//! [`CheckedFiles`]: the files of a directory, read at one moment and checked.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustls::{
    RootCertStore,
    crypto::CryptoProvider,
    pki_types::{
        CertificateDer, PrivateKeyDer, TrustAnchor, UnixTime,
        pem::{self, PemObject},
    },
    sign::CertifiedKey,
};
use webpki::{EndEntityCert, KeyUsage};

/// The certificate of the service, followed by its intermediate certificates.
const CERTIFICATE: &str = "tls.crt";
/// The private key of the service.
const KEY: &str = "tls.key";
/// The certificates of all trusted authorities.
const AUTHORITIES: &str = "ca.crt";

/// The longest file that is read, in bytes. A bundle of all public authorities has 220 KB.
const MAX_FILE: u64 = 1_024 * 1_024;

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

/// The files of a directory.
#[derive(PartialEq, Eq)]
pub(super) struct Files {
    certificate: Vec<u8>,
    key: Vec<u8>,
    authorities: Vec<u8>,
}

/// Why a directory can't be used.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{}: {why}", path.display())]
pub struct InvalidTls {
    path: PathBuf,
    why: Why,
}

#[derive(Debug, Clone, thiserror::Error)]
enum Why {
    #[error("it can't be read: {0}")]
    Unreadable(Arc<io::Error>),
    #[error("it has more than {MAX_FILE} bytes")]
    TooLong,
    #[error("it is not PEM, or has no {0}")]
    NotPem(&'static str),
    #[error("it can't be used: {0}")]
    Unusable(rustls::Error),
    #[error("the certificate does not verify against {AUTHORITIES}: {0}")]
    Unverified(webpki::Error),
    #[error("the certificate has no DNS name, which its clients check")]
    Nameless,
}

impl Files {
    /// Reads the files. Kubernetes replaces all of them at once: it swaps the link `..data` to a
    /// directory. So the link is resolved once, before the first file is read.
    pub(super) fn read(directory: &Path) -> Result<Self, InvalidTls> {
        let linked = directory.join("..data");
        let found = fs::canonicalize(&linked).or_else(|_| fs::canonicalize(directory));
        let found = found.map_err(|error| unreadable(directory, error))?;
        let read = |name: &str| {
            let mut bytes = Vec::new();
            let file = File::open(found.join(name));
            let length = file.and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes));
            let length = length.map_err(|error| unreadable(&directory.join(name), error))?;
            if length as u64 > MAX_FILE {
                return Err(invalid(&directory.join(name), Why::TooLong));
            }
            Ok(bytes)
        };
        Ok(Self {
            certificate: read(CERTIFICATE)?,
            key: read(KEY)?,
            authorities: read(AUTHORITIES)?,
        })
    }
}

fn unreadable(path: &Path, error: io::Error) -> InvalidTls {
    invalid(path, Why::Unreadable(Arc::new(error)))
}

fn invalid(path: &Path, why: Why) -> InvalidTls {
    let path = path.to_owned();
    InvalidTls { path, why }
}

/// Certificates that have passed all checks.
pub(super) struct CheckedFiles {
    pub(super) own: Arc<CertifiedKey>,
    pub(super) authorities: Vec<CertificateDer<'static>>,
    pub(super) roots: Arc<RootCertStore>,
    /// The first DNS name of the certificate.
    pub(super) name: String,
    /// When the certificate expires, and when the first of the authorities does.
    pub(super) expiries: [UnixTime; 2],
}

impl CheckedFiles {
    /// Checks that the key fits the certificate, and that the certificate has a name and verifies
    /// now against the authorities.
    pub(super) fn check(
        files: &Files,
        directory: &Path,
        purpose: Purpose,
        provider: &CryptoProvider,
    ) -> Result<Self, InvalidTls> {
        let fail = |name: &str, why| invalid(&directory.join(name), why);
        let chain = certificates(&files.certificate);
        let chain = chain.ok_or_else(|| fail(CERTIFICATE, Why::NotPem("certificate")))?;
        let authorities = certificates(&files.authorities);
        let authorities =
            authorities.ok_or_else(|| fail(AUTHORITIES, Why::NotPem("certificate")))?;
        let key = PrivateKeyDer::from_pem_slice(&files.key)
            .map_err(|_| fail(KEY, Why::NotPem("private key")))?;
        let mut roots = RootCertStore::empty();
        for authority in &authorities {
            let added = roots.add(authority.clone());
            added.map_err(|error| fail(AUTHORITIES, Why::Unusable(error)))?;
        }
        let own = CertifiedKey::from_der(chain, key, provider)
            .map_err(|error| fail(KEY, Why::Unusable(error)))?;
        let leaf = EndEntityCert::try_from(&own.cert[0]);
        let leaf = leaf.map_err(|error| fail(CERTIFICATE, Why::Unverified(error)))?;
        let verified = verify(&leaf, &own.cert[1..], &roots.roots, purpose, provider);
        verified.map_err(|error| fail(CERTIFICATE, Why::Unverified(error)))?;
        let name = leaf.valid_dns_names().next().map(str::to_owned);
        let authorities_expire = authorities.iter().map(expiry).min();
        Ok(Self {
            name: name.ok_or_else(|| fail(CERTIFICATE, Why::Nameless))?,
            expiries: [
                expiry(&own.cert[0]),
                authorities_expire.expect("there is an authority"),
            ],
            own: Arc::new(own),
            authorities,
            roots: Arc::new(roots),
        })
    }
}

/// All certificates of a PEM file, or `None` if it is not PEM or has none.
fn certificates(pem: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let all = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, pem::Error>>();
    all.ok().filter(|all| !all.is_empty())
}

/// Verifies a certificate as the peers of the service will do.
fn verify(
    leaf: &EndEntityCert<'_>,
    intermediates: &[CertificateDer<'_>],
    authorities: &[TrustAnchor<'_>],
    purpose: Purpose,
    provider: &CryptoProvider,
) -> Result<(), webpki::Error> {
    let usages: &[KeyUsage] = match purpose {
        Purpose::Mesh => &[KeyUsage::server_auth(), KeyUsage::client_auth()],
        Purpose::Edge => &[KeyUsage::server_auth()],
    };
    for usage in usages {
        leaf.verify_for_usage(
            provider.signature_verification_algorithms.all,
            authorities,
            intermediates,
            UnixTime::now(),
            *usage,
            None,
            None,
        )?;
    }
    Ok(())
}

/// When a certificate expires. webpki has no function that tells; but when it is asked about a time
/// beyond the end of every certificate, its error tells.
fn expiry(certificate: &CertificateDer<'_>) -> UnixTime {
    let beyond = UnixTime::since_unix_epoch(Duration::from_secs(u64::MAX));
    let verified = EndEntityCert::try_from(certificate).and_then(|certificate| {
        certificate
            .verify_for_usage(&[], &[], &[], beyond, KeyUsage::server_auth(), None, None)
            .map(drop)
    });
    match verified {
        Err(webpki::Error::CertExpired { not_after, .. }) => not_after,
        _ => UnixTime::since_unix_epoch(Duration::ZERO),
    }
}
