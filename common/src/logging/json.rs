//! JSON values, appended to a record.
//!
//! `serde_json` writes what it alone can write well: numbers, and text that has something to
//! escape. Hardly any text in a record has, and to copy such text as a whole, keys above all,
//! takes a third of the instructions (what it saves: bench/README.md).

use std::fmt::{self, Write};

use serde::Serialize;

/// Appends a string.
pub(super) fn string(bytes: &mut Vec<u8>, text: &str) {
    bytes.push(b'"');
    escaped(bytes, text);
    bytes.push(b'"');
}

/// Appends what goes between the quotes of a string.
pub(super) fn escaped(bytes: &mut Vec<u8>, text: &str) {
    if is_plain(text.as_bytes()) {
        bytes.extend_from_slice(text.as_bytes());
        return;
    }
    let opening_quote = bytes.len();
    value(bytes, text);
    bytes.remove(opening_quote);
    bytes.pop();
}

/// Whether there is nothing to escape: no quote, no backslash, no control character.
fn is_plain(text: &[u8]) -> bool {
    let is_plain_byte = |byte: &u8| *byte >= b' ' && *byte != b'"' && *byte != b'\\';
    let Some(last) = text.last_chunk() else {
        return text.iter().all(is_plain_byte);
    };
    let (words, _) = text.as_chunks();
    words.iter().chain([last]).all(|word| is_plain_word(*word))
}

/// The same for eight bytes at once, which takes half the instructions: a byte is 0 after
/// `^ character` where it was that character, and a borrow marks the bytes that are too small.
fn is_plain_word(word: [u8; 8]) -> bool {
    const fn all(byte: u8) -> u64 {
        u64::from_ne_bytes([byte; 8])
    }
    let word = u64::from_ne_bytes(word);
    let below = |word: u64, limit: u8| word.wrapping_sub(all(limit)) & !word & all(0x80);
    let found = below(word, b' ') | below(word ^ all(b'"'), 1) | below(word ^ all(b'\\'), 1);
    found == 0
}

/// Appends a string that is made while it is written.
pub(super) fn text(bytes: &mut Vec<u8>, text: fmt::Arguments<'_>) {
    struct Escaped<'a>(&'a mut Vec<u8>);

    impl Write for Escaped<'_> {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            escaped(self.0, text);
            Ok(())
        }
    }

    bytes.push(b'"');
    // A value that can't be formatted leaves what it came to.
    let _ = Escaped(bytes).write_fmt(text);
    bytes.push(b'"');
}

/// Appends any other value.
pub(super) fn value<V: Serialize + ?Sized>(bytes: &mut Vec<u8>, value: &V) {
    serde_json::to_writer(bytes, value)
        .expect("a Vec takes all, and these values have no keys to be refused");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_those_of_serde_json() {
        let (before, after) = ("straße", "a text of some length");
        for character in (0..256).filter_map(char::from_u32) {
            for length in 0..=before.chars().count() {
                let before: String = before.chars().take(length).collect();
                let text = format!("{before}{character}{after}");
                let (mut ours, mut made) = (Vec::new(), Vec::new());
                string(&mut ours, &text);
                super::text(&mut made, format_args!("{before}{character}{after}"));
                let theirs = serde_json::to_vec(&text).unwrap();
                assert_eq!(ours, theirs);
                assert_eq!(made, theirs);
            }
        }
    }
}
