//! Certificates for the pair, and TLS clients that show others.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use certs::{Authority, Certificate, Issued};
use rustls::{
    ClientConfig, HandshakeKind, RootCertStore, SupportedProtocolVersion,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime,
};
use tokio_rustls::TlsConnector;

use crate::frame;

/// An authority, and the directories of the services that it issues certificates to.
pub struct Certificates {
    /// The authority.
    pub authority: Authority,
    root: TempDir,
}

impl Certificates {
    /// A new authority, with a directory for each of the pair.
    ///
    /// # Panics
    ///
    /// When a file can't be written.
    pub fn new() -> Self {
        let new = Self {
            authority: authority(),
            root: tempfile::tempdir().expect("a directory"),
        };
        for service in ["service1", "service2"] {
            new.renew(service);
        }
        new
    }

    /// The directory that holds those of the services.
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// The directory of a service.
    ///
    /// # Panics
    ///
    /// When it is not UTF-8.
    pub fn directory(&self, service: &str) -> String {
        let directory = self.path(service).into_os_string();
        directory.into_string().expect("it is UTF-8")
    }

    fn path(&self, service: &str) -> PathBuf {
        self.root.path().join(service)
    }

    /// Gives a service a new certificate.
    pub fn renew(&self, service: &str) {
        self.write(service, &issue(&self.authority, &of_service(service)));
    }

    /// Gives a service these files, swapped as Kubernetes does it.
    ///
    /// # Panics
    ///
    /// When a file can't be written.
    pub fn write(&self, service: &str, issued: &Issued) {
        issued
            .write(&self.path(service))
            .expect("it can be written");
    }
}

impl Default for Certificates {
    fn default() -> Self {
        Self::new()
    }
}

/// A new authority.
///
/// # Panics
///
/// When the system has no random numbers.
pub fn authority() -> Authority {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let name = format!("authority {}", NUMBER.fetch_add(1, Ordering::Relaxed));
    Authority::new(&name).expect("an authority")
}

/// What the certificate of a service says.
pub fn of_service(service: &str) -> Certificate {
    Certificate::of_service(service, "mesh.local")
}

/// Issues a certificate.
///
/// # Panics
///
/// When it has a name that is none.
pub fn issue(authority: &Authority, certificate: &Certificate) -> Issued {
    authority.issue(certificate).expect("its names are valid")
}

/// A TLS client.
pub struct Client(TlsConnector);

impl Client {
    /// A client that trusts this authority, shows a certificate or none, and speaks this version.
    ///
    /// # Panics
    ///
    /// When the certificates are invalid.
    pub fn new(
        authority: &str,
        own: Option<&Issued>,
        version: &'static SupportedProtocolVersion,
    ) -> Self {
        let mut roots = RootCertStore::empty();
        let authority = CertificateDer::from_pem_slice(authority.as_bytes());
        roots.add(authority.expect("PEM")).expect("an authority");
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[version])
            .expect("ring supports it")
            .with_root_certificates(roots);
        let mut config = match own {
            None => builder.with_no_client_auth(),
            Some(own) => {
                let certificate = CertificateDer::from_pem_slice(own.certificate.as_bytes());
                let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).expect("PEM");
                let chain = vec![certificate.expect("PEM")];
                builder.with_client_auth_cert(chain, key).expect("its key")
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Self(TlsConnector::from(Arc::new(config)))
    }

    /// Connects as to `localhost`, and greets in HTTP/2. Returns how the handshake went, once there
    /// is a response: with TLS 1.3, a client learns only then whether its certificate was taken.
    ///
    /// # Errors
    ///
    /// If the server refuses the client.
    ///
    /// # Panics
    ///
    /// When there is no runtime to be had.
    pub fn greet(&self, server: SocketAddr) -> io::Result<HandshakeKind> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let name = ServerName::try_from("localhost").expect("a name");
            let socket = TcpStream::connect(server).await?;
            let mut stream = self.0.connect(name, socket).await?;
            stream.write_all(&frame::hello()).await?;
            stream.read_u8().await?;
            let kind = stream.get_ref().1.handshake_kind();
            Ok(kind.expect("it is complete"))
        })
    }
}
