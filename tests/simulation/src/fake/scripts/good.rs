//! Good responses in all forms that are allowed, or nearly.

use std::time::Duration;

use tests::frame::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PADDED, PRIORITY, WINDOW_UPDATE,
};

use super::super::{
    draft::{Draft, HEAD, LONGEST_FRAME},
    hpack,
    manner::Manner,
    step::Step,
};

/// The error codes of a reset of a response that was complete.
const NO_ERROR: u32 = 0;
const CANCEL: u32 = 8;

pub(super) fn write(manner: Manner, it: &mut Draft<'_>) -> bool {
    match manner {
        Manner::Good => {
            it.begin();
            it.respond();
        }
        Manner::Slow => {
            it.begin();
            it.pause_between(10, 20_000);
            it.respond();
        }
        Manner::Early => it.respond(),
        Manner::EarlyThenReset => {
            it.respond();
            it.reset(NO_ERROR);
        }
        Manner::Interim => {
            let statuses = ["100", "102", "103", "199"];
            for _ in 0..it.random.u32(1..=5) {
                let status = it.choose(&statuses);
                it.fields(0, &[(":status", status), ("link", "</a>")]);
                it.pause_maybe();
            }
            it.begin();
            it.respond();
        }
        Manner::InterimFlood => {
            let status = it.choose(&["100", "101", "103"]);
            for _ in 0..it.random.u32(10..=1_000) {
                it.fields(0, &[(":status", status)]);
            }
            it.begin();
            it.respond();
        }
        Manner::Split => {
            it.begin();
            split(it, 0, &HEAD);
            it.messages(LONGEST_FRAME);
            let code = it.order.code.to_string();
            split(it, END_STREAM, &[("grpc-status", &code)]);
        }
        Manner::Padded => padded(it),
        Manner::TinyFrames => {
            it.begin();
            // A long payload would take millions of frames.
            let least = it.reply().len() / 256 + 1;
            let size = it.random.usize(least..least + 8);
            it.respond_in_frames(size);
        }
        Manner::Trickle => trickle(it),
        Manner::EmptyData => empty_frames(it, 10),
        Manner::EmptyDataFlood => empty_frames(it, 500),
        Manner::UnknownFrames => {
            it.begin();
            strangers(it);
            it.head();
            strangers(it);
            it.messages(LONGEST_FRAME);
            strangers(it);
            let code = it.order.code;
            it.trailers(code);
        }
        Manner::FramesAfterEnd => {
            it.begin();
            it.respond();
            it.pause_maybe();
            let message = it.reply();
            match it.random.u8(..4) {
                0 => it.frame(WINDOW_UPDATE, 0, vec![0, 0, 1, 0]),
                1 => it.raw_data(0, message),
                2 => it.raw_data(END_STREAM, Vec::new()),
                _ => it.trailers(13),
            }
        }
        Manner::ResetAfterEnd => {
            it.begin();
            it.respond();
            it.pause_maybe();
            let code = it.choose(&[NO_ERROR, CANCEL, 2, 1]);
            it.reset(code);
        }
        Manner::AfterCancel => {
            it.steps.push_back(Step::ClientReset);
            it.pause_between(0, 3_000);
            it.respond();
        }
        _ => return false,
    }
    true
}

/// A head in frames of a few bytes.
fn split(it: &mut Draft<'_>, flags: u8, fields: &[(&str, &str)]) {
    let block = hpack::block(fields);
    let size = it.random.usize(8..block.len().max(9));
    let mut parts = block.chunks(size).peekable();
    let mut kind = HEADERS;
    let mut flags = flags;
    while let Some(part) = parts.next() {
        let ends = if parts.peek().is_none() {
            END_HEADERS
        } else {
            0
        };
        it.frame(kind, flags | ends, part.to_vec());
        kind = CONTINUATION;
        flags = 0;
    }
}

/// A response that comes in parts, with a pause after each.
fn trickle(it: &mut Draft<'_>) {
    it.begin();
    it.head();
    let begin = it.steps.len();
    it.messages(LONGEST_FRAME);
    let pause = Duration::from_millis(it.random.u64(1..=500));
    for step in it.steps.split_off(begin) {
        let Step::Data { bytes, .. } = step else {
            it.steps.push_back(step);
            continue;
        };
        for part in bytes.chunks(bytes.len().div_ceil(20).max(1)) {
            it.data(part.to_vec());
            it.pause(pause);
        }
    }
    let code = it.order.code;
    it.trailers(code);
}

/// A response whose frames are padded, but those of long messages.
fn padded(it: &mut Draft<'_>) {
    it.begin();
    let head = pad(it, &hpack::block(&HEAD));
    it.frame(HEADERS, END_HEADERS | PADDED, head);
    let begin = it.steps.len();
    it.messages(LONGEST_FRAME);
    for place in begin..it.steps.len() {
        if let Step::Data { bytes, .. } = &it.steps[place]
            && bytes.len() < 1_024
        {
            let payload = pad(it, &bytes.clone()).into();
            it.steps[place] = Step::Frame {
                kind: DATA,
                flags: PADDED,
                stream: it.stream,
                payload,
            };
        }
    }
    let code = it.order.code.to_string();
    let trailers = pad(it, &hpack::block(&[("grpc-status", &code)]));
    it.frame(HEADERS, END_HEADERS | END_STREAM | PADDED, trailers);
}

/// The bytes with their padding.
fn pad(it: &mut Draft<'_>, bytes: &[u8]) -> Vec<u8> {
    let length = it.random.u8(..);
    let mut padded = vec![length];
    padded.extend(bytes);
    padded.extend(vec![0; length.into()]);
    padded
}

fn empty_frames(it: &mut Draft<'_>, most: u32) {
    it.begin();
    it.head();
    for _ in 0..it.random.u32(1..=most) {
        it.raw_data(0, Vec::new());
    }
    it.messages(LONGEST_FRAME);
    let code = it.order.code;
    it.trailers(code);
}

/// Frames that mean nothing.
fn strangers(it: &mut Draft<'_>) {
    for _ in 0..it.random.u32(1..=5) {
        let length = it.random.usize(..64);
        let noise = it.noise(length);
        if it.random.bool() {
            let (kind, flags) = (it.random.u8(16..), it.random.u8(..));
            it.frame(kind, flags, noise);
        } else {
            it.frame(PRIORITY, 0, vec![0, 0, 0, 0, 7]);
        }
    }
}
