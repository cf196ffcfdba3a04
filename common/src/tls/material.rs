//! [`CheckedFiles`]: the files of a directory, checked.

use std::{path::Path, sync::Arc, time::Duration};

use rustls::{
    Error, InconsistentKeys, RootCertStore,
    crypto::CryptoProvider,
    pki_types::{
        CertificateDer, PrivateKeyDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime,
        pem::{self, PemObject},
    },
    sign::CertifiedKey,
};
use webpki::{EndEntityCert, KeyUsage};

use super::{
    certificate::{CertificateNames, kind_of_key},
    directory::{AUTHORITIES, CERTIFICATE, KEY, Purpose},
    files::Files,
    invalid::{Block, InvalidTls, Why},
};

/// Certificates that have passed all checks.
pub(super) struct CheckedFiles {
    pub(super) own: Arc<CertifiedKey>,
    /// Of a mesh; none of an edge.
    pub(super) roots: Arc<RootCertStore>,
    /// What the certificate calls the service.
    pub(super) name: String,
    /// For each file with certificates, when the first of them expires: of `tls.crt`, that of the service.
    pub(super) expiries: Vec<(&'static str, u64)>,
}

impl CheckedFiles {
    /// Checks that the key fits the certificate, and that the certificate has a name and is valid now. That
    /// of a mesh must verify against the authorities.
    pub(super) fn check(
        files: &Files,
        directory: &Path,
        purpose: Purpose,
        provider: &CryptoProvider,
        now: UnixTime,
    ) -> Result<Self, InvalidTls> {
        let of = |name: &'static str| move |why: Why| InvalidTls::new(&directory.join(name), why);
        let own = own(files, provider).map_err(|(name, why)| of(name)(why))?;
        let [leaf, intermediates @ ..] = &own.cert[..] else {
            return Err(of(CERTIFICATE)(Why::Missing(Block::Certificate)));
        };
        let names = CertificateNames::of(leaf);
        let mut expiries = Vec::from_iter(expiry(leaf).map(|at| (CERTIFICATE, at)));
        let mut roots = RootCertStore::empty();
        check_leaf(leaf, purpose, now).map_err(of(CERTIFICATE))?;
        let name = names.first();
        let name = name.ok_or_else(|| of(CERTIFICATE)(Why::Nameless))?;
        if let Some(pem) = &files.authorities {
            let authorities = certificates(pem).map_err(of(AUTHORITIES))?;
            for authority in &authorities {
                let added = roots.add(authority.clone());
                added.map_err(|_| of(AUTHORITIES)(Why::BadAuthority))?;
            }
            let verified = verify(leaf, intermediates, &roots.roots, provider, now);
            verified.map_err(of(CERTIFICATE))?;
            let first = authorities.iter().filter_map(expiry).min();
            expiries.extend(first.map(|at| (AUTHORITIES, at)));
        }
        Ok(Self {
            own: Arc::new(own),
            roots: Arc::new(roots),
            name,
            expiries,
        })
    }
}

/// The certificate of the service and its key, or which file is wrong.
fn own(files: &Files, provider: &CryptoProvider) -> Result<CertifiedKey, (&'static str, Why)> {
    let chain = certificates(&files.certificate).map_err(|why| (CERTIFICATE, why))?;
    if let Err(error) = EndEntityCert::try_from(&chain[0]) {
        return Err((CERTIFICATE, Why::Unparsable(error)));
    }
    let key = private_key(&files.key).map_err(|why| (KEY, why))?;
    let loaded = provider.key_provider.load_private_key(key.clone_key());
    let key = loaded.map_err(|_| (KEY, Why::UnsupportedKey(kind_of_key(&key))))?;
    let own = CertifiedKey::new(chain, key);
    match own.keys_match() {
        Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => Err((KEY, Why::OtherKey)),
        _ => Ok(own),
    }
}

/// All certificates of a PEM file, of which there is at least one.
fn certificates(file: &[u8]) -> Result<Vec<CertificateDer<'static>>, Why> {
    check_form(file, Block::Certificate)?;
    let all = CertificateDer::pem_slice_iter(file).collect::<Result<Vec<_>, _>>();
    let all = all.map_err(|error| damage(&error, Block::Certificate))?;
    if all.is_empty() {
        return Err(Why::Missing(Block::Certificate));
    }
    Ok(all)
}

