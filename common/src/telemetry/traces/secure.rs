//! A collector with `https`: a client trusts the authorities of the system, or those of a file.

use std::{env, fs, path::PathBuf, sync::Arc};

use axum::BoxError;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring::default_provider,
    pki_types::{CertificateDer, pem::PemObject},
};

use super::settings::SecureEndpoint;

/// Where systems keep the certificates of public authorities.
const OF_SYSTEM: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt", // Debian, Alpine, Arch
    "/etc/pki/tls/certs/ca-bundle.crt",   // Fedora
    "/etc/ssl/ca-bundle.pem",             // openSUSE
    "/etc/ssl/cert.pem",                  // Alpine
];

/// The settings of a client that trusts them.
pub(crate) fn tls(endpoint: &SecureEndpoint) -> Result<ClientConfig, BoxError> {
    let file = authorities(endpoint)?;
    let fail = |why: String| {
        format!(
            "the certificates of authorities in {}: {why}",
            file.display()
        )
    };
    let bytes = fs::read(&file).map_err(|error| fail(error.to_string()))?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let certificates = certificates.map_err(|_| fail("it is not PEM".to_owned()))?;
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates); // a system may have one that is too old to be used
    if roots.is_empty() {
        return Err(fail("it has none that can be used".to_owned()).into());
    }
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()));
    let config = config.with_safe_default_protocol_versions()?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

fn authorities(endpoint: &SecureEndpoint) -> Result<PathBuf, BoxError> {
    let of_openssl = || env::var_os("SSL_CERT_FILE").filter(|file| !file.is_empty());
    let of_system = || {
        OF_SYSTEM
            .iter()
            .map(PathBuf::from)
            .find(|file| file.exists())
    };
    let file = endpoint.authorities.clone();
    let file = file.or_else(|| of_openssl().map(PathBuf::from));
    file.or_else(of_system).ok_or_else(|| {
        let what = "the collector has https, and this system has no certificates of authorities; set \
                    OTEL_EXPORTER_OTLP_CERTIFICATE to a file with those of the collector";
        what.into()
    })
}
