//! [`Tls`]: the certificates of a directory, and the thread that looks for new files.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use rustls::pki_types::UnixTime;
use tokio::sync::watch;
use tracing::{info, warn};

use super::{
    directory::Purpose,
    files::{FileReader, Files},
    generation::LoadedTls,
    identity::TrustVersion,
    invalid::InvalidTls,
};
use crate::{
    limits,
    sync::lock,
    telemetry::metrics::{self, CertificateFacts},
};

/// The interval of looks for new files: certificates are renewed hours before they expire.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// The certificates of a directory with `tls.crt`, `tls.key` and, for a mesh, `ca.crt`: the layout of a
/// TLS secret of Kubernetes. Clones share their state.
///
/// A thread looks for new files every 5 s. Files that pass all checks are used for all further
/// connections. Files that do not are reported once, and the last good ones stay. When an authority
/// leaves `ca.crt`, the connections of the peers that it has vouched for drain within 10 s.
///
/// ```
/// use common::tls::Tls;
///
/// let error = Tls::mesh("/nowhere").unwrap_err();
/// assert!(error.to_string().starts_with("/nowhere: it can't be read"));
/// ```
#[derive(Clone)]
pub struct Tls(Arc<Shared>);

struct Shared {
    directory: PathBuf,
    purpose: Purpose,
    current: watch::Sender<Arc<LoadedTls>>,
    /// When all files were read for the last time, in seconds since the epoch.
    looked: AtomicU64,
}

impl fmt::Debug for Tls {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut tuple = formatter.debug_tuple("Tls");
        tuple.field(&self.0.directory).finish_non_exhaustive()
    }
}

impl Tls {
    /// For calls between services: mutual TLS 1.3. Both sides verify the other's certificate
    /// against `ca.crt`.
    ///
    /// # Errors
    ///
    /// If a file can't be read within 5 s, the key does not fit the certificate, or the certificate has
    /// expired, has no name, or does not verify against `ca.crt` as a server and as a client.
    pub fn mesh(directory: impl AsRef<Path>) -> Result<Self, InvalidTls> {
        Self::open(directory.as_ref(), Purpose::Mesh)
    }

    /// For HTTP from outside: TLS 1.2 and 1.3 with a server certificate only. `ca.crt` is not read.
    ///
    /// # Errors
    ///
    /// As [`mesh`](Self::mesh), but the certificate need not be one of a client, nor verify.
    pub fn edge(directory: impl AsRef<Path>) -> Result<Self, InvalidTls> {
        Self::open(directory.as_ref(), Purpose::Edge)
    }

    fn open(directory: &Path, purpose: Purpose) -> Result<Self, InvalidTls> {
        let mut reader = FileReader::new(directory, purpose);
        let files = reader.read()?;
        let generation = LoadedTls::new(&files, directory, purpose, None, UnixTime::now())?;
        let shared = Arc::new(Shared {
            directory: directory.to_owned(),
            purpose,
            current: watch::Sender::new(Arc::new(generation)),
            looked: AtomicU64::new(UnixTime::now().as_secs()),
        });
        let weak = Arc::downgrade(&shared);
        lock(&ALL).push(weak.clone());
        metrics::read_certificates_with(facts);
        let name = format!("{}-tls", purpose.name());
        let look = move || look_for_changes(&weak, reader, files);
        let started = thread::Builder::new().name(name).spawn(look);
        started.expect("a thread can start, as those of the workers can");
        Ok(Self(shared))
    }

    /// The newest certificates that have passed all checks.
    pub(crate) fn current(&self) -> Arc<LoadedTls> {
        self.0.current.borrow().clone()
    }

    /// Completes when an authority of `trust` is no longer trusted.
    pub(crate) async fn outdates(&self, trust: TrustVersion) {
        let mut current = self.0.current.subscribe();
        let newer = current.wait_for(|generation| generation.trust != trust);
        drop(newer.await.expect("self has the sender"));
    }
}

/// A random delay before a connection drains whose peer a former authority has vouched for, so that
/// not all such peers reconnect at once.
pub(crate) fn time_to_drain() -> Duration {
    limits::DRAIN_OUTDATED.mul_f64(fastrand::f64())
}

static ALL: Mutex<Vec<Weak<Shared>>> = Mutex::new(Vec::new());

/// What operators see of each directory.
pub(crate) fn facts() -> Vec<CertificateFacts> {
    let mut all = lock(&ALL);
    all.retain(|one| one.strong_count() > 0);
    let all = all.iter().filter_map(Weak::upgrade);
    all.map(|one| CertificateFacts {
        directory: one.purpose.name(),
        expiries: one.current.borrow().expiries.clone(),
        looked: one.looked.load(Relaxed),
    })
    .collect()
}

/// Looks for new files until the last [`Tls`] is dropped. Files that fail are tried again each time:
/// a certificate may become valid only later.
fn look_for_changes(shared: &Weak<Shared>, mut reader: FileReader, mut used: Files) {
    let mut is_reported = false;
    loop {
        thread::sleep(LOOK_INTERVAL);
        let Some(shared) = shared.upgrade() else {
            return;
        };
        match shared.look(&mut reader, &used) {
            Ok(None) => is_reported = false,
            Ok(Some((files, generation))) => {
                (used, is_reported) = (files, false);
                metrics::count(|counters| &counters.certificate_reloads);
                let expires = generation.expiries.first().map(|(_, expires)| expires);
                info!(
                    action = "certificates",
                    status = "success",
                    directory = %shared.directory.display(),
                    name = generation.name,
                    expires,
                    "there are new certificates, for all further connections"
                );
                shared.current.send_replace(Arc::new(generation));
            }
            Err(_) if is_reported => {}
            Err(error) => {
                is_reported = true;
                metrics::count(|counters| &counters.certificate_reload_failures);
                warn!(
                    action = "certificates",
                    status = "failure",
                    directory = %shared.directory.display(),
                    %error,
                    "the new certificates can't be used; the last good ones stay"
                );
            }
        }
    }
}

impl Shared {
    /// Reads the files, and loads them unless they are those in use.
    fn look(
        &self,
        reader: &mut FileReader,
        used: &Files,
    ) -> Result<Option<(Files, LoadedTls)>, InvalidTls> {
        let files = reader.read()?;
        self.looked.store(UnixTime::now().as_secs(), Relaxed);
        if files == *used {
            return Ok(None);
        }
        let before = self.current.borrow().clone();
        let next = LoadedTls::new(
            &files,
            &self.directory,
            self.purpose,
            Some(&before),
            UnixTime::now(),
        )?;
        Ok(Some((files, next)))
    }
}
