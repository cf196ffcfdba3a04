//! [`InvalidTls`]: why a directory can't be used, in a sentence that says what to do.

use std::{
    fmt,
    fs::FileType,
    io,
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use humantime::format_rfc3339_seconds;
use rustls::pki_types::UnixTime;

use super::directory::{AUTHORITIES, CERTIFICATE, MAX_FILE, READ_TIMEOUT};

/// Why a directory can't be used.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{}: {why}", path.display())]
pub struct InvalidTls {
    path: PathBuf,
    why: Why,
}

impl InvalidTls {
    pub(super) fn new(path: &Path, why: impl Into<Why>) -> Self {
        let (path, why) = (path.to_owned(), why.into());
        Self { path, why }
    }
}

/// A block of PEM that a file must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Block {
    Certificate,
    PrivateKey,
}

impl Block {
    /// The name, as openssl has it in its commands.
    fn command(self) -> &'static str {
        match self {
            Self::Certificate => "x509",
            Self::PrivateKey => "pkey",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::PrivateKey => "private key",
        }
    }
}

#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum Why {
    #[error("it can't be read: {error}{}", advice(error.kind()))]
    Unreadable { error: Arc<io::Error> },
    #[error("it is {0}; write a regular file")]
    NotRegular(&'static str),
    #[error(
        "it can't be read: nothing came within {} s; see whether its mount hangs",
        READ_TIMEOUT.as_secs()
    )]
    Blocked,
    #[error("it has more than {MAX_FILE} bytes; leave in it what belongs there")]
    TooLong,
    #[error("it is empty; write the {} into it, as PEM", .0.name())]
    Empty(Block),
    #[error(
        "it begins with a byte-order mark, which an editor has put there; save it as plain ASCII, without"
    )]
    ByteOrderMark,
    #[error(
        "it is binary (DER), not PEM; convert it with `openssl {} -inform DER`",
        .0.command()
    )]
    Der(Block),
    #[error("it has no {} as PEM; see that it is the right file, and whole", .0.name())]
    Missing(Block),
    #[error("it is cut off, or damaged; write the whole file again")]
    Damaged,
    #[error(
        "it is encrypted, and a service has nobody to ask for the passphrase; decrypt it with `openssl pkey`"
    )]
    Encrypted,
    #[error(
        "its kind of key is not supported: {0}; make one of ECDSA on P-256 or P-384, Ed25519, or RSA of \
         2048 to 4096 bits, and a certificate for it"
    )]
    UnsupportedKey(String),
    #[error(
        "it does not belong to the first certificate in {CERTIFICATE}; write the two that belong together, \
         and the certificate of the service before those of authorities"
    )]
    OtherKey,
    #[error(
        "a certificate in it can't be read ({0:?}); issue it again, as X.509 version 3, without critical \
         extensions that are not common"
    )]
    Unparsable(webpki::Error),
    #[error("an authority in it can't be read; write its certificate again, or leave it out")]
    BadAuthority,
    #[error("the certificate has expired at {}; issue a new one", date(*.0))]
    Expired(UnixTime),
    #[error(
        "the certificate is valid only from {}, and now it is {}; set the clock, or issue another one",
        date(*not_before),
        date(*now)
    )]
    NotYetValid { not_before: UnixTime, now: UnixTime },
    #[error("the certificate is not for {0}: its extended key usage lacks {1}; issue one with {2}")]
    Usage(&'static str, &'static str, &'static str),
    #[error(
        "the certificate is one of an authority (CA:TRUE); issue one for the service, with CA:FALSE"
    )]
    IsAuthority,
    #[error(
        "the certificate has no name that its clients could check: it needs a DNS name, exactly one URI or an \
         IP address as subjectAltName, which the common name does not replace"
    )]
    Nameless,
    #[error(
        "none of the authorities in {AUTHORITIES} has issued the certificate; add the one that has to \
         {AUTHORITIES}, and intermediate certificates to {CERTIFICATE}"
    )]
    UnknownIssuer,
    #[error(
        "an intermediate certificate in it has expired at {}; take the new one of the authority",
        date(*.0)
    )]
    IntermediateExpired(UnixTime),
    #[error(
        "an intermediate certificate in it is valid only from {}; set the clock, or take another one of the \
         authority",
        date(*.0)
    )]
    IntermediateNotYetValid(UnixTime),
    #[error(
        "an authority in {AUTHORITIES} has the name of the issuer, but its key has not signed the certificate, \
         or is RSA of less than 2048 bits; write the one that has issued it into {AUTHORITIES}"
    )]
    OtherAuthority,
    #[error(
        "the certificate, or an intermediate one, is signed in a way that is not supported, such as with SHA-1 \
         or by a key on P-521; issue one from an authority with ECDSA on P-256 or P-384, Ed25519, or RSA of \
         2048 bits or more, and SHA-256 or longer"
    )]
    UnsupportedSignature,
    #[error("the certificate does not verify against {AUTHORITIES}: {0:?}; issue another one")]
    Unverified(webpki::Error),
}

impl Why {
    pub(super) fn not_regular(kind: FileType) -> Self {
        Self::NotRegular(if kind.is_dir() {
            "a directory"
        } else if kind.is_fifo() {
            "a FIFO"
        } else {
            "no regular file"
        })
    }
}

impl From<io::Error> for Why {
    fn from(error: io::Error) -> Self {
        let error = error.into();
        Self::Unreadable { error }
    }
}

/// What to do about a file that can't be read.
fn advice(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::NotFound => "; write it, or name another directory",
        io::ErrorKind::PermissionDenied => "; let the user of the service read it",
        _ => "",
    }
}

/// A time, as `2026-01-31T00:00:00Z`.
fn date(time: UnixTime) -> impl fmt::Display {
    // Later years are no dates to humantime.
    let seconds = time.as_secs().min(LAST_DATE);
    format_rfc3339_seconds(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

/// The last second of the year 9999.
const LAST_DATE: u64 = 253_402_300_799;