/// The first private key of a PEM file.
fn private_key(file: &[u8]) -> Result<PrivateKeyDer<'static>, Why> {
    check_form(file, Block::PrivateKey)?;
    // The form of PKCS #8, and the older one, whose block has a header (RFC 1421).
    let is_encrypted = |line: &[u8]| {
        line.starts_with(b"-----BEGIN ENCRYPTED PRIVATE KEY")
            || line.starts_with(b"Proc-Type: 4,ENCRYPTED")
    };
    if file.split(|byte| *byte == b'\n').any(is_encrypted) {
        return Err(Why::Encrypted);
    }
    PrivateKeyDer::from_pem_slice(file).map_err(|error| damage(&error, Block::PrivateKey))
}

/// Checks that a file may be PEM.
fn check_form(file: &[u8], block: Block) -> Result<(), Why> {
    /// Of UTF-8, and of UTF-16 in both orders.
    const MARKS: [&[u8]; 3] = [&[0xef, 0xbb, 0xbf], &[0xff, 0xfe], &[0xfe, 0xff]];
    /// A sequence of a length of two bytes, as all certificates and most keys are in DER.
    const DER: [&[u8]; 2] = [&[0x30, 0x82], &[0x30, 0x81]];
    if file.trim_ascii().is_empty() {
        return Err(Why::Empty(block));
    }
    if MARKS.iter().any(|mark| file.starts_with(mark)) {
        return Err(Why::ByteOrderMark);
    }
    if DER.iter().any(|begin| file.starts_with(begin)) {
        return Err(Why::Der(block));
    }
    Ok(())
}

fn damage(error: &pem::Error, block: Block) -> Why {
    match error {
        pem::Error::NoItemsFound => Why::Missing(block),
        _ => Why::Damaged,
    }
}

/// Checks what does not depend on who has issued the certificate.
fn check_leaf(leaf: &CertificateDer<'_>, purpose: Purpose, now: UnixTime) -> Result<(), Why> {
    for usage in usages(purpose) {
        // webpki checks the certificate before it looks for its issuer.
        match verify_for(*usage, leaf, &[], &[], &[], now) {
            Ok(()) | Err(webpki::Error::UnknownIssuer) => {}
            Err(webpki::Error::CertExpired { not_after, .. }) => {
                return Err(Why::Expired(not_after));
            }
            Err(webpki::Error::CertNotValidYet { not_before, time }) => {
                return Err(Why::NotYetValid {
                    not_before,
                    now: time,
                });
            }
            // What `openssl req -x509` makes. Clients that are told to trust it do.
            Err(webpki::Error::CaUsedAsEndEntity) if purpose == Purpose::Edge => {}
            Err(webpki::Error::CaUsedAsEndEntity) => return Err(Why::IsAuthority),
            Err(
                webpki::Error::RequiredEkuNotFoundContext(_) | webpki::Error::EmptyEkuExtension,
            ) => {
                return Err(missing(*usage, purpose));
            }
            Err(error) => return Err(Why::Unparsable(error)),
        }
    }
    Ok(())
}

/// What the peers of a service use its certificate for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Usage {
    Server,
    Client,
}

fn usages(purpose: Purpose) -> &'static [Usage] {
    match purpose {
        Purpose::Mesh => &[Usage::Server, Usage::Client],
        Purpose::Edge => &[Usage::Server],
    }
}

fn missing(usage: Usage, purpose: Purpose) -> Why {
    let (whom, name) = match usage {
        Usage::Server => ("servers", "serverAuth"),
        Usage::Client => ("clients", "clientAuth"),
    };
    let all = match purpose {
        Purpose::Mesh => "serverAuth and clientAuth",
        Purpose::Edge => "serverAuth",
    };
    Why::Usage(whom, name, all)
}

