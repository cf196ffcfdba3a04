//! [`LoadedTls`]: the settings for rustls, from one reading of the directory.

use std::{io, path::Path, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore, ServerConfig, ServerConnection,
    client::Resumption,
    crypto::{CryptoProvider, ring},
    pki_types::{ServerName, UnixTime},
    server::{NoServerSessionStorage, WebPkiClientVerifier},
    sign::SingleCertAndKey,
    version::{TLS12, TLS13},
};
use tokio::io::{AsyncRead, AsyncWrite, BufReader};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    directory::Purpose,
    files::Files,
    identity::{AllowedPeers, Peer, TrustVersion},
    invalid::InvalidTls,
    material::CheckedFiles,
};
use crate::limits;

/// The protocols that a mesh port and its clients speak (RFC 7301).
const MESH_PROTOCOLS: &[&[u8]] = &[b"h2"];
/// The protocols of the edge, the preferred first.
const EDGE_PROTOCOLS: &[&[u8]] = &[b"h2", b"http/1.1"];

/// The certificates of one reading, ready for use.
pub(crate) struct LoadedTls {
    pub(crate) trust: TrustVersion,
    pub(crate) server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    roots: Arc<RootCertStore>,
    /// What the certificate calls the service.
    pub(super) name: String,
    /// For each file with certificates, when the first of them expires, in seconds since the epoch.
    pub(super) expiries: Vec<(&'static str, u64)>,
}

impl LoadedTls {
    /// Loads these files, in place of those of `before`.
    pub(super) fn new(
        files: &Files,
        directory: &Path,
        purpose: Purpose,
        before: Option<&Self>,
    ) -> Result<Self, InvalidTls> {
        let provider = Arc::new(ring::default_provider());
        let material = CheckedFiles::check(files, directory, purpose, &provider, UnixTime::now())?;
        let trust = match before {
            None => TrustVersion(0),
            // Whom the former authorities have vouched for is still trusted.
            Some(before) if before.is_within(&material.roots) => before.trust,
            Some(before) => TrustVersion(before.trust.0 + 1),
        };
        Ok(Self {
            trust,
            server: Arc::new(server(&material, purpose, &provider)),
            client: Arc::new(client(&material, provider)),
            roots: material.roots,
            name: material.name,
            expiries: material.expiries,
        })
    }

    /// Whether all authorities of this reading are among these: by name and key, as a certificate is
    /// verified. So a new certificate of the same authority is no change.
    fn is_within(&self, roots: &RootCertStore) -> bool {
        let mut own = self.roots.roots.iter();
        own.all(|authority| roots.roots.contains(authority))
    }

    /// The peer that has opened a connection, or `None` if it showed no certificate.
    pub(crate) fn peer(
        &self,
        connection: &ServerConnection,
        allowed: Option<&AllowedPeers>,
    ) -> Option<Peer> {
        let certificate = connection.peer_certificates()?.first()?;
        Some(Peer::new(certificate, allowed, self.trust))
    }

    /// Opens TLS as a client, to the service of this name.
    pub(crate) async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        socket: S,
        host: &str,
    ) -> io::Result<TlsStream<BufReader<S>>> {
        let host = host.trim_start_matches('[').trim_end_matches(']'); // of an IPv6 address
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let connector = TlsConnector::from(self.client.clone());
        let socket = BufReader::with_capacity(limits::TLS_READ_BUFFER, socket);
        connector.connect(name, socket).await
    }
}

/// Whether TLS failed because the certificate of the peer is for another name.
pub(crate) fn is_of_other_name(error: &io::Error) -> bool {
    use rustls::{
        CertificateError::{NotValidForName, NotValidForNameContext},
        Error::InvalidCertificate,
    };
    let error = error.get_ref().and_then(|error| error.downcast_ref());
    matches!(
        error,
        Some(InvalidCertificate(
            NotValidForName | NotValidForNameContext { .. }
        ))
    )
}

const SUPPORTED: &str = "ring supports all versions";

fn server(
    material: &CheckedFiles,
    purpose: Purpose,
    provider: &Arc<CryptoProvider>,
) -> ServerConfig {
    let versions = match purpose {
        Purpose::Mesh => &[&TLS13][..],
        Purpose::Edge => &[&TLS13, &TLS12],
    };
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions)
        .expect(SUPPORTED);
    let own = Arc::new(SingleCertAndKey::from(material.own.clone()));
    match purpose {
        Purpose::Mesh => {
            let roots = material.roots.clone();
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone());
            let verifier = verifier.build().expect("there are authorities");
            let mut config = builder
                .with_client_cert_verifier(verifier)
                .with_cert_resolver(own);
            // rustls does not verify the client of a resumed session again.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
            config.alpn_protocols = owned(MESH_PROTOCOLS);
            config
        }
        Purpose::Edge => {
            let mut config = builder.with_no_client_auth().with_cert_resolver(own);
            if let Ok(ticketer) = ring::Ticketer::new() {
                config.ticketer = ticketer;
            }
            config.ignore_client_order = true; // all ciphers are strong; testssl.sh wants an order
            config.alpn_protocols = owned(EDGE_PROTOCOLS);
            config
        }
    }
}

fn client(material: &CheckedFiles, provider: Arc<CryptoProvider>) -> ClientConfig {
    let own = Arc::new(SingleCertAndKey::from(material.own.clone()));
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .expect(SUPPORTED)
        .with_root_certificates(material.roots.clone())
        .with_client_cert_resolver(own);
    config.resumption = Resumption::disabled();
    config.alpn_protocols = owned(MESH_PROTOCOLS);
    config
}

fn owned(protocols: &[&[u8]]) -> Vec<Vec<u8>> {
    protocols.iter().map(|name| name.to_vec()).collect()
}

#[cfg(test)]
mod tests {
    use certs::{Authority, Certificate};

    use super::*;

    /// The generation of a directory with these authorities, the first of which is the issuer.
    fn generation(authorities: &[&Authority], before: Option<&LoadedTls>) -> LoadedTls {
        let own = Certificate::of_service("service1", "mesh.local");
        let mut issued = authorities[0].issue(&own).unwrap();
        let all = authorities.iter().map(|authority| authority.certificate());
        issued.authorities = all.collect();
        let directory = tempfile::tempdir().unwrap();
        issued.write(directory.path()).unwrap();
        let files = Files::read(directory.path(), Purpose::Mesh).unwrap();
        LoadedTls::new(&files, directory.path(), Purpose::Mesh, before).unwrap()
    }

    #[test]
    fn only_an_authority_that_leaves_ends_the_trust_in_its_peers() {
        let [old, new] = ["old", "new"].map(|name| Authority::new(name).unwrap());
        let first = generation(&[&old], None);
        let both = generation(&[&new, &old], Some(&first));
        assert_eq!(both.trust, first.trust, "it trusts whom the first trusted");
        let renewed = generation(&[&old, &new], Some(&both));
        assert_eq!(renewed.trust, first.trust, "their order does not matter");
        let again = generation(&[&old.with_new_certificate().unwrap(), &new], Some(&both));
        assert_eq!(again.trust, first.trust, "its key is the same");
        let last = generation(&[&new], Some(&both));
        assert!(
            last.trust > first.trust,
            "peers of the old one are not trusted"
        );
    }
}
