//! Stdout, as a writer that barely waits for a slow reader, so that the log never stops requests; and the
//! buffer of each worker before it.
//!
//! Stdout nearly always takes records at once. What it does not take within
//! [`limits::STDOUT_PAUSE`] waits in memory for a thread, which is started when it is needed.
//! Records that wait longer than [`limits::STDOUT_PATIENCE`], or exceed [`limits::LOG_WAITING`],
//! are dropped and counted. Once stdout takes records again, a record reports the loss.

use std::{
    cell::RefCell,
    collections::VecDeque,
    io::{self, IsTerminal},
    os::fd::OwnedFd,
    sync::{Condvar, Mutex, OnceLock, PoisonError, atomic::Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{FileType, Mode, OFlags, fstat, open},
    io::Errno,
    net::{SendFlags, send},
};
use tracing::warn;

use super::json;
use crate::{
    limits,
    request::context,
    sync::lock,
    telemetry::metrics::{LOG_LOST_BYTES, LOG_WRITTEN_BYTES},
};

/// The bytes that a ready pipe takes without blocking (POSIX: `PIPE_BUF`).
const PIPE_BUF: usize = 4_096;

static STDOUT: Mutex<Stdout> = Mutex::new(Stdout {
    waiting: VecDeque::new(),
    waiting_bytes: 0,
    is_in_line: false,
    line_is_lost: false,
    unreported: 0,
    has_thread: false,
});

/// Notified when the last waiting record is written or dropped.
static WRITTEN_OUT: Condvar = Condvar::new();

struct Stdout {
    /// Records that stdout has not taken yet, each with the start of its wait.
    waiting: VecDeque<(Instant, Bytes)>,
    waiting_bytes: usize,
    /// Whether stdout has only the beginning of the last line.
    is_in_line: bool,
    /// Whether the rest of that line is lost. Then a line end goes before the next record.
    line_is_lost: bool,
    /// Lost bytes that no record has reported yet.
    unreported: u64,
    /// Whether the thread runs.
    has_thread: bool,
}

/// Writes whole records.
pub(crate) fn write(records: &[u8]) {
    let mut stdout = lock(&STDOUT);
    let mut taken = 0;
    if stdout.waiting.is_empty() {
        taken = stdout.write_now(records);
        let end = Instant::now() + limits::STDOUT_PAUSE;
        while taken < records.len() && is_writable(end.saturating_duration_since(Instant::now())) {
            match stdout.write_now(&records[taken..]) {
                0 => break,
                more => taken += more,
            }
        }
    }
    if taken < records.len() {
        stdout.let_wait(&records[taken..]);
    }
    if !stdout.has_thread && (stdout.unreported > 0 || !stdout.waiting.is_empty()) {
        let thread = thread::Builder::new().name("log-writer".to_owned());
        stdout.has_thread = thread.spawn(write_until_none_waits).is_ok();
    }
}

/// Waits up to [`limits::STDOUT_PATIENCE`] for the waiting records, before the process ends.
pub(crate) fn finish() {
    let stdout = lock(&STDOUT);
    let is_waiting = |stdout: &mut Stdout| !stdout.waiting.is_empty();
    let waited = WRITTEN_OUT.wait_timeout_while(stdout, limits::STDOUT_PATIENCE, is_waiting);
    drop(waited.unwrap_or_else(PoisonError::into_inner));
}

impl Stdout {
    /// Writes as much as stdout takes at once, and returns how many bytes are written or lost. An
    /// error loses all that are left.
    fn write_now(&mut self, records: &[u8]) -> usize {
        if self.line_is_lost {
            match write_some(b"\n") {
                Ok(0) => return 0,
                Ok(_) => (self.is_in_line, self.line_is_lost) = (false, false),
                Err(_) => return self.lose_next(records.len()),
            }
        }
        let mut taken = 0;
        while let Some(last) = records.len().checked_sub(1)
            && taken <= last
        {
            match write_some(&records[taken..]) {
                Ok(0) => break,
                Ok(more) => {
                    taken += more;
                    LOG_WRITTEN_BYTES.fetch_add(more as u64, Relaxed);
                    self.is_in_line = records[taken - 1] != b'\n';
                }
                Err(_) => return taken + self.lose_next(records.len() - taken),
            }
        }
        taken
    }

    /// Counts the next bytes as lost, and returns their number.
    fn lose_next(&mut self, bytes: usize) -> usize {
        self.line_is_lost = self.is_in_line;
        self.count_lost(bytes);
        bytes
    }

    fn count_lost(&mut self, bytes: usize) {
        LOG_LOST_BYTES.fetch_add(bytes as u64, Relaxed);
        self.unreported += bytes as u64;
    }

    fn let_wait(&mut self, records: &[u8]) {
        // The first of the queue may be the rest of a line, so it always has room.
        if self.waiting_bytes + records.len() > limits::LOG_WAITING && !self.waiting.is_empty() {
            self.count_lost(records.len());
            return;
        }
        self.waiting_bytes += records.len();
        let records = Bytes::copy_from_slice(records);
        self.waiting.push_back((Instant::now(), records));
    }

    /// Writes as many of the waiting records as stdout takes at once, and drops the expired ones.
    fn write_waiting(&mut self) {
        while let Some((since, mut rest)) = self.waiting.pop_front() {
            self.waiting_bytes -= rest.len();
            let taken = self.write_now(&rest);
            rest.advance(taken);
            if since.elapsed() > limits::STDOUT_PATIENCE {
                // Completes a line whose beginning stdout already has.
                let line = rest.iter().position(|byte| *byte == b'\n');
                let kept = line.filter(|_| self.is_in_line).map_or(0, |end| end + 1);
                self.count_lost(rest.len() - kept);
                rest.truncate(kept);
            }
            if !rest.is_empty() {
                self.waiting_bytes += rest.len();
                self.waiting.push_front((since, rest));
                return;
            }
        }
        WRITTEN_OUT.notify_all();
    }
}

/// The thread: runs until all waiting records are written or lost, and the loss is reported.
fn write_until_none_waits() {
    loop {
        wait_until_writable();
        let mut stdout = lock(&STDOUT);
        stdout.write_waiting();
        if !stdout.waiting.is_empty() {
            continue;
        }
        let lost_bytes = std::mem::take(&mut stdout.unreported);
        if lost_bytes == 0 {
            stdout.has_thread = false;
            return;
        }
        drop(stdout);
        warn!(
            action = "log",
            status = "lost",
            lost_bytes,
            "stdout took no more records for a while; these are lost"
        );
        let mut stdout = lock(&STDOUT);
        if stdout.unreported > 0 {
            // More records are lost, and the report may be among them.
            stdout.unreported += lost_bytes;
            drop(stdout);
            thread::sleep(limits::STDOUT_PATIENCE);
        }
    }
}

/// How to write to stdout without blocking.
enum Sink {
    /// A pipe or a terminal, opened a second time: `O_NONBLOCK` belongs to the open file, and the
    /// first one is shared with other processes.
    Nonblocking(OwnedFd),
    /// A pipe or a terminal that belongs to another user, so that it can't be opened again. It
    /// takes [`PIPE_BUF`] when it is ready.
    Blocking,
    Socket,
    /// A file takes all bytes at once.
    File,
}

fn sink() -> &'static Sink {
    static SINK: OnceLock<Sink> = OnceLock::new();
    SINK.get_or_init(|| {
        let stdout = io::stdout();
        let kind = fstat(&stdout).map(|stat| FileType::from_raw_mode(stat.st_mode));
        match kind {
            Ok(FileType::Socket) => Sink::Socket,
            Ok(kind) if kind == FileType::Fifo || stdout.is_terminal() => {
                let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
                let again = open("/proc/self/fd/1", flags, Mode::empty());
                again.map_or(Sink::Blocking, Sink::Nonblocking)
            }
            _ => Sink::File,
        }
    })
}

