//! Connections that go wrong, whatever the calls on them.

use tests::frame::{
    CONTINUATION, DATA, END_HEADERS, HEADERS, PING, PUSH_PROMISE, RST_STREAM, SETTINGS,
    WINDOW_UPDATE,
};

use super::{
    super::{
        draft::{Draft, HEAD},
        hpack,
        manner::Manner,
        step::Last,
    },
    Habits,
    settings::{MAX_CONCURRENT_STREAMS, settings},
};

const NO_ERROR: u32 = 0;

/// What a server of HTTP/1.1 says to the preface of HTTP/2.
const BAD_REQUEST: &str =
    "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

pub(super) fn write(manner: Manner, it: &mut Draft<'_>, habits: &mut Habits) -> bool {
    match manner {
        Manner::UnknownTypes => {
            settings(it, &[]);
            for _ in 0..it.random.u32(1..=100) {
                let (kind, flags) = (it.random.u8(16..), it.random.u8(..));
                let (stream, length) = (it.random.u32(..) >> 1, it.random.usize(..200));
                let noise = it.noise(length);
                it.frame_on(stream, kind, flags, noise);
                it.pause_maybe();
            }
        }
        Manner::Misplaced => {
            settings(it, &[]);
            it.pause_between(1, 5_000);
            misplaced(it);
        }
        Manner::GoAwayAtOnce => {
            settings(it, &[]);
            let code = it.any_error();
            let code = it.choose(&[NO_ERROR, code]);
            it.go_away(Last::Processed, code);
        }
        Manner::GoAwayLater => {
            settings(it, &[]);
            it.pause_between(1, 30_000);
            go_away(it);
        }
        Manner::GoAwayLaterThenClose => {
            settings(it, &[]);
            it.pause_between(1, 30_000);
            go_away(it);
            it.pause_between(0, 5_000);
            it.close();
        }
        Manner::MuteLater => {
            settings(it, &[]);
            it.pause_between(1, 30_000);
            it.mute();
        }
        Manner::FewStreamsThenMute => {
            let streams = it.random.u16(1..=3);
            settings(it, &[(MAX_CONCURRENT_STREAMS, streams.into())]);
            habits.max_streams = streams.into();
            it.pause_between(1, 10_000);
            it.mute();
        }
        Manner::CloseLater => {
            settings(it, &[]);
            it.pause_between(1, 30_000);
            it.close();
        }
        Manner::CloseAtOnce => {
            habits.listens = false;
            if it.random.bool() {
                settings(it, &[]);
            }
            it.close();
        }
        Manner::Silent => habits.listens = false,
        Manner::Http1 => {
            habits.listens = false;
            it.pause_maybe();
            it.bytes(BAD_REQUEST);
            it.close();
        }
        Manner::Noise => {
            habits.listens = false;
            let length = it.random.usize(1..1_000);
            let noise = it.noise(length);
            it.bytes(noise);
        }
        Manner::TlsAlert => {
            habits.listens = false;
            it.bytes(vec![0x15, 3, 1, 0, 2, 2, 70]);
            it.close();
        }
        _ => return false,
    }
    true
}

/// A frame that no connection may have.
fn misplaced(it: &mut Draft<'_>) {
    let block = hpack::block(&HEAD);
    // A client opens odd streams, and far fewer.
    let stream = it.choose(&[0, 2, 1_000_000, 1_000_001]);
    match it.random.u8(..7) {
        0 => it.frame_on(stream, DATA, 0, vec![0; 5]),
        1 => it.frame_on(stream, HEADERS, END_HEADERS, block),
        2 => it.frame_on(stream, RST_STREAM, 0, vec![0; 4]),
        3 => it.frame_on(stream | 1, SETTINGS, 0, Vec::new()),
        4 => it.frame_on(stream | 1, PING, 0, vec![0; 8]),
        5 => it.frame_on(stream | 1, PUSH_PROMISE, END_HEADERS, vec![0, 0, 0, 2]),
        _ => it.frame_on(stream, CONTINUATION, END_HEADERS, block),
    }
    it.frame_on(stream | 2, WINDOW_UPDATE, 0, vec![0, 0, 0, 1]);
}

fn go_away(it: &mut Draft<'_>) {
    let last = it.choose(&[Last::Processed, Last::Next, Last::Max]);
    let code = it.any_error();
    let code = it.choose(&[NO_ERROR, NO_ERROR, code]);
    it.go_away(last, code);
}
