//! Responses whose messages are wrong, or too many, or do not come.

use std::time::Duration;

use bytes::Bytes;
use tests::frame::END_STREAM;

use super::super::{
    draft::{Draft, HEAD, prefixed},
    manner::Manner,
};

/// The longest message that clients accept, in bytes.
const LIMIT: usize = 4 * 1_024 * 1_024;

/// A message longer than that, after its prefix. Its length is 0x00400001. All calls share it.
static TOO_LONG: [u8; 5 + LIMIT + 1] = {
    let mut bytes = [0; 5 + LIMIT + 1];
    bytes[2] = 0x40;
    bytes[4] = 1;
    bytes
};

pub(super) fn write(manner: Manner, it: &mut Draft<'_>) -> bool {
    match manner {
        Manner::MessageTwice => {
            let reply = it.reply();
            ok(it, [&reply[..], &reply].concat());
        }
        Manner::TrailersFirst => {
            it.begin();
            it.head();
            it.trailers(0);
            it.pause_maybe();
            let reply = it.reply();
            it.raw_data(0, reply.slice(..reply.len().min(1_024)));
        }
        Manner::NoMessage => {
            it.begin();
            it.end(&[("grpc-status", "0")]);
        }
        Manner::Hang => {}
        Manner::HangAfterHead => {
            it.begin();
            it.head();
        }
        Manner::HangInMessage => {
            it.begin();
            it.head();
            let part = part_of_reply(it);
            it.data(part);
        }
        Manner::HangAfterMessage => {
            it.begin();
            it.head();
            it.message();
        }
        Manner::Endless => {
            it.begin();
            it.head();
            let pause = it.choose(&[0, 1, 10, 100]);
            let reply = it.reply();
            for _ in 0..(LIMIT / reply.len()).min(1_000) {
                it.data(reply.clone());
                it.pause(Duration::from_millis(pause));
            }
        }
        Manner::Garbage => {
            // The key of a field that does not end.
            let mut message = vec![0xff; 10];
            let length = it.random.usize(..64);
            message.extend(it.noise(length));
            ok(it, prefixed(0, &message));
        }
        Manner::OtherType => {
            // The number of the call as a string, or a payload that is a number.
            let message: &[u8] = it.choose(&[&[0x0a, 1, b'1'], &[0x10, 1], &[0x12, 99, 1]]);
            ok(it, prefixed(0, message));
        }
        Manner::InvalidFlag => {
            let mut reply = it.reply().to_vec();
            reply[0] = it.random.u8(2..);
            ok(it, reply);
        }
        Manner::Compressed => {
            let mut reply = it.reply().to_vec();
            reply[0] = 1;
            ok(it, reply);
        }
        Manner::UnknownEncoding => {
            it.begin();
            let encoding = it.choose(&["gzip", "zstd", "br", "none", ""]);
            it.fields(0, &[HEAD[0], HEAD[1], ("grpc-encoding", encoding)]);
            let mut reply = it.reply().to_vec();
            reply[0] = 1;
            it.data(reply);
            it.trailers(0);
        }
        Manner::CutShort => {
            let part = part_of_reply(it);
            cut(it, part);
        }
        Manner::CutInPrefix => {
            let length = it.random.usize(1..5);
            let part = it.reply().slice(..length);
            cut(it, part);
        }
        Manner::TooLongDeclared => {
            it.begin();
            it.head();
            let length = it
                .random
                .u32(u32::try_from(LIMIT).expect("it is short") + 1..);
            let prefix = [&[0], &length.to_be_bytes()[..]].concat();
            it.data(prefix);
            match it.random.u8(..3) {
                0 => it.trailers(0),
                1 => it.data(vec![0; 10_000]),
                _ => {}
            }
        }
        Manner::TooLongSent => ok(it, Bytes::from_static(&TOO_LONG)),
        _ => return false,
    }
    true
}

/// A response with this data and OK.
fn ok(it: &mut Draft<'_>, data: impl Into<Bytes>) {
    it.begin();
    it.head();
    it.data(data);
    it.pause_maybe();
    it.trailers(0);
}

/// A response that ends after this part of a message.
fn cut(it: &mut Draft<'_>, part: Bytes) {
    it.begin();
    it.head();
    if it.random.bool() {
        it.last_data(part);
    } else {
        it.data(part);
        it.fields(END_STREAM, &[("grpc-status", "0")]);
    }
}

/// The prefix of the reply, and not all of the rest.
pub(super) fn part_of_reply(it: &mut Draft<'_>) -> Bytes {
    let reply = it.reply();
    let length = it.random.usize(5..reply.len());
    reply.slice(..length)
}
