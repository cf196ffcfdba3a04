//! GOAWAY upon a call. Its last id is never lower than a call that was processed.

use bytes::Bytes;
use tests::frame::GOAWAY;

use super::super::{
    draft::Draft,
    manner::Manner,
    step::{Last, Step},
};

const NO_ERROR: u32 = 0;

pub(super) fn write(manner: Manner, it: &mut Draft<'_>) -> bool {
    match manner {
        Manner::GoAwayRefusing => refuse(it),
        Manner::GoAwayRefusingThenClose => {
            refuse(it);
            it.pause_maybe();
            it.close();
        }
        Manner::GoAwayRefusingThenMute => {
            refuse(it);
            it.mute();
        }
        Manner::GoAwayThenGood => {
            it.go_away(Last::Processed, NO_ERROR);
            respond(it);
        }
        Manner::GoAwayWithDebugData => {
            let length = it.random.usize(1..10_000);
            let debug = it.noise(length);
            let code = any_code(it);
            it.steps
                .push_back(Step::GoAway(Last::Processed, code, debug));
            respond(it);
        }
        Manner::GoAwayTwice => {
            it.go_away(Last::Max, NO_ERROR);
            it.pause_between(0, 2_000);
            it.go_away(Last::Processed, NO_ERROR);
            respond(it);
        }
        Manner::GoAwayRising => {
            it.go_away(Last::Processed, NO_ERROR);
            it.pause_maybe();
            let last = it.choose(&[Last::Max, Last::Next]);
            it.go_away(last, NO_ERROR);
            respond(it);
        }
        Manner::GoAwayFlood => {
            for _ in 0..it.random.u32(10..=300) {
                it.go_away(Last::Max, NO_ERROR);
            }
            it.go_away(Last::Processed, NO_ERROR);
            respond(it);
        }
        Manner::GoAwayThenMute => {
            let last = it.choose(&[Last::Processed, Last::Max]);
            let code = any_code(it);
            it.go_away(last, code);
            it.mute();
        }
        Manner::GoAwayThenClose => {
            let last = it.choose(&[Last::Processed, Last::Next, Last::Max]);
            let code = any_code(it);
            it.go_away(last, code);
            it.pause_maybe();
            it.close();
        }
        Manner::GoAwayShort => {
            let length = it.random.usize(..8);
            it.frame_on(0, GOAWAY, 0, Bytes::from_static(&[0; 8]).slice(..length));
            respond(it);
        }
        _ => return false,
    }
    true
}

fn refuse(it: &mut Draft<'_>) {
    let code = any_code(it);
    it.go_away(Last::Processed, code);
}

/// No error, or any.
fn any_code(it: &mut Draft<'_>) -> u32 {
    if it.random.bool() {
        NO_ERROR
    } else {
        it.any_error()
    }
}

fn respond(it: &mut Draft<'_>) {
    it.begin();
    it.pause_maybe();
    it.respond();
}
