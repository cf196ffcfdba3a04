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
use tokio::io::BufReader;
use tokio_rustls::{TlsConnector, TlsStream};

use super::{
    directory::Purpose,
    expected_peer::{ExpectedPeer, in_words},
    files::Files,
    identity::{AllowedPeers, Peer, SpiffeId, TrustVersion},
    invalid::InvalidTls,
    material::CheckedFiles,
};
use crate::{limits, transport::Transport};

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
    /// Loads these files, in place of those of `before`, if they are valid at this time.
    pub(super) fn new(
        files: &Files,
        directory: &Path,
        purpose: Purpose,
        before: Option<&Self>,
        now: UnixTime,
    ) -> Result<Self, InvalidTls> {
        let provider = Arc::new(ring::default_provider());
        let material = CheckedFiles::check(files, directory, purpose, &provider, now)?;
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

    /// Opens TLS as a client, to the service of this name. If a peer is `expected`, the certificate of the
    /// service must be that of the peer, whatever the name.
    pub(crate) async fn connect(
        &self,
        socket: Transport,
        host: &str,
        expected: Option<&SpiffeId>,
    ) -> io::Result<Transport> {
        let host = host.trim_start_matches('[').trim_end_matches(']'); // of an IPv6 address
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let connector = TlsConnector::from(self.client_that_expects(expected));
        let socket = BufReader::with_capacity(limits::TLS_READ_BUFFER, socket);
        let stream = connector.connect(name, socket).await.map_err(in_words)?;
        Ok(Transport::tls(TlsStream::Client(stream)))
    }

    fn client_that_expects(&self, expected: Option<&SpiffeId>) -> Arc<ClientConfig> {
        let Some(expected) = expected else {
            return self.client.clone();
        };
        let mut client = ClientConfig::clone(&self.client);
        let verifier = ExpectedPeer::new(expected.clone(), self.roots.clone());
        client
            .dangerous()
            .set_certificate_verifier(Arc::new(verifier));
        // A resumed session is not verified again: it must not come from a channel that expects another peer.
        client.resumption = Resumption::disabled();
        Arc::new(client)
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
    use std::time::Duration;

    use certs::{Authority, Certificate};
    use rustls::HandshakeKind;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_rustls::TlsAcceptor;

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
        let now = UnixTime::now();
        LoadedTls::new(&files, directory.path(), Purpose::Mesh, before, now).unwrap()
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

    /// The generation of a directory with a certificate of this authority.
    fn of(authority: &Authority, change: impl FnOnce(&mut Certificate)) -> LoadedTls {
        let mut own = Certificate::of_service("service1", "mesh.local");
        change(&mut own);
        let directory = tempfile::tempdir().unwrap();
        let issued = authority.issue(&own).unwrap();
        issued.write(directory.path()).unwrap();
        let files = Files::read(directory.path(), Purpose::Mesh).unwrap();
        // As it was loaded while it was valid.
        let now = UnixTime::now().as_secs() - own.age.as_secs();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(now));
        LoadedTls::new(&files, directory.path(), Purpose::Mesh, None, now).unwrap()
    }

    /// Whether a client takes a server under a name that is not in its certificate, or why not.
    async fn calls(
        client: &LoadedTls,
        server: &LoadedTls,
        expected: Option<&str>,
    ) -> Result<HandshakeKind, String> {
        let expected: Option<SpiffeId> = expected.map(|id| id.parse().unwrap());
        let (near, far) = tokio::io::duplex(64 * 1_024);
        let acceptor = TlsAcceptor::from(server.server.clone());
        let (connected, accepted) = tokio::join!(
            client.connect(
                Transport::of(near),
                "10-0-0-7.nodes.example",
                expected.as_ref()
            ),
            acceptor.accept(far),
        );
        let mut connected = connected.map_err(|error| error.to_string())?;
        // Tickets for the session come before the first byte.
        let mut accepted = accepted.unwrap();
        accepted.write_all(b"x").await.unwrap();
        accepted.flush().await.unwrap();
        connected.read_u8().await.unwrap();
        let Transport::Tls(tls) = connected else {
            panic!("it has TLS");
        };
        let kind = tls.get_ref().1.handshake_kind();
        Ok(kind.expect("it is complete"))
    }

    const SERVICE1: &str = "spiffe://mesh.local/service1";
    const ORDERS: &str = "spiffe://mesh.local/orders";

    #[tokio::test]
    async fn a_server_is_taken_for_the_one_uri_that_is_expected_or_for_its_name() {
        let authority = Authority::new("test").unwrap();
        let client = of(&authority, |_| {});
        let only_uri = of(&authority, |it| it.dns_names.clear());
        let refused = calls(&client, &only_uri, None).await.unwrap_err();
        assert!(refused.contains("not valid for name"), "{refused}");
        assert!(calls(&client, &only_uri, Some(SERVICE1)).await.is_ok());

        let two = of(&authority, |it| it.uris.push(ORDERS.into()));
        let none = of(&authority, |it| it.uris.clear());
        for (server, expected, found) in [
            (
                &only_uri,
                ORDERS,
                format!("expects {ORDERS}, and the certificate is of {SERVICE1}"),
            ),
            (
                &only_uri,
                "spiffe://mesh.local/service11",
                format!("is of {SERVICE1}"),
            ),
            (&two, SERVICE1, "is of 2 URIs".into()),
            (&two, ORDERS, "is of 2 URIs".into()),
            (&none, SERVICE1, "is of no URI".into()),
        ] {
            let refused = calls(&client, server, Some(expected)).await.unwrap_err();
            assert!(refused.contains(&found), "{refused}");
        }

        let foreign = of(&Authority::new("other").unwrap(), |_| {});
        let refused = calls(&client, &foreign, Some(SERVICE1)).await.unwrap_err();
        assert!(refused.contains("UnknownIssuer"), "{refused}");
        let expired = of(&authority, |it| it.age = it.ttl + Duration::from_hours(1));
        let refused = calls(&client, &expired, Some(SERVICE1)).await.unwrap_err();
        assert!(refused.contains("certificate expired"), "{refused}");
    }

    #[tokio::test]
    async fn no_session_of_a_channel_serves_another_one() {
        let authority = Authority::new("test").unwrap();
        let client = of(&authority, |_| {});
        let mut server = of(&authority, |it| {
            it.dns_names = vec!["10-0-0-7.nodes.example".into()];
        });
        // A server that would resume sessions.
        let config = Arc::get_mut(&mut server.server).unwrap();
        config.session_storage = rustls::server::ServerSessionMemoryCache::new(16);
        config.send_tls13_tickets = 2;
        for _ in 0..2 {
            for expected in [None, None, Some(SERVICE1), Some(SERVICE1)] {
                let kind = calls(&client, &server, expected).await;
                assert_eq!(kind, Ok(HandshakeKind::Full), "{expected:?}");
            }
            assert!(calls(&client, &server, Some(ORDERS)).await.is_err());
        }
    }
}
