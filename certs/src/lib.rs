//! Certificates for development and tests: an authority, and what it issues. The program `certs`
//! writes them.

use std::{
    fs,
    io::{self, Write},
    net::IpAddr,
    os::unix::fs::{OpenOptionsExt, symlink},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use pki_types::{CertificateDer, TrustAnchor, pem::PemObject};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use time::OffsetDateTime;
use webpki::anchor_from_trusted_cert;

/// The name of the authority that the program writes.
const AUTHORITY: &str = "mesh development authority";

/// The time until an authority expires.
const AUTHORITY_TTL: Duration = Duration::from_hours(10 * 365 * 24);

/// Certificates are valid from a little before now, for machines whose clocks differ.
const SKEW: Duration = Duration::from_mins(1);

/// Why certificates can't be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file can't be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The authority of the directory is another one than `certs` writes.
    #[error(
        "{}: not an authority of `certs` with the key beside it; move both files away, or name \
         another directory",
        path.display()
    )]
    ForeignAuthority {
        /// Its certificate.
        path: PathBuf,
    },
    /// The certificate can't be made, such as for a name that is none.
    #[error("the certificate can't be made: {0}")]
    Certificate(#[from] rcgen::Error),
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    |source| Error::File { path, source }
}

/// A certificate authority.
pub struct Authority {
    name: String,
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate to issue.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// The URIs: a SPIFFE ID, or none. Tests have several, too.
    pub uris: Vec<String>,
    /// The DNS names.
    pub dns_names: Vec<String>,
    /// The IP addresses.
    pub addresses: Vec<IpAddr>,
    /// The time until it expires.
    pub ttl: Duration,
    /// Whether a client may show it, and not only a server.
    pub is_for_clients: bool,
    /// How long ago it was issued: longer than `ttl` makes an expired one, for tests.
    pub age: Duration,
}

impl Certificate {
    /// The certificate of a service, for a day.
    pub fn of_service(name: &str, trust_domain: &str) -> Self {
        Self {
            uris: vec![format!("spiffe://{trust_domain}/{name}")],
            dns_names: vec![name.to_owned(), "localhost".to_owned()],
            addresses: Vec::new(),
            ttl: Duration::from_hours(24),
            is_for_clients: true,
            age: Duration::ZERO,
        }
    }
}

/// The files of a service, in PEM.
#[derive(Debug, Clone)]
pub struct Issued {
    /// The certificate.
    pub certificate: String,
    /// Its private key.
    pub key: String,
    /// The authorities that its peers' certificates are verified against.
    pub authorities: String,
}

impl Authority {
    /// A new authority, in memory.
    ///
    /// # Errors
    ///
    /// If the system has no random numbers.
    pub fn new(name: &str) -> Result<Self, Error> {
        Self::with_key(name, KeyPair::generate()?)
    }

    fn with_key(name: &str, key: KeyPair) -> Result<Self, Error> {
        let mut parameters = parameters(name, AUTHORITY_TTL, Duration::ZERO)?;
        parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = parameters.self_signed(&key)?.pem();
        Ok(Self {
            name: name.to_owned(),
            certificate,
            issuer: Issuer::new(parameters, key),
        })
    }

    /// The authority in `ca.crt` and `ca.key` of a directory, which is made if it is not there.
    ///
    /// # Errors
    ///
    /// If a file can't be read or written, only one of them is there, or they are of another authority.
    pub fn in_directory(directory: &Path) -> Result<Self, Error> {
        let [certificate, key] = ["ca.crt", "ca.key"].map(|name| directory.join(name));
        fs::create_dir_all(directory).map_err(at(directory))?;
        if !certificate.exists() && !key.exists() {
            let authority = Self::new(AUTHORITY)?;
            write_new(&key, &authority.issuer.key().serialize_pem(), 0o600)?;
            write_new(&certificate, &authority.certificate, 0o644)?;
            return Ok(authority);
        }
        let pem = fs::read_to_string(&certificate).map_err(at(&certificate))?;
        let key = fs::read_to_string(&key).map_err(at(&key))?;
        let again = Self::with_key(AUTHORITY, KeyPair::from_pem(&key)?)?;
        if subject_and_key(&pem).is_none_or(|it| Some(it) != subject_and_key(&again.certificate)) {
            return Err(Error::ForeignAuthority { path: certificate });
        }
        Ok(Self {
            certificate: pem,
            ..again
        })
    }

    /// The same authority with another certificate: the name and the key stay.
    ///
    /// # Errors
    ///
    /// If its key can't be read.
    pub fn with_new_certificate(&self) -> Result<Self, Error> {
        let key = KeyPair::from_pem(&self.issuer.key().serialize_pem())?;
        Self::with_key(&self.name, key)
    }

