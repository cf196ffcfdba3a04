//! JSON values, appended to a record.
//!
//! Text without escapes, which is nearly all of a record, is copied as a whole, in a third of the
//! instructions of `serde_json`. `serde_json` writes everything else.

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

/// Appends the inside of a string, without the quotes.
pub(super) fn escaped(bytes: &mut Vec<u8>, text: &str) {
    if is_plain(text.as_bytes()) {
        bytes.extend_from_slice(text.as_bytes());
        return;
    }
    let json = serde_json::to_string(text).expect("a string always becomes JSON");
    let escaped = with_escapes(&json[1..json.len() - 1]).into_owned();
    bytes.extend_from_slice(escaped.as_bytes());
}

/// Escapes, as `\u…`, the characters that are legal in JSON but control a terminal or a viewer.
pub(super) fn with_escapes(json: &str) -> Cow<'_, str> {
    if !json.contains(is_acted_on) {
        return Cow::Borrowed(json);
    }
    let mut escaped = String::with_capacity(json.len() + 32);
    for character in json.chars() {
        if is_acted_on(character) {
            // All of them have four hex digits.
            let _ = write!(escaped, "\\u{:04x}", u32::from(character));
        } else {
            escaped.push(character);
        }
    }
    Cow::Owned(escaped)
}

/// Control characters (DEL and C1), line separators, direction marks and zero-width characters.
fn is_acted_on(character: char) -> bool {
    matches!(character,
        '\u{7F}'..='\u{9F}'
        | '\u{061C}'
        | '\u{200B}'..='\u{200F}'
        | '\u{2028}'..='\u{202E}'
        | '\u{2060}'..='\u{206F}'
        | '\u{FEFF}')
}

/// Whether the text needs no escapes: ASCII without quotes, backslashes and control characters.
fn is_plain(text: &[u8]) -> bool {
    let is_plain_byte = |byte: &u8| matches!(byte, b' '..=b'~') && !b"\"\\".contains(byte);
    let Some(last) = text.last_chunk() else {
        return text.iter().all(is_plain_byte);
    };
    let (words, _) = text.as_chunks();
    words.iter().chain([last]).all(|word| is_plain_word(*word))
}

/// The same for eight bytes at once, in half the instructions. `^ all(character)` turns the bytes
/// equal to a character into 0, and the borrow of a subtraction marks the bytes below a limit.
fn is_plain_word(word: [u8; 8]) -> bool {
    const fn all(byte: u8) -> u64 {
        u64::from_ne_bytes([byte; 8])
    }
    let word = u64::from_ne_bytes(word);
    let below = |word: u64, limit: u8| word.wrapping_sub(all(limit)) & !word & all(0x80);
    let above = (word | word.wrapping_add(all(1))) & all(0x80); // DEL, or not ASCII
    let found = below(word, b' ') | below(word ^ all(b'"'), 1) | below(word ^ all(b'\\'), 1);
    found | above == 0
}

/// Appends a string that is formatted while it is written.
pub(super) fn text(bytes: &mut Vec<u8>, text: fmt::Arguments<'_>) {
    struct Escaped<'a>(&'a mut Vec<u8>);

    impl Write for Escaped<'_> {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            escaped(self.0, text);
            Ok(())
        }
    }

    bytes.push(b'"');
    // If formatting fails, the text up to the failure stays.
    let _ = Escaped(bytes).write_fmt(text);
    bytes.push(b'"');
}

/// Appends any other value.
pub(super) fn value<V: Serialize + ?Sized>(bytes: &mut Vec<u8>, value: &V) {
    serde_json::to_writer(bytes, value)
        .expect("a Vec takes all bytes, and numbers always become JSON");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_those_of_serde_json_but_for_characters_that_are_acted_on() {
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
