//! Writes a record to stdout, through the buffer of its worker or at once.

use std::cell::RefCell;

use super::{json, stdout};
use crate::{limits, request::context};

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
            stdout::write(records);
            records.clear();
        }
    });
}

/// Writes the record that `append` begins, and ends it with its `request_id`.
pub(crate) fn write(append: impl FnOnce(&mut Vec<u8>)) {
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
            stdout::write(&self.bytes);
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
            // Written at once, past the buffer in use.
            write(|inner| inner.extend_from_slice(b"{\"inner\":1"));
            lines.extend_from_slice(b"{\"outer\":1");
        });
        assert_eq!(buffered(), "{\"outer\":1,\"request_id\":\"\"}\n");
    }
}
