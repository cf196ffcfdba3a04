//! Where records go: the buffer of a worker, or straight to stdout.

use std::{
    cell::RefCell,
    io::{self, Write},
};

use tracing_subscriber::fmt::MakeWriter;

use super::{json, stdout};
use crate::context;

/// How many bytes of records a worker gathers at the most before it writes them, busy or not.
pub const BUFFER_LIMIT: usize = 32 * 1024;

thread_local! {
    /// The records of this thread that are not written yet; `None` where they are not gathered.
    static BUFFER: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}

/// Gathers the records of this thread from now on; whoever calls it calls [`flush`] as well.
pub(crate) fn buffer_this_thread() {
    // Room for the record that crosses the limit, so that the buffer hardly ever grows again.
    BUFFER.set(Some(Vec::with_capacity(BUFFER_LIMIT + 4 * 1024)));
}

/// Writes out what this thread has gathered.
pub(crate) fn flush() {
    BUFFER.with_borrow_mut(|buffer| {
        if let Some(records) = buffer
            && !records.is_empty()
        {
            stdout::write(records);
            records.clear();
        }
    });
}

/// Lets `append` add a record, without its `request_id` and its end, to the lines of this
/// thread.
pub(super) fn write(append: impl FnOnce(&mut Vec<u8>)) {
    let mut lines = Lines::take();
    append(&mut lines.bytes);
    append_id_and_end(&mut lines.bytes);
    lines.whole = lines.bytes.len();
}

/// The lines of this thread, out of their place: a value that logs or panics while it is
/// formatted finds no buffer there, and writes at once.
struct Lines {
    bytes: Vec<u8>,
    /// Up to here they are whole.
    whole: usize,
    limit: usize,
}

impl Lines {
    fn take() -> Self {
        let (bytes, limit) = match BUFFER.take() {
            Some(bytes) => (bytes, BUFFER_LIMIT),
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
            stdout::write(&self.bytes);
            self.bytes.clear();
        }
        if self.limit > 0 {
            BUFFER.set(Some(std::mem::take(&mut self.bytes)));
        }
    }
}

/// Ends a record, with the current request id as its last field.
pub(super) fn append_id_and_end(lines: &mut Vec<u8>) {
    lines.extend_from_slice(br#","request_id":""#);
    context::with_request_id(|id| json::escaped(lines, id));
    lines.extend_from_slice(b"\"}\n");
}

/// Where the formatter puts its records: it makes one call of `write` with each.
pub(super) struct Writer;

impl<'a> MakeWriter<'a> for Writer {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        Self
    }
}

impl Write for Writer {
    fn write(&mut self, record: &[u8]) -> io::Result<usize> {
        let open = record.strip_suffix(b"}\n").unwrap_or(record);
        // Outside of strings a record is ASCII, so it can be escaped as a whole.
        let open = json::with_escapes(&String::from_utf8_lossy(open)).into_owned();
        write(|lines| lines.extend_from_slice(open.as_bytes()));
        Ok(record.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    /// What is in the buffer of this thread.
    fn buffered() -> String {
        BUFFER.with_borrow(|buffer| {
            let bytes = buffer.as_ref().expect("this thread gathers its records");
            String::from_utf8(bytes.clone()).expect("UTF-8")
        })
    }

    #[test]
    fn a_record_ends_with_the_id() {
        buffer_this_thread();
        write(|lines| lines.extend_from_slice(br#"{"a":1"#));
        assert_eq!(buffered(), "{\"a\":1,\"request_id\":\"\"}\n");
    }

    #[test]
    fn a_value_that_panics_leaves_the_lines_before_it_whole() {
        buffer_this_thread();
        write(|lines| lines.extend_from_slice(b"{\"first\":1"));
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            write(|lines| {
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
        write(|lines| {
            // Written at once, past the buffer that is in use.
            write(|inner| inner.extend_from_slice(b"{\"inner\":1"));
            lines.extend_from_slice(b"{\"outer\":1");
        });
        assert_eq!(buffered(), "{\"outer\":1,\"request_id\":\"\"}\n");
    }
}
