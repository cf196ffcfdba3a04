//! [`ExpectedPeer`]: verifies that a server is the peer that a channel expects.

use std::{
    io,
    sync::{Arc, LazyLock},
};

use rustls::{
    CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};

use super::{certificate::CertificateNames, identity::SpiffeId};

/// The signatures that are verified, on certificates and in handshakes.
static ALGORITHMS: LazyLock<WebPkiSupportedAlgorithms> =
    LazyLock::new(|| ring::default_provider().signature_verification_algorithms);

/// Takes the certificate that an authority has issued to one peer, by its only URI. DNS names and addresses
/// are not asked.
#[derive(Debug)]
pub(super) struct ExpectedPeer {
    id: SpiffeId,
    roots: Arc<RootCertStore>,
}

impl ExpectedPeer {
    pub(super) fn new(id: SpiffeId, roots: Arc<RootCertStore>) -> Self {
        Self { id, roots }
    }
}

/// The certificate is another one's.
#[derive(Debug, thiserror::Error)]
#[error("the channel expects {expected}, and the certificate is of {found}")]
struct AnotherPeer {
    expected: SpiffeId,
    found: String,
}

/// Says in plain words that the certificate is another one's: rustls shows an error of a verifier as it is
/// debugged.
pub(super) fn in_words(error: io::Error) -> io::Error {
    let of_rustls = error.get_ref().and_then(|error| error.downcast_ref());
    match of_rustls {
        Some(Error::InvalidCertificate(CertificateError::Other(OtherError(error)))) => {
            io::Error::other(error.to_string())
        }
        _ => error,
    }
}

impl ServerCertVerifier for ExpectedPeer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(
            &certificate,
            &self.roots,
            intermediates,
            now,
            ALGORITHMS.all,
        )?;
        let names = CertificateNames::of(end_entity);
        if names.uri() == Some(self.id.as_str()) {
            return Ok(ServerCertVerified::assertion());
        }
        let error = AnotherPeer {
            expected: self.id.clone(),
            found: match (names.uri(), names.uris()) {
                (Some(uri), _) => uri.to_owned(),
                (None, 0) => "no URI".to_owned(),
                (None, 1) => "a URI that is too long".to_owned(),
                (None, several) => format!("{several} URIs"),
            },
        };
        let error = OtherError(Arc::new(error));
        Err(CertificateError::Other(error).into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &ALGORITHMS)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &ALGORITHMS)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ALGORITHMS.supported_schemes()
    }
}
