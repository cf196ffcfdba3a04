//! Frames that no stream may have.

use bytes::Bytes;
use tests::frame::{
    DATA, END_HEADERS, GOAWAY, HEADERS, PADDED, PING, PRIORITY, PUSH_PROMISE, RST_STREAM, SETTINGS,
    WINDOW_UPDATE,
};

use super::super::{
    draft::{Draft, HEAD, LONGEST_FRAME},
    hpack,
    manner::Manner,
};

/// The largest growth of a window.
const MOST: [u8; 4] = [0x7f, 0xff, 0xff, 0xff];

pub(super) fn write(manner: Manner, it: &mut Draft<'_>) -> bool {
    match manner {
        Manner::DataFirst => {
            it.begin();
            let reply = it.reply();
            it.raw_data(0, reply.slice(..reply.len().min(1_024)));
            it.pause_maybe();
            it.head();
            it.trailers(0);
        }
        Manner::WindowIgnored => {
            it.begin();
            it.head();
            it.raw_data(0, vec![0, 0, 0x20, 0, 0]);
            for _ in 0..20 {
                it.raw_data(0, Bytes::from_static(&[0; LONGEST_FRAME]));
            }
        }
        Manner::InvalidLength => {
            it.begin();
            invalid_length(it);
            it.respond();
        }
        Manner::WrongStream => {
            it.begin();
            wrong_stream(it);
            it.respond();
        }
        Manner::PushPromise => {
            it.begin();
            let promised = it.choose(&[0_u32, 1, 2, u32::MAX >> 1]);
            let block = hpack::block(&[(":method", "GET"), (":path", "/"), (":scheme", "http")]);
            let payload = [&promised.to_be_bytes()[..], &block].concat();
            it.frame(PUSH_PROMISE, END_HEADERS, payload);
            it.respond();
        }
        Manner::WindowZero => {
            it.begin();
            it.frame(WINDOW_UPDATE, 0, vec![0; 4]);
            it.pause_maybe();
            it.respond();
        }
        Manner::WindowOverflow => {
            if it.random.bool() {
                it.begin();
            }
            it.frame(WINDOW_UPDATE, 0, MOST.to_vec());
            it.frame(WINDOW_UPDATE, 0, MOST.to_vec());
            it.pause_maybe();
            it.respond();
        }
        _ => return false,
    }
    true
}

/// A frame whose length or padding is invalid.
fn invalid_length(it: &mut Draft<'_>) {
    let stream = it.stream.to_be_bytes();
    match it.random.u8(..8) {
        0 => it.frame(RST_STREAM, 0, vec![0; 3]),
        1 => it.frame(WINDOW_UPDATE, 0, vec![0; 5]),
        2 => it.frame_on(0, PING, 0, vec![0; 7]),
        3 => it.frame_on(0, SETTINGS, 0, vec![0; 5]),
        4 => it.frame(HEADERS, END_HEADERS | PADDED, vec![255, 0]),
        5 => {
            it.head();
            it.frame(DATA, PADDED, vec![200, 0, 0]);
        }
        6 => {
            it.head();
            it.frame(DATA, 0, vec![0; 16 * 1_024 + 1]);
        }
        // The head of a frame of 16 MiB.
        _ => it.bytes([&[0xff, 0xff, 0xff, DATA, 0], &stream[..]].concat()),
    }
}

/// A frame for a stream that can't have it.
fn wrong_stream(it: &mut Draft<'_>) {
    let unopened = it.stream + 1_000;
    match it.random.u8(..8) {
        0 => it.frame_on(0, DATA, 0, vec![0; 5]),
        1 => it.frame_on(0, HEADERS, END_HEADERS, hpack::block(&HEAD)),
        2 => it.frame_on(0, RST_STREAM, 0, vec![0; 4]),
        3 => it.frame(SETTINGS, 0, Vec::new()),
        4 => it.frame(PING, 0, vec![0; 8]),
        // It includes all streams, so it refuses none.
        5 => it.frame(GOAWAY, 0, [&MOST[..], &[0; 4]].concat()),
        6 => it.frame_on(unopened, DATA, 0, vec![0; 5]),
        _ => it.frame_on(0, PRIORITY, 0, vec![0; 5]),
    }
}
