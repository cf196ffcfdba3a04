//! Responses to health checks.

use super::super::{
    draft::{Draft, prefixed},
    manner::Manner,
    step::Last,
};

const NO_ERROR: u32 = 0;

/// The encoded status of a `HealthCheckResponse`.
const SERVING: [u8; 2] = [8, 1];
const NOT_SERVING: [u8; 2] = [8, 2];

pub(super) fn write(manner: Manner, it: &mut Draft<'_>) -> bool {
    match manner {
        Manner::HealthGoAwayAtTimes if it.random.bool() => {
            it.go_away(Last::Processed, NO_ERROR);
        }
        Manner::Serving | Manner::HealthGoAwayAtTimes => reply(it, SERVING),
        Manner::ServingLate => {
            it.pause_between(50, 3_000);
            reply(it, SERVING);
        }
        Manner::NotServing => reply(it, NOT_SERVING),
        Manner::NotServingAtTimes => {
            let status = it.choose(&[SERVING, SERVING, NOT_SERVING]);
            reply(it, status);
        }
        Manner::HealthUnimplemented => it.end(&[("grpc-status", "12")]),
        Manner::HealthUnavailable => it.end(&[("grpc-status", "14")]),
        Manner::HealthSilent => {}
        Manner::HealthNotGrpc => {
            it.fields(0, &[(":status", "404"), ("content-type", "text/html")]);
            it.last_data("<html>");
        }
        Manner::HealthGarbage => {
            it.head();
            it.data(prefixed(0, &[0xff; 3]));
            it.trailers(0);
        }
        Manner::HealthReset => it.any_reset(),
        _ => return false,
    }
    true
}

fn reply(it: &mut Draft<'_>, status: [u8; 2]) {
    it.head();
    it.data(prefixed(0, &status));
    it.trailers(0);
}
