//! A collector with `https`: clients that trust the authorities of the system, or those of a file.

use std::{env, fs, path::PathBuf, sync::Arc, time::Duration};

use axum::BoxError;
use http::{Uri, uri::Scheme};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, builderstates::WantsProtocols1};
use hyper_util::client::legacy::connect::HttpConnector;
use opentelemetry_http::hyper::HyperClient;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring::default_provider,
    pki_types::{CertificateDer, pem::PemObject},
};
use tonic::transport::{Channel, Endpoint};
use tower::ServiceExt;

use super::settings::SecureEndpoint;

/// Where systems keep the certificates of public authorities.
const OF_SYSTEM: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt", // Debian, Alpine, Arch
    "/etc/pki/tls/certs/ca-bundle.crt",   // Fedora
    "/etc/ssl/ca-bundle.pem",             // openSUSE
    "/etc/ssl/cert.pem",                  // Alpine
];

/// A client for OTLP over HTTP.
pub(crate) fn http_client(
    endpoint: &SecureEndpoint,
    timeout: Duration,
) -> Result<HyperClient<HttpsConnector<HttpConnector>>, BoxError> {
    let connector = connector(endpoint)?.enable_http1().build();
    Ok(HyperClient::new(connector, timeout, None))
}

/// A channel for OTLP over gRPC.
pub(crate) fn channel(endpoint: &SecureEndpoint) -> Result<Channel, BoxError> {
    let uri: Uri = endpoint.uri.parse()?;
    let mut parts = uri.clone().into_parts();
    parts.scheme = Some(Scheme::HTTP); // else tonic would begin TLS, too, if it could
    let plain = Endpoint::from(Uri::from_parts(parts)?).origin(uri.clone());
    let connector = connector(endpoint)?.enable_http2().build();
    let connector = connector.map_request(move |_: Uri| uri.clone());
    Ok(plain.connect_with_connector_lazy(connector))
}

fn connector(
    endpoint: &SecureEndpoint,
) -> Result<HttpsConnectorBuilder<WantsProtocols1>, BoxError> {
    let builder = HttpsConnectorBuilder::new().with_tls_config(tls(endpoint)?);
    Ok(builder.https_only())
}

fn tls(endpoint: &SecureEndpoint) -> Result<ClientConfig, BoxError> {
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
