//! JSON values, appended to a record.
//!
//! `serde_json` writes what it alone can write well: numbers, and text that has something to
//! escape. Hardly any text in a record has, and to copy such text as a whole, keys above all,
//! takes a third of the instructions (what it saves: bench/README.md).

use std::{
    borrow::Cow,
    fmt::{self, Write},
};

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
    let json = serde_json::to_string(text).expect("a string always becomes JSON");
    let escaped = with_escapes(&json[1..json.len() - 1]).into_owned();
    bytes.extend_from_slice(escaped.as_bytes());
}

/// JSON with `\u…` for what a terminal or a viewer acts on instead of showing it, and JSON allows.
pub(super) fn with_escapes(json: &str) -> Cow<'_, str> {
    if !json.contains(is_acted_on) {
        return Cow::Borrowed(json);
    }
    let mut escaped = String::with_capacity(json.len() + 32);
    for character in json.chars() {
        if is_acted_on(character) {
            // All of them are in the first plane.
            let _ = write!(escaped, "\\u{:04x}", u32::from(character));
        } else {
            escaped.push(character);
        }
    }
    Cow::Owned(escaped)
}

/// Control characters (DEL and C1), ends of lines, marks of direction and what has no width.
fn is_acted_on(character: char) -> bool {
    matches!(character,
        '\u{7F}'..='\u{9F}'
        | '\u{061C}'
        | '\u{200B}'..='\u{200F}'
        | '\u{2028}'..='\u{202E}'
        | '\u{2060}'..='\u{206F}'
        | '\u{FEFF}')
}

/// Whether there is nothing to escape: ASCII without a quote, a backslash or a control character.
fn is_plain(text: &[u8]) -> bool {
    let is_plain_byte = |byte: &u8| matches!(byte, b' '..=b'~') && !b"\"\\".contains(byte);
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
    let above = (word | word.wrapping_add(all(1))) & all(0x80); // DEL, and what is not ASCII
    let found = below(word, b' ') | below(word ^ all(b'"'), 1) | below(word ^ all(b'\\'), 1);
    let found = found | above;
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
    fn strings_are_those_of_serde_json_but_for_what_is_acted_on() {
        let (before, after) = ("straße", "a text of some length");
        let others = [
            '\u{061C}', '\u{2028}', '\u{202E}', '\u{2066}', '\u{FEFF}', '…', '😀',
        ];
        for character in (0..256).filter_map(char::from_u32).chain(others) {
            for length in 0..=before.chars().count() {
                let before: String = before.chars().take(length).collect();
                let text = format!("{before}{character}{after}");
                let (mut ours, mut made) = (Vec::new(), Vec::new());
                string(&mut ours, &text);
                super::text(&mut made, format_args!("{before}{character}{after}"));
                let theirs = serde_json::to_string(&text).unwrap();
                let shown = ours.iter().filter(|byte| **byte == 0x7F);
                assert_eq!(shown.count(), 0, "{character:?}");
                assert_eq!(ours, made);
                let escape = format!("\\u{:04x}", u32::from(character));
                let read = String::from_utf8(ours).unwrap();
                let read = if is_acted_on(character) {
                    read.replace(&escape, &character.to_string())
                } else {
                    read
                };
                assert_eq!(read, theirs);
            }
        }
    }
}
