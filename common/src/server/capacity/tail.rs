//! [`Tail`]: the last bytes that have come, which show whether anything has come behind a request.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

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
pub(super) struct SharedTail(AtomicU32);

impl SharedTail {
    pub(super) fn add(&self, bytes: &[u8]) {
        let mut tail = Tail {
            bytes: self.0.load(Relaxed),
            count: 0,
        };
        tail.add(bytes);
        self.0.store(tail.bytes, Relaxed);
    }

    /// Whether they end with an empty line, as a head and a chunked body do.
    pub(super) fn is_empty_line(&self) -> bool {
        let bytes = self.bytes();
        bytes.ends_with(b"\n\r\n") || bytes.ends_with(b"\n\n")
    }

    pub(super) fn ends_with(&self, tail: Tail) -> bool {
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
