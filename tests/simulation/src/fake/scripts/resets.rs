//! Streams that are reset, and connections that end.

use tests::frame::{DATA, WINDOW_UPDATE};

use super::{
    super::{draft::Draft, manner::Manner},
    messages::part_of_reply,
};

/// The code that refuses a stream.
const REFUSED_STREAM: u32 = 7;

pub(super) fn write(manner: Manner, it: &mut Draft<'_>) -> bool {
    match manner {
        Manner::ResetBeforeHead => {
            if it.random.bool() {
                it.begin();
            }
            it.any_reset();
        }
        Manner::ResetAfterHead => {
            it.begin();
            it.head();
            it.pause_maybe();
            it.any_reset();
        }
        Manner::ResetInMessage => {
            it.begin();
            it.head();
            let part = part_of_reply(it);
            it.data(part);
            it.pause_maybe();
            it.any_reset();
        }
        Manner::ResetAfterMessage => {
            it.begin();
            it.head();
            it.message();
            it.pause_maybe();
            it.any_reset();
        }
        Manner::FramesAfterReset => {
            it.begin();
            it.any_reset();
            for _ in 0..it.random.u32(1..=5) {
                it.pause_maybe();
                match it.random.u8(..4) {
                    0 => it.raw_data(0, vec![0; 5]),
                    1 => it.head(),
                    2 => it.frame(WINDOW_UPDATE, 0, vec![0, 0, 1, 0]),
                    _ => it.any_reset(),
                }
            }
        }
        Manner::Refused => it.reset(REFUSED_STREAM),
        Manner::RefusedLate => {
            it.pause_between(1, 5_000);
            it.reset(REFUSED_STREAM);
        }
        Manner::RefusedAfterHead => {
            it.head();
            it.pause_maybe();
            it.reset(REFUSED_STREAM);
        }
        Manner::Close => {
            if it.random.bool() {
                it.begin();
            }
            it.close();
        }
        Manner::CloseAfterHead => {
            it.begin();
            it.head();
            it.close();
        }
        Manner::CloseAfterMessage => {
            it.begin();
            it.head();
            it.message();
            it.close();
        }
        Manner::CloseInFrame => {
            begin_frame(it);
            it.close();
        }
        Manner::MuteInFrame => {
            begin_frame(it);
            it.mute();
        }
        _ => return false,
    }
    true
}

/// A part of a frame.
fn begin_frame(it: &mut Draft<'_>) {
    it.begin();
    if it.random.bool() {
        it.head();
    }
    let id = it.stream.to_be_bytes();
    let begin = [&[0, 0, 100, DATA, 0], &id[..], &[0; 20]].concat();
    let length = it.random.usize(1..=begin.len());
    it.bytes(begin[..length].to_vec());
}
