//! [`Inbound`]: which part of a request the last bytes of a connection were; and [`Tail`]: these bytes.
//!
//! hyper reads what comes behind a request at once with it, and does not read it again. So only the last
//! bytes show whether something has come behind the request.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

/// Which part of a request over HTTP/1 the last bytes of a connection were.
#[derive(Debug, Default)]
pub(crate) struct Inbound {
    tail: SharedTail,
    /// Bytes have come that are not yet a request.
    has_unparsed: AtomicBool,
    /// The next bytes are the body of a request.
    is_in_body: AtomicBool,
}

impl Inbound {
    pub(crate) fn note_bytes(&self, bytes: &[u8]) {
        self.tail.add(bytes);
        self.has_unparsed.store(true, Relaxed);
    }

    /// Notes that the bytes were the head of a request. What is behind it is a part of the next one,
    /// unless it is a body.
    pub(crate) fn note_request(&self) {
        self.has_unparsed.store(!self.tail.is_empty_line(), Relaxed);
    }

    /// Notes that the next bytes are the body of a request.
    pub(crate) fn note_body_begins(&self) {
        self.is_in_body.store(true, Relaxed);
    }

    /// Notes that the body has been read or is not needed any more. `last` are its last bytes; `None`
    /// stands for a chunked body.
    pub(crate) fn note_body_ends(&self, last: Option<Tail>) {
        let is_all = match last {
            Some(last) => self.tail.ends_with(last),
            None => self.tail.is_empty_line(),
        };
        self.is_in_body.store(false, Relaxed);
        self.has_unparsed.store(!is_all, Relaxed);
    }

    /// Whether a part of a head has come, if no request is in flight.
    pub(super) fn has_half_head(&self) -> bool {
        self.has_unparsed.load(Relaxed) && !self.is_in_body.load(Relaxed)
    }
}

/// The last bytes of a connection or of a body, at most four.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tail {
    /// The last byte is the lowest.
    bytes: u32,
    count: usize,
}

const SIZE: usize = size_of::<u32>();

impl Tail {
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        let last = &bytes[bytes.len().saturating_sub(SIZE)..];
        for byte in last {
            self.bytes = self.bytes << 8 | u32::from(*byte);
        }
        self.count = (self.count + last.len()).min(SIZE);
    }
}

/// The last four bytes that have come over a connection.
#[derive(Debug, Default)]
struct SharedTail(AtomicU32);

impl SharedTail {
    fn add(&self, bytes: &[u8]) {
        let mut tail = Tail {
            bytes: self.0.load(Relaxed),
            count: 0,
        };
        tail.add(bytes);
        self.0.store(tail.bytes, Relaxed);
    }

    /// Whether they end with an empty line, as a head and a chunked body do.
    fn is_empty_line(&self) -> bool {
        let bytes = self.bytes();
        bytes.ends_with(b"\n\r\n") || bytes.ends_with(b"\n\n")
    }

    fn ends_with(&self, tail: Tail) -> bool {
        let last = tail.bytes.to_be_bytes();
        self.bytes().ends_with(&last[SIZE - tail.count..])
    }

    fn bytes(&self) -> [u8; SIZE] {
        self.0.load(Relaxed).to_be_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_bytes_are_known_however_they_come() {
        for parts in [
            &["GET / HTTP/1.1\r\n\r\n"][..],
            &["G\r\n\r", "\n"],
            &["\n", "\n"],
        ] {
            let tail = SharedTail::default();
            for part in parts {
                assert!(!tail.is_empty_line());
                tail.add(part.as_bytes());
            }
            assert!(tail.is_empty_line(), "{parts:?}");
            tail.add(b"GET");
            assert!(!tail.is_empty_line());
        }
    }

    #[test]
    fn the_end_of_a_body_is_the_end_of_what_has_come_or_not() {
        for (come, body, ends) in [
            ("head\r\n\r\nhello", &["hello"][..], true),
            ("head\r\n\r\nhello", &["he", "llo"], true),
            ("head\r\n\r\nhelloG", &["hello"], false),
            ("head\r\n\r\nx", &["x"], true),
            ("head\r\n\r\nxG", &["x"], false),
        ] {
            let (tail, mut end) = (SharedTail::default(), Tail::default());
            tail.add(come.as_bytes());
            for part in body {
                end.add(part.as_bytes());
            }
            assert_eq!(tail.ends_with(end), ends, "{come:?}");
        }
    }
}
