//! [`Files`]: the files of a directory, read at one moment; and [`FileReader`], which a file that blocks does
//! not stop.

use std::{
    fs::{self, OpenOptions},
    io::Read,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::mpsc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::fs::OFlags;

use super::{
    directory::{AUTHORITIES, CERTIFICATE, KEY, MAX_FILE, Purpose, READ_TIMEOUT},
    invalid::{InvalidTls, Why},
};
use crate::backoff::Backoff;

/// The pauses between attempts to read from a mount that hangs: each attempt leaves a thread behind, and
/// only a later one sees another mount in its place.
const PAUSES: Backoff = Backoff {
    base: Duration::from_secs(10),
    factor: 2.0,
    limit: Duration::from_hours(1),
    jitter: 0.0,
};

/// The most threads of a directory that wait for a mount that hangs.
const MAX_WAITING: usize = 32;

/// The files of a directory.
#[derive(PartialEq, Eq)]
pub(super) struct Files {
    pub(super) certificate: Vec<u8>,
    pub(super) key: Vec<u8>,
    /// Of a mesh only.
    pub(super) authorities: Option<Vec<u8>>,
}

impl Files {
    /// Reads the files. Kubernetes replaces all of them at once: it swaps the link `..data` to a
    /// directory. So the link is resolved once, before the first file is read.
    pub(super) fn read(directory: &Path, purpose: Purpose) -> Result<Self, InvalidTls> {
        let linked = directory.join("..data");
        let found = fs::canonicalize(&linked).or_else(|_| fs::canonicalize(directory));
        let found = found.map_err(|error| InvalidTls::new(directory, error))?;
        let read = |name: &str| {
            let read = read_file(&found.join(name));
            read.map_err(|why| InvalidTls::new(&directory.join(name), why))
        };
        Ok(Self {
            certificate: read(CERTIFICATE)?,
            key: read(KEY)?,
            authorities: match purpose {
                Purpose::Mesh => Some(read(AUTHORITIES)?),
                Purpose::Edge => None,
            },
        })
    }
}

/// Reads a regular file. Opening another one may block, such as a FIFO that nobody writes to.
fn read_file(path: &Path) -> Result<Vec<u8>, Why> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let flags = flags.bits().cast_signed();
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)?;
    let kind = file.metadata()?.file_type();
    if !kind.is_file() {
        return Err(Why::not_regular(kind));
    }
    let mut bytes = Vec::new();
    let length = file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if length as u64 > MAX_FILE {
        return Err(Why::TooLong);
    }
    Ok(bytes)
}

/// Reads the files of a directory within [`READ_TIMEOUT`], each time on another thread: one that a mount hangs
/// is left behind, until the mount responds.
pub(super) struct FileReader {
    directory: PathBuf,
    purpose: Purpose,
    waiting: Vec<JoinHandle<()>>,
    /// When the next attempt may begin, while threads wait.
    next: Instant,
}

impl FileReader {
    pub(super) fn new(directory: &Path, purpose: Purpose) -> Self {
        Self {
            directory: directory.to_owned(),
            purpose,
            waiting: Vec::new(),
            next: Instant::now(),
        }
    }

    pub(super) fn read(&mut self) -> Result<Files, InvalidTls> {
        let (directory, purpose) = (self.directory.clone(), self.purpose);
        let read = move || {
            // Again, if the files were swapped and the old ones removed meanwhile.
            Files::read(&directory, purpose).or_else(|_| Files::read(&directory, purpose))
        };
        let found = self.run(read, READ_TIMEOUT);
        found.map_err(|why| InvalidTls::new(&self.directory, why))?
    }

    /// Runs `read` on another thread, and returns what it returns in time.
    fn run<T: Send + 'static>(
        &mut self,
        read: impl FnOnce() -> T + Send + 'static,
        limit: Duration,
    ) -> Result<T, Why> {
        self.waiting.retain(|thread| !thread.is_finished());
        let waiting = self.waiting.len();
        if waiting >= MAX_WAITING || (waiting > 0 && Instant::now() < self.next) {
            return Err(Why::Blocked);
        }
        let (sender, receiver) = mpsc::channel();
        let reader = thread::Builder::new()
            .name("tls-files".into())
            .spawn(move || drop(sender.send(read())))?;
        receiver.recv_timeout(limit).map_err(|_| {
            self.waiting.push(reader);
            let failures = u32::try_from(self.waiting.len()).unwrap_or(u32::MAX);
            self.next = Instant::now() + PAUSES.pause(failures);
            Why::Blocked
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixListener, sync::mpsc::channel};

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    #[test]
    fn only_regular_files_are_read_and_no_other_blocks() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        mknodat(CWD, path("fifo"), FileType::Fifo, Mode::RWXU, 0).unwrap();
        fs::create_dir(path("directory")).unwrap();
        fs::write(path("file"), "text").unwrap();
        std::os::unix::fs::symlink("file", path("link")).unwrap();
        let _socket = UnixListener::bind(path("socket")).unwrap();
        let read = |name: &str| read_file(&path(name)).map_err(|why| why.to_string());
        assert_eq!(read("file").as_deref(), Ok(&b"text"[..]));
        assert_eq!(read("link").as_deref(), Ok(&b"text"[..]));
        for (name, part) in [
            ("fifo", "it is a FIFO"),
            ("directory", "it is a directory"),
            ("socket", "can't be read"),
            ("nothing", "can't be read"),
        ] {
            let error = read(name).unwrap_err();
            assert!(error.contains(part), "{name}: {error}");
        }
        assert!(
            read_file(Path::new("/dev/zero"))
                .unwrap_err()
                .to_string()
                .contains("no regular")
        );
    }

    #[test]
    fn a_mount_that_hangs_holds_a_few_threads_until_it_responds() {
        let mut reader = FileReader::new(Path::new("/"), Purpose::Mesh);
        let mut hanging = Vec::new();
        for _ in 0..MAX_WAITING {
            let (responds, response) = channel::<()>();
            hanging.push(responds);
            let hung = reader.run(move || response.recv().is_ok(), Duration::ZERO);
            assert!(matches!(hung, Err(Why::Blocked)));
            let is_tried = reader.run(|| (), READ_TIMEOUT).is_ok();
            assert!(!is_tried, "it pauses");
            reader.next = Instant::now();
        }
        let is_tried = reader.run(|| (), READ_TIMEOUT).is_ok();
        assert!(!is_tried, "there is no thread more");
        hanging.clear();
        let threads = std::mem::take(&mut reader.waiting);
        assert_eq!(threads.len(), MAX_WAITING);
        for thread in threads {
            thread.join().unwrap();
        }
        assert!(matches!(reader.run(|| 7, READ_TIMEOUT), Ok(7)));
    }
}