/// Verifies a certificate as the peers of a mesh will do.
fn verify(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    authorities: &[TrustAnchor<'_>],
    provider: &CryptoProvider,
    now: UnixTime,
) -> Result<(), Why> {
    let algorithms = provider.signature_verification_algorithms.all;
    for usage in usages(Purpose::Mesh) {
        let verified = verify_for(*usage, leaf, intermediates, authorities, algorithms, now);
        verified.map_err(|error| match error {
            webpki::Error::UnknownIssuer => Why::UnknownIssuer,
            webpki::Error::InvalidSignatureForPublicKey => Why::OtherAuthority,
            webpki::Error::UnsupportedSignatureAlgorithmContext(_)
            | webpki::Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => {
                Why::UnsupportedSignature
            }
            // The leaf is valid now.
            webpki::Error::CertExpired { not_after, .. } => Why::IntermediateExpired(not_after),
            webpki::Error::CertNotValidYet { not_before, .. } => {
                Why::IntermediateNotYetValid(not_before)
            }
            error => Why::Unverified(error),
        })?;
    }
    Ok(())
}

fn verify_for(
    usage: Usage,
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    authorities: &[TrustAnchor<'_>],
    algorithms: &[&dyn SignatureVerificationAlgorithm],
    now: UnixTime,
) -> Result<(), webpki::Error> {
    let usage = match usage {
        Usage::Server => KeyUsage::server_auth(),
        Usage::Client => KeyUsage::client_auth(),
    };
    let leaf = EndEntityCert::try_from(leaf)?;
    leaf.verify_for_usage(
        algorithms,
        authorities,
        intermediates,
        now,
        usage,
        None,
        None,
    )
    .map(drop)
}

/// When a certificate expires, unless it is an authority of version 1, which webpki can't parse. webpki has no
/// function that tells; but when it is asked about a time beyond the end of every certificate, its error tells.
fn expiry(certificate: &CertificateDer<'_>) -> Option<u64> {
    let beyond = UnixTime::since_unix_epoch(Duration::from_secs(u64::MAX));
    let certificate = EndEntityCert::try_from(certificate).ok()?;
    let usage = KeyUsage::server_auth();
    match certificate.verify_for_usage(&[], &[], &[], beyond, usage, None, None) {
        Err(webpki::Error::CertExpired { not_after, .. }) => Some(not_after.as_secs()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use certs::{Authority, Certificate, Issued};
    use rustls::crypto::ring;

    use super::*;
    use crate::tls::certificate::tests::{P521, RSA1024};

    fn authority() -> Authority {
        Authority::new("test").unwrap()
    }

    fn issued(change: impl FnOnce(&mut Certificate)) -> Issued {
        let mut certificate = Certificate::of_service("service1", "mesh.local");
        change(&mut certificate);
        authority().issue(&certificate).unwrap()
    }

    /// Why these files are refused at this time, or the name in the certificate.
    fn checked_at(now: UnixTime, purpose: Purpose, files: &Files) -> String {
        let provider = ring::default_provider();
        let checked = CheckedFiles::check(files, Path::new("/certs"), purpose, &provider, now);
        match checked {
            Ok(checked) => checked.name,
            Err(error) => error.to_string(),
        }
    }

    fn files(issued: Issued, purpose: Purpose) -> Files {
        Files {
            certificate: issued.certificate.into_bytes(),
            key: issued.key.into_bytes(),
            authorities: (purpose == Purpose::Mesh).then(|| issued.authorities.into_bytes()),
        }
    }

    fn mesh(change: impl FnOnce(&mut Files)) -> String {
        let mut files = files(issued(|_| {}), Purpose::Mesh);
        change(&mut files);
        checked_at(UnixTime::now(), Purpose::Mesh, &files)
    }

    fn of(purpose: Purpose, change: impl FnOnce(&mut Certificate)) -> String {
        checked_at(UnixTime::now(), purpose, &files(issued(change), purpose))
    }

    #[track_caller]
    fn assert_says(text: &str, parts: &[&str]) {
        for part in parts {
            assert!(text.contains(part), "{part:?} in {text}");
        }
    }

    #[test]
    fn a_certificate_needs_a_name_of_any_kind() {
        let only_uri = |it: &mut Certificate| it.dns_names.clear();
        let only_address = |it: &mut Certificate| {
            (it.uris, it.dns_names) = (Vec::new(), Vec::new());
            it.addresses = vec!["127.0.0.1".parse().unwrap()];
        };
        let wildcard = |it: &mut Certificate| {
            (it.uris, it.dns_names) = (Vec::new(), vec!["*.localhost".into()]);
        };
        let none = |it: &mut Certificate| (it.uris, it.dns_names) = (Vec::new(), Vec::new());
        for purpose in [Purpose::Mesh, Purpose::Edge] {
            assert_eq!(of(purpose, only_uri), "spiffe://mesh.local/service1");
            assert_eq!(of(purpose, only_address), "127.0.0.1");
            assert_eq!(of(purpose, wildcard), "*.localhost");
            assert_says(&of(purpose, none), &["/certs/tls.crt: ", "subjectAltName"]);
        }
    }

    #[test]
    fn files_in_another_form_are_refused_with_the_way_out() {
        let mark = b"\xef\xbb\xbf";
        let bom = |file: &[u8]| [&mark[..], file].concat();
        let der = |pem: &[u8]| CertificateDer::from_pem_slice(pem).unwrap().to_vec();
        let half = |file: &mut Vec<u8>| file.truncate(file.len() / 2);
        for (said, parts) in [
            (
                mesh(|it| it.certificate = bom(&it.certificate)),
                ["tls.crt: it begins with a byte-order", "save it"],
            ),
            (
                mesh(|it| it.key = bom(&it.key)),
                ["tls.key: it begins with a byte-order", "save it"],
            ),
            (
                mesh(|it| it.authorities = it.authorities.as_deref().map(bom)),
                ["ca.crt: it begins with a byte-order", ""],
            ),
            (
                mesh(|it| it.certificate.clear()),
                ["tls.crt: it is empty", "write the certificate"],
            ),
            (
                mesh(|it| it.key = b" \n".to_vec()),
                ["tls.key: it is empty", "write the private key"],
            ),
            (
                mesh(|it| it.authorities = Some(Vec::new())),
                ["ca.crt: it is empty", ""],
            ),
            (
                mesh(|it| it.certificate = der(&it.certificate)),
                ["tls.crt: it is binary (DER)", "`openssl x509 -inform DER`"],
            ),
            (
                mesh(|it| it.key = vec![0x30, 0x81, 0x87, 2]),
                ["tls.key: it is binary (DER)", "`openssl pkey -inform DER`"],
            ),
            (
                mesh(|it| half(&mut it.certificate)),
                ["tls.crt: it is cut off", "again"],
            ),
            (
                mesh(|it| half(&mut it.key)),
                ["tls.key: it is cut off", "again"],
            ),
            (
                mesh(|it| it.key.clone_from(&it.certificate)),
                ["tls.key: it has no private key", ""],
            ),
            (
                mesh(|it| it.certificate.clone_from(&it.key)),
                ["tls.crt: it has no certificate", ""],
            ),
        ] {
            assert_says(&said, &parts);
        }
    }

    #[test]
    fn keys_that_can_t_be_used_are_refused_with_the_way_out() {
        let encrypt = |it: &mut Files| {
            let key = str::from_utf8(&it.key).unwrap();
            it.key = key
                .replace(" PRIVATE KEY", " ENCRYPTED PRIVATE KEY")
                .into_bytes();
        };
        assert_says(
            &mesh(encrypt),
            &["/certs/tls.key: it is encrypted", "`openssl pkey`"],
        );
        let older = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n";
        assert_says(
            &mesh(|it| it.key = older.into()),
            &["tls.key: it is encrypted"],
        );
        for (key, kind) in [
            (P521[0], "ECDSA on P-521"),
            (RSA1024[0], "RSA of 1024 bits"),
        ] {
            let said = mesh(|it| it.key = key.into());
            assert_says(
                &said,
                &["/certs/tls.key: ", kind, "make one of ECDSA on P-256"],
            );
        }
        let other = issued(|_| {}).key;
        let said = mesh(|it| it.key = other.into());
        assert_says(
            &said,
            &["/certs/tls.key: it does not belong to the first certificate in tls.crt"],
        );
    }

    #[test]
    fn a_certificate_that_no_peer_would_take_is_refused_with_the_way_out() {
        let only_server = |it: &mut Certificate| it.is_for_clients = false;
        let said = of(Purpose::Mesh, only_server);
        assert_says(
            &said,
            &[
                "/certs/tls.crt: ",
                "lacks clientAuth",
                "issue one with serverAuth and clientAuth",
            ],
        );
        assert_eq!(
            of(Purpose::Edge, only_server),
            "spiffe://mesh.local/service1"
        );

        for (name, part) in [
            ("other", "none of the authorities in ca.crt has issued"),
            ("test", "but its key has not signed"),
        ] {
            let foreign = Authority::new(name).unwrap().certificate().to_owned();
            let said = mesh(|it| it.authorities = Some(foreign.into()));
            assert_says(&said, &["/certs/tls.crt: ", part]);
        }

        let directory = tempfile::tempdir().unwrap();
        Authority::in_directory(directory.path()).unwrap();
        let read = |name| fs::read(directory.path().join(name)).unwrap();
        let said = mesh(|it| {
            (it.certificate, it.key, it.authorities) =
                (read("ca.crt"), read("ca.key"), Some(read("ca.crt")));
        });
        assert_says(
            &said,
            &[
                "/certs/tls.crt: the certificate is one of an authority",
                "issue one for the service",
            ],
        );
    }

    #[test]
    fn a_certificate_is_refused_before_its_time_and_after() {
        const DAY: u64 = 24 * 3_600;
        for purpose in [Purpose::Mesh, Purpose::Edge] {
            let files = files(issued(|_| {}), purpose);
            let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
            let now = UnixTime::now().as_secs();
            let late = checked_at(at(now + 2 * DAY), purpose, &files);
            assert_says(
                &late,
                &[
                    "/certs/tls.crt: the certificate has expired at 20",
                    "Z; issue a new one",
                ],
            );
            let early = checked_at(at(now - DAY), purpose, &files);
            assert_says(
                &early,
                &[
                    "/certs/tls.crt: the certificate is valid only from 20",
                    "set the clock",
                ],
            );
        }
    }
}
