//! [`LengthPrefixed`]: finds the length-prefixed parts of a byte stream, such as HTTP/2 frames and gRPC
//! messages.

/// The position in a stream whose prefixes have `N` bytes.
#[derive(Debug, Clone)]
pub(crate) struct LengthPrefixed<const N: usize> {
    prefix: [u8; N],
    /// Bytes of the prefix that have been read.
    read: usize,
    /// Bytes of the part that are still to come.
    left: usize,
}

impl<const N: usize> LengthPrefixed<N> {
    pub(crate) fn new() -> Self {
        Self {
            prefix: [0; N],
            read: 0,
            left: 0,
        }
    }

    /// Whether the bytes so far end with a whole part.
    pub(crate) fn is_whole(&self) -> bool {
        self.read == 0 && self.left == 0
    }

    /// Reads the next bytes. Calls `begin` with each complete prefix; it returns the length of the
    /// part.
    pub(crate) fn read<E>(
        &mut self,
        mut bytes: &[u8],
        mut begin: impl FnMut([u8; N]) -> Result<usize, E>,
    ) -> Result<(), E> {
        while !bytes.is_empty() {
            let part = self.left.min(bytes.len());
            self.left -= part;
            bytes = &bytes[part..];
            let prefix = (N - self.read).min(bytes.len());
            self.prefix[self.read..self.read + prefix].copy_from_slice(&bytes[..prefix]);
            self.read += prefix;
            bytes = &bytes[prefix..];
            if self.read == N {
                self.read = 0;
                self.left = begin(self.prefix)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_found_however_the_stream_is_split() {
        // Prefixes of two bytes, the second of which is the length: parts of 3, 0 and 2 bytes.
        let stream = [7, 3, 1, 1, 1, 8, 0, 9, 2, 1, 1];
        for size in 1..=stream.len() {
            let mut found = Vec::new();
            let mut parts = LengthPrefixed::<2>::new();
            for bytes in stream.chunks(size) {
                let begin = |[kind, length]: [u8; 2]| {
                    found.push(kind);
                    Ok::<_, ()>(length.into())
                };
                parts.read(bytes, begin).unwrap();
            }
            assert_eq!(found, [7, 8, 9]);
            assert!(parts.is_whole());
        }
        for end in [1, 3, stream.len() - 1] {
            let mut parts = LengthPrefixed::<2>::new();
            let begin = |[_, length]: [u8; 2]| Ok::<_, ()>(length.into());
            parts.read(&stream[..end], begin).unwrap();
            assert!(!parts.is_whole(), "{end}");
        }
    }
}