/// Writes as many of the bytes as possible without blocking, and returns their number.
fn write_some(bytes: &[u8]) -> Result<usize, Errno> {
    let stdout = io::stdout();
    let written = match sink() {
        Sink::Nonblocking(stdout) => rustix::io::write(stdout, bytes),
        Sink::Socket => send(&stdout, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL),
        Sink::File => rustix::io::write(&stdout, bytes),
        Sink::Blocking if !is_writable(Duration::ZERO) => Ok(0),
        Sink::Blocking => rustix::io::write(&stdout, &bytes[..bytes.len().min(PIPE_BUF)]),
    };
    match written {
        Err(Errno::AGAIN | Errno::INTR) => Ok(0),
        written => written,
    }
}

fn wait_until_writable() {
    if !matches!(sink(), Sink::File) {
        is_writable(limits::STDOUT_PATIENCE);
    }
}

/// Whether stdout becomes ready, or fails, within this time.
fn is_writable(within: Duration) -> bool {
    let stdout = io::stdout();
    let mut stdout = [PollFd::new(&stdout, PollFlags::OUT)];
    let within = Timespec::try_from(within).expect("a second is short");
    poll(&mut stdout, Some(&within)).is_ok_and(|ready| ready > 0)
}

thread_local! {
    /// The records of this thread that are not written yet; `None` if the thread has no buffer.
    static BUFFER: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}

