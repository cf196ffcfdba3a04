//! Responses whose fields, or their encoding, are wrong.

use tests::frame::{CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING};

use super::super::{
    draft::{Draft, HEAD, LONGEST_FRAME},
    hpack,
    manner::Manner,
};

pub(super) fn write(manner: Manner, it: &mut Draft<'_>) -> bool {
    match manner {
        Manner::HeadTwice => {
            it.begin();
            it.head();
            it.pause_maybe();
            it.respond();
        }
        Manner::InvalidField => invalid_field(it),
        Manner::ContentLength => {
            it.begin();
            let length = it.choose(&["1", "100000", "-1", "x", "18446744073709551616"]);
            it.fields(0, &[HEAD[0], HEAD[1], ("content-length", length)]);
            it.message();
            it.trailers(0);
        }
        Manner::InvalidHpack => {
            it.begin();
            let block: &[u8] = it.choose(&[
                &[0x80],                                                 // the index 0
                &[0xff, 0xff, 0x7f],       // an index without an entry
                &[0xbe],                   // an entry of the empty table
                &[0x00, 0x0a, b'a'],       // a name that is cut short
                &[0x3f, 0xff, 0xff, 0x7f], // a table that is too large
                &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f], // an overflow
                &[0x00, 0x81, 0x00, 0x01, b'a'], // an invalid Huffman code
            ]);
            let block = [&hpack::block(&HEAD), block].concat();
            it.frame(HEADERS, END_HEADERS, block);
            it.message();
            it.trailers(0);
        }
        Manner::LongHead => {
            it.begin();
            let value = "x".repeat(it.random.usize(20_000..100_000));
            long(it, 0, &[HEAD[0], HEAD[1], ("long", &value)]);
            it.message();
            it.trailers(0);
        }
        Manner::ContinuationFlood => {
            it.begin();
            it.frame(HEADERS, 0, hpack::block(&HEAD));
            let frames = it.random.usize(100..2_000);
            let part = it.choose(&[&[][..], &hpack::block(&[("a", "b")])]).to_vec();
            for _ in 0..frames {
                it.frame(CONTINUATION, 0, part.clone());
            }
        }
        Manner::BrokenContinuation => {
            it.begin();
            let (stream, other) = (it.stream, it.stream + 2);
            match it.random.u8(..4) {
                0 => it.frame(CONTINUATION, END_HEADERS, hpack::block(&HEAD)),
                1 => {
                    it.frame(HEADERS, 0, hpack::block(&HEAD));
                    it.frame_on(other, CONTINUATION, END_HEADERS, Vec::new());
                }
                2 => {
                    it.frame(HEADERS, 0, hpack::block(&HEAD));
                    it.frame_on(0, PING, 0, vec![0; 8]);
                }
                _ => {
                    it.frame(HEADERS, 0, hpack::block(&HEAD));
                    it.frame_on(stream, DATA, 0, vec![0; 5]);
                }
            }
            it.message();
            it.trailers(0);
        }
        Manner::StatusInHead => {
            it.begin();
            let status = it.choose(&["0", "13"]);
            it.fields(0, &[HEAD[0], HEAD[1], ("grpc-status", status)]);
            it.pause_maybe();
            it.message();
            let code = it.choose(&[0, 13]);
            it.trailers(code);
        }
        Manner::HalfHead => {
            it.begin();
            it.frame(HEADERS, 0, hpack::block(&HEAD));
            it.mute();
        }
        _ => return false,
    }
    true
}

/// Fields that are not allowed at all or where they are.
fn invalid_field(it: &mut Draft<'_>) {
    it.begin();
    let is_of_trailers = it.random.u8(..4) == 0;
    if is_of_trailers {
        it.head();
        it.message();
        let name = it.choose(&[":status", ":path", "UPPER"]);
        return it.fields(END_STREAM, &[("grpc-status", "0"), (name, "200")]);
    }
    let field = it.choose(&[
        ("UPPER", "a"),
        ("with space", "a"),
        ("", "a"),
        ("connection", "close"),
        ("transfer-encoding", "chunked"),
        (":path", "/"),
        (":status", "200"),
        (":unknown", "a"),
        ("newline", "a\r\nb: c"),
        ("zero", "a\0b"),
    ]);
    it.fields(0, &[HEAD[0], HEAD[1], field]);
    it.message();
    it.trailers(0);
}

/// A head that needs several frames.
pub(super) fn long(it: &mut Draft<'_>, flags: u8, fields: &[(&str, &str)]) {
    let block = hpack::block(fields);
    let mut parts = block.chunks(LONGEST_FRAME).peekable();
    let mut next = (HEADERS, flags);
    while let Some(part) = parts.next() {
        let ends = if parts.peek().is_none() {
            END_HEADERS
        } else {
            0
        };
        let (kind, flags) = next;
        it.frame(kind, flags | ends, part.to_vec());
        next = (CONTINUATION, 0);
    }
}
