//! Header blocks (RFC 7541), with literals only: they need no state.

/// A literal without indexing, under a new name.
const LITERAL: u8 = 0;

/// The most that fits into the first byte of a length.
const PREFIX: usize = 127;

/// The block of these fields.
pub(super) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(LITERAL);
        string(&mut block, name);
        string(&mut block, value);
    }
    block
}

fn string(block: &mut Vec<u8>, text: &str) {
    let mut length = text.len();
    if length < PREFIX {
        block.push(u8::try_from(length).expect("it is short"));
    } else {
        block.push(u8::try_from(PREFIX).expect("it is short"));
        length -= PREFIX;
        while length >= 128 {
            block.push(u8::try_from(length % 128).expect("it is short") | 128);
            length /= 128;
        }
        block.push(u8::try_from(length).expect("it is short"));
    }
    block.extend(text.as_bytes());
}