    /// The certificate of the authority, in PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Issues a certificate for a server that is also a client.
    ///
    /// # Errors
    ///
    /// If a name is none.
    pub fn issue(&self, certificate: &Certificate) -> Result<Issued, Error> {
        let names = &certificate.dns_names;
        let common_name = names.first().map_or("mesh", String::as_str);
        let mut parameters = parameters(common_name, certificate.ttl, certificate.age)?;
        for name in names {
            let name = SanType::DnsName(name.as_str().try_into()?);
            parameters.subject_alt_names.push(name);
        }
        for uri in &certificate.uris {
            let uri = SanType::URI(uri.as_str().try_into()?);
            parameters.subject_alt_names.push(uri);
        }
        let addresses = certificate.addresses.iter().copied();
        let addresses = addresses.map(SanType::IpAddress);
        parameters.subject_alt_names.extend(addresses);
        parameters.use_authority_key_identifier_extension = true;
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        if certificate.is_for_clients {
            let client = ExtendedKeyUsagePurpose::ClientAuth;
            parameters.extended_key_usages.push(client);
        }
        let key = KeyPair::generate()?;
        Ok(Issued {
            certificate: parameters.signed_by(&key, &self.issuer)?.pem(),
            key: key.serialize_pem(),
            authorities: self.certificate.clone(),
        })
    }
}

/// The subject and the public key of an authority, if this is its certificate.
fn subject_and_key(pem: &str) -> Option<(Vec<u8>, Vec<u8>)> {
    let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
    let anchor: TrustAnchor<'_> = anchor_from_trusted_cert(&certificate).ok()?;
    Some((
        anchor.subject.to_vec(),
        anchor.subject_public_key_info.to_vec(),
    ))
}

/// The parameters of a certificate. Its key is ECDSA P-256, the default of rcgen.
fn parameters(name: &str, ttl: Duration, age: Duration) -> Result<CertificateParams, Error> {
    let mut parameters = CertificateParams::new(Vec::new())?;
    parameters.distinguished_name.push(DnType::CommonName, name);
    let issued = OffsetDateTime::from(SystemTime::now() - age);
    parameters.not_before = issued - SKEW;
    parameters.not_after = issued + ttl;
    Ok(parameters)
}

impl Issued {
    /// Writes `tls.crt`, `tls.key` and `ca.crt` into a directory, all at once for those who read
    /// them: the three are links through `..data`, which is swapped. The key is readable for its
    /// owner only.
    ///
    /// # Errors
    ///
    /// If a file can't be written.
    pub fn write(&self, directory: &Path) -> Result<(), Error> {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
        let version = format!("..{}", since_epoch.unwrap_or_default().as_nanos());
        let new = directory.join(&version);
        fs::create_dir_all(&new).map_err(at(&new))?;
        let files = [
            ("tls.crt", &self.certificate, 0o644),
            ("tls.key", &self.key, 0o600),
            ("ca.crt", &self.authorities, 0o644),
        ];
        for (name, pem, mode) in files {
            write_new(&new.join(name), pem, mode)?;
        }
        let (data, next) = (directory.join("..data"), directory.join("..next"));
        let before = fs::read_link(&data).ok();
        let _ = fs::remove_file(&next); // of a run that was cut off
        symlink(&version, &next).map_err(at(&next))?;
        fs::rename(&next, &data).map_err(at(&data))?;
        for (name, _, _) in files {
            let link = directory.join(name);
            if !link.is_symlink() {
                symlink(Path::new("..data").join(name), &link).map_err(at(&link))?;
            }
        }
        if let Some(before) = before {
            let before = directory.join(before);
            fs::remove_dir_all(&before).map_err(at(&before))?;
        }
        Ok(())
    }
}

/// Writes a file that is not there yet.
fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), Error> {
    let mut options = fs::OpenOptions::new();
    let file = options.write(true).create_new(true).mode(mode).open(path);
    let written = file.and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(at(path))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn an_authority_that_is_there_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let first = Authority::in_directory(directory.path()).unwrap();
        let second = Authority::in_directory(directory.path()).unwrap();
        assert_eq!(first.certificate(), second.certificate());
        fs::remove_file(directory.path().join("ca.crt")).unwrap();
        assert!(Authority::in_directory(directory.path()).is_err());
    }

    #[test]
    fn another_authority_is_refused_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name| directory.path().join(name);
        let refusal = || Authority::in_directory(directory.path()).err().unwrap();
        Authority::in_directory(directory.path()).unwrap();

        let other = Authority::with_key("theirs", KeyPair::generate().unwrap()).unwrap();
        fs::write(file("ca.crt"), other.certificate()).unwrap();
        assert!(refusal().to_string().contains("ca.crt: not an authority"));
        fs::write(file("ca.key"), other.issuer.key().serialize_pem()).unwrap();
        assert!(
            matches!(refusal(), Error::ForeignAuthority { .. }),
            "the name differs"
        );
        fs::write(file("ca.crt"), "no certificate").unwrap();
        assert!(matches!(refusal(), Error::ForeignAuthority { .. }));
    }

    #[test]
    fn files_are_swapped_and_keys_are_their_owner_s() {
        let directory = tempfile::tempdir().unwrap();
        let service = directory.path().join("orders");
        let authority = Authority::new("test").unwrap();
        let mut keys = Vec::new();
        for _ in 0..3 {
            let certificate = Certificate::of_service("orders", "mesh.local");
            authority
                .issue(&certificate)
                .unwrap()
                .write(&service)
                .unwrap();
            let key = service.join("tls.key");
            let mode = fs::metadata(&key).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            keys.push(fs::read(key).unwrap());
        }
        assert!(keys[0] != keys[1] && keys[1] != keys[2]);
        // The three links, `..data`, and the one directory that it names.
        assert_eq!(fs::read_dir(service).unwrap().count(), 5);
    }
}
