//! [`Cut`]: a text that shows where it was cut.

use std::fmt;

/// The end of a text that was cut.
pub(crate) const MARK: &str = "…";

/// The text if it has at most `most` bytes. A longer one is cut to that length, [`MARK`] included.
pub(crate) struct Cut<'a> {
    pub(crate) text: &'a str,
    pub(crate) most: usize,
}

impl fmt::Display for Cut<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.text.len() <= self.most {
            return f.write_str(self.text);
        }
        let end = self.most.saturating_sub(MARK.len());
        f.write_str(&self.text[..self.text.floor_char_boundary(end)])?;
        f.write_str(MARK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