/// Gives this thread a buffer. From then on the thread must call [`flush`].
pub(crate) fn buffer_this_thread() {
    // Has room for the record that crosses the limit, so that the buffer seldom grows.
    BUFFER.set(Some(Vec::with_capacity(limits::LOG_BUFFER + 4 * 1024)));
}

/// Writes the buffer of this thread to stdout.
pub(crate) fn flush() {
    BUFFER.with_borrow_mut(|buffer| {
        if let Some(records) = buffer
            && !records.is_empty()
        {
            write(records);
            records.clear();
        }
    });
}

/// Writes the record that `append` begins, and ends it with its `request_id`.
pub(crate) fn write_record(append: impl FnOnce(&mut Vec<u8>)) {
    let mut lines = Lines::take();
    append(&mut lines.bytes);
    append_id_and_end(&mut lines.bytes, lines.whole);
    lines.whole = lines.bytes.len();
}

/// The lines of this thread, taken out of [`BUFFER`] while a record is formatted. If a value logs
/// or panics meanwhile, that line finds no buffer and is written at once.
struct Lines {
    bytes: Vec<u8>,
    /// The length up to the end of the last whole line.
    whole: usize,
    limit: usize,
}

impl Lines {
    fn take() -> Self {
        let (bytes, limit) = match BUFFER.take() {
            Some(bytes) => (bytes, limits::LOG_BUFFER),
            None => (Vec::new(), 0),
        };
        Self {
            whole: bytes.len(),
            bytes,
            limit,
        }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.bytes.truncate(self.whole);
        if self.bytes.len() >= self.limit {
            write(&self.bytes);
            self.bytes.clear();
        }
        if self.limit > 0 {
            BUFFER.set(Some(std::mem::take(&mut self.bytes)));
        }
    }
}

/// Ends the record that begins at `start`, with the current trace, if there is one, and the request
/// id as its last fields. A request that is recorded keeps the line.
pub(crate) fn append_id_and_end(lines: &mut Vec<u8>, start: usize) {
    context::with_current(|context| {
        if let Some(trace) = context.and_then(|context| context.shared.trace.as_deref()) {
            // The names are those of OpenTelemetry's page on trace context in logs.
            let names = ["trace_id", "span_id", "trace_flags"];
            for (name, id) in names.into_iter().zip(trace.ids()) {
                lines.extend_from_slice(b",\"");
                lines.extend_from_slice(name.as_bytes());
                lines.extend_from_slice(b"\":\"");
                lines.extend_from_slice(id);
                lines.push(b'"');
            }
        }
        lines.extend_from_slice(br#","request_id":""#);
        let id = context.map_or("", |context| context.request_id().as_str());
        json::escaped(lines, id);
        lines.extend_from_slice(b"\"}\n");
        if let Some(timings) = context.and_then(|context| context.shared.timings.as_ref()) {
            timings.keep_line(&lines[start..]);
        }
    });
}

/// Takes the lines of this thread out of its buffer.
#[cfg(test)]
pub(crate) fn take() -> Vec<u8> {
    BUFFER.take().expect("this thread has a buffer")
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    fn buffered() -> String {
        String::from_utf8(take()).expect("UTF-8")
    }

    #[test]
    fn a_record_ends_with_the_id() {
        buffer_this_thread();
        write_record(|lines| lines.extend_from_slice(br#"{"a":1"#));
        assert_eq!(buffered(), "{\"a\":1,\"request_id\":\"\"}\n");
    }

    #[test]
    fn a_value_that_panics_leaves_the_lines_before_it_whole() {
        buffer_this_thread();
        write_record(|lines| lines.extend_from_slice(b"{\"first\":1"));
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            write_record(|lines| {
                lines.extend_from_slice(b"{\"half");
                panic!("the value panics");
            });
        }));
        assert!(panicked.is_err());
        assert_eq!(buffered(), "{\"first\":1,\"request_id\":\"\"}\n");
    }

    #[test]
    fn a_value_may_log_while_it_is_formatted() {
        buffer_this_thread();
        write_record(|lines| {
            // Written at once, past the buffer in use.
            write_record(|inner| inner.extend_from_slice(b"{\"inner\":1"));
            lines.extend_from_slice(b"{\"outer\":1");
        });
        assert_eq!(buffered(), "{\"outer\":1,\"request_id\":\"\"}\n");
    }
}
