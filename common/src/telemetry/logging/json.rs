//! JSON values, appended to a record.
//!
//! Text without escapes, which is nearly all of a record, is copied as a whole, in a third of the
//! instructions of `serde_json`. `serde_json` writes everything else. Each string has a limit, beyond
//! which it is cut.

use std::{
    borrow::Cow,
    fmt::{self, Write},
};

use serde::Serialize;

/// The most bytes of JSON for a byte of text: `\u007f`.
const LONGEST_ESCAPE: usize = 6;

/// The end of a text that was cut.
const MARK: &str = "…";

/// Appends a string, of which at most `most` bytes are between the quotes.
pub(crate) fn string(bytes: &mut Vec<u8>, string: &str, most: usize) {
    if string.len() > most / LONGEST_ESCAPE {
        return text(bytes, format_args!("{string}"), most);
    }
    bytes.push(b'"');
    escaped(bytes, string);
    bytes.push(b'"');
}

/// Appends the inside of a string, without the quotes.
pub(crate) fn escaped(bytes: &mut Vec<u8>, text: &str) {
    if is_plain(text.as_bytes()) {
        bytes.extend_from_slice(text.as_bytes());
        return;
    }
    let json = serde_json::to_string(text).expect("a string always becomes JSON");
    let escaped = with_escapes(&json[1..json.len() - 1]).into_owned();
    bytes.extend_from_slice(escaped.as_bytes());
}

/// Escapes, as `\u…`, the characters that are legal in JSON but control a terminal or a viewer.
fn with_escapes(json: &str) -> Cow<'_, str> {
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
    let is_plain_byte = |byte: &u8| matches!(byte, b' ' | b'!' | b'#'..=b'[' | b']'..=b'~');
    let Some(last) = text.last_chunk() else {
        return text.iter().all(is_plain_byte);
    };
    let (words, _) = text.as_chunks();
    words.iter().all(|word| is_plain_word(*word)) && is_plain_word(*last)
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

/// Appends a string that is formatted while it is written, up to `most` bytes between the quotes.
pub(crate) fn text(bytes: &mut Vec<u8>, text: fmt::Arguments<'_>, most: usize) {
    bytes.push(b'"');
    let start = bytes.len();
    let end = start.saturating_add(most);
    // If formatting fails, the text up to the failure stays.
    let _ = Escaped { bytes, end }.write_fmt(text);
    cut(bytes, start, end);
    bytes.push(b'"');
}

/// Takes text until the bytes exceed `end`: a value of megabytes is not formatted to its end.
struct Escaped<'a> {
    bytes: &'a mut Vec<u8>,
    end: usize,
}

impl Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.end.checked_sub(self.bytes.len()).ok_or(fmt::Error)?;
        let mut text = text;
        if text.len() > room {
            // Exceeds the room as well, for a character has at most four bytes.
            text = &text[..text.floor_char_boundary(room.saturating_add(4))];
        }
        escaped(self.bytes, text);
        Ok(())
    }
}

/// Cuts the inside of a string, which begins at `start`, if it exceeds `end`. The string ends with
/// [`MARK`] then.
fn cut(bytes: &mut Vec<u8>, start: usize, end: usize) {
    if bytes.len() <= end {
        return;
    }
    let end = end.saturating_sub(MARK.len());
    let mut at = start;
    while at + length_at(&bytes[at..]) <= end {
        at += length_at(&bytes[at..]);
    }
    bytes.truncate(at);
    bytes.extend_from_slice(MARK.as_bytes());
}

/// The length of the first character or escape of the inside of a string.
fn length_at(inside: &[u8]) -> usize {
    match inside {
        [b'\\', b'u', ..] => LONGEST_ESCAPE,
        [b'\\', ..] => 2,
        [..0x80, ..] => 1,
        [..0xE0, ..] => 2,
        [..0xF0, ..] => 3,
        _ => 4,
    }
}

/// The text if it has at most `most` bytes. A longer one is cut to that length, [`MARK`] included.
pub(crate) struct Cut<'a> {
    pub(crate) text: &'a str,
    pub(crate) most: usize,
}

impl Cut<'_> {
    /// What is left of the text, and the mark if that is not all of it.
    pub(crate) fn parts(&self) -> [&str; 2] {
        if self.text.len() <= self.most {
            return [self.text, ""];
        }
        let end = self.most.saturating_sub(MARK.len());
        [&self.text[..self.text.floor_char_boundary(end)], MARK]
    }
}

impl fmt::Display for Cut<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.parts()
            .into_iter()
            .try_for_each(|part| f.write_str(part))
    }
}

/// Appends any other value.
pub(crate) fn value<V: Serialize + ?Sized>(bytes: &mut Vec<u8>, value: &V) {
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
                string(&mut ours, &text, usize::MAX);
                let formatted = format_args!("{before}{character}{after}");
                super::text(&mut made, formatted, usize::MAX);
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

    #[test]
    fn a_string_is_cut_between_characters_and_its_end_is_marked() {
        for character in [
            "a", "\"", "\n", "\u{1}", "\u{7F}", "é", "\u{202E}", "…", "😀",
        ] {
            for most in 3..40 {
                let text = character.repeat(40);
                let (first, rest) = text.split_at(character.len());
                let (mut ours, mut made) = (Vec::new(), Vec::new());
                string(&mut ours, &text, most);
                super::text(&mut made, format_args!("{first}{rest}"), most);
                assert_eq!(ours, made);
                assert!(ours.len() <= most + 2, "{character:?} {most}");
                assert!(
                    ours.len() + LONGEST_ESCAPE > most + 2,
                    "{character:?} {most}"
                );
                let read: String = serde_json::from_slice(&ours).unwrap();
                let kept = read.strip_suffix(MARK).unwrap();
                assert!(text.starts_with(kept), "{character:?} {most}");
            }
        }
    }

    #[test]
    fn a_string_that_just_fits_is_whole() {
        for text in ["", "12345678", "éééé", "\"\"\"\"", "\n12345…"] {
            let mut bytes = Vec::new();
            string(&mut bytes, text, 8 + 2);
            assert_eq!(serde_json::from_slice::<String>(&bytes).unwrap(), text);
        }
    }

    #[test]
    fn a_value_without_end_is_formatted_only_as_far_as_it_is_shown() {
        struct Endless;

        impl fmt::Display for Endless {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                loop {
                    f.write_str("again ")?;
                }
            }
        }

        let mut bytes = Vec::new();
        text(&mut bytes, format_args!("{Endless}"), 16);
        assert_eq!(String::from_utf8(bytes).unwrap(), "\"again again a…\"");
    }

    #[test]
    fn a_text_that_is_too_long_ends_with_the_mark() {
        for (text, shown) in [
            ("", ""),
            ("12345678", "12345678"),
            ("123456789", "12345…"),
            ("1234éé678", "1234…"),
        ] {
            assert_eq!(Cut { text, most: 8 }.to_string(), shown);
        }
    }
}
