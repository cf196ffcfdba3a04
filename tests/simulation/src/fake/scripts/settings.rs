//! Connections whose settings, windows or pings are unusual.

use tests::frame::{ACK, PING, SETTINGS, WINDOW_UPDATE};

use super::{
    super::{draft::Draft, manner::Manner},
    Habits, Pings,
};

const HEADER_TABLE_SIZE: u16 = 1;
const ENABLE_PUSH: u16 = 2;
pub(super) const MAX_CONCURRENT_STREAMS: u16 = 3;
const INITIAL_WINDOW_SIZE: u16 = 4;
const MAX_FRAME_SIZE: u16 = 5;
const MAX_HEADER_LIST_SIZE: u16 = 6;
const UNKNOWN: u16 = 0x7a7a;

pub(super) fn write(manner: Manner, it: &mut Draft<'_>, habits: &mut Habits) -> bool {
    write_settings(manner, it, habits) || write_pings(manner, it, habits)
}

fn write_settings(manner: Manner, it: &mut Draft<'_>, habits: &mut Habits) -> bool {
    match manner {
        Manner::Plain => settings(it, &[]),
        Manner::OneStream => {
            settings(it, &[(MAX_CONCURRENT_STREAMS, 1)]);
            habits.max_streams = 1;
        }
        Manner::SomeStreams => {
            let streams = it.random.u16(2..=512);
            settings(it, &[(MAX_CONCURRENT_STREAMS, streams.into())]);
            habits.max_streams = streams.into();
        }
        Manner::NoStreamsForAWhile => {
            settings(it, &[(MAX_CONCURRENT_STREAMS, 0)]);
            it.pause_between(10, 5_000);
            settings(it, &[(MAX_CONCURRENT_STREAMS, 100)]);
        }
        Manner::NoStreams => {
            settings(it, &[(MAX_CONCURRENT_STREAMS, 0)]);
            habits.max_streams = 0;
        }
        Manner::StreamsChange => {
            for _ in 0..it.random.u32(2..=20) {
                let streams = it.choose(&[0, 1, 2, 10, 100, u32::MAX]);
                settings(it, &[(MAX_CONCURRENT_STREAMS, streams)]);
                it.pause_between(1, 2_000);
            }
            settings(it, &[(MAX_CONCURRENT_STREAMS, 100)]);
        }
        Manner::NoWindow => {
            settings(it, &[(INITIAL_WINDOW_SIZE, 0)]);
            habits.grants = false;
        }
        Manner::SmallWindow => {
            let window = it.random.u32(1..=100);
            settings(it, &[(INITIAL_WINDOW_SIZE, window)]);
        }
        Manner::LargeWindow => {
            let window = it.random.u32(65_536..=1_024 * 1_024);
            settings(it, &[(INITIAL_WINDOW_SIZE, window)]);
        }
        Manner::WindowChanges => {
            for _ in 0..it.random.u32(2..=20) {
                let window = it.random.u32(1..=1_024 * 1_024);
                settings(it, &[(INITIAL_WINDOW_SIZE, window)]);
                it.pause_between(1, 2_000);
            }
            settings(it, &[(INITIAL_WINDOW_SIZE, 65_535)]);
        }
        Manner::OtherSettings => {
            let others = [
                (MAX_HEADER_LIST_SIZE, 1),
                (HEADER_TABLE_SIZE, 0),
                (HEADER_TABLE_SIZE, u32::MAX),
                (MAX_FRAME_SIZE, (1 << 24) - 1),
                (MAX_HEADER_LIST_SIZE, 16 * 1_024),
                (ENABLE_PUSH, 0),
                (UNKNOWN, 7),
            ];
            let begin = it.random.usize(..others.len());
            settings(it, &others[begin..]);
        }
        Manner::SettingsLate => {
            it.pause_between(10, 5_000);
            settings(it, &[]);
        }
        Manner::SettingsNever => {}
        Manner::SettingsUnacknowledged => {
            settings(it, &[]);
            habits.acknowledges = false;
        }
        Manner::SettingsFlood => {
            for _ in 0..it.random.u32(10..=1_000) {
                settings(it, &[(UNKNOWN, 0)]);
            }
        }
        Manner::SettingsInvalid => invalid(it),
        Manner::SettingsAcknowledgedTwice => {
            settings(it, &[]);
            it.frame(SETTINGS, ACK, Vec::new());
        }
        _ => return false,
    }
    true
}

fn write_pings(manner: Manner, it: &mut Draft<'_>, habits: &mut Habits) -> bool {
    match manner {
        Manner::PingUnanswered => {
            settings(it, &[]);
            habits.pings = Pings::Unanswered;
        }
        Manner::PingLate => {
            settings(it, &[]);
            habits.pings = Pings::Late;
        }
        Manner::PingOtherBytes => {
            settings(it, &[]);
            habits.pings = Pings::OtherBytes;
        }
        Manner::PingFlood => {
            settings(it, &[]);
            for _ in 0..it.random.u32(10..=1_000) {
                let noise = it.noise(8);
                it.frame(PING, 0, noise);
            }
        }
        Manner::PingUnasked => {
            settings(it, &[]);
            it.frame(PING, ACK, vec![7; 8]);
        }
        Manner::NoWindowUpdates => {
            settings(it, &[]);
            habits.grants = false;
        }
        Manner::ConnectionWindowZero => {
            settings(it, &[]);
            it.pause_between(0, 2_000);
            it.frame(WINDOW_UPDATE, 0, vec![0; 4]);
        }
        Manner::ConnectionWindowOverflow => {
            settings(it, &[]);
            it.pause_between(0, 2_000);
            it.frame(WINDOW_UPDATE, 0, vec![0x7f, 0xff, 0xff, 0xff]);
        }
        _ => return false,
    }
    true
}

/// Settings that end the connection.
fn invalid(it: &mut Draft<'_>) {
    match it.random.u8(..6) {
        0 => settings(it, &[(INITIAL_WINDOW_SIZE, 1 << 31)]),
        1 => settings(it, &[(MAX_FRAME_SIZE, 100)]),
        2 => settings(it, &[(MAX_FRAME_SIZE, 1 << 24)]),
        3 => settings(it, &[(ENABLE_PUSH, 2)]),
        4 => it.frame(SETTINGS, 0, vec![0; 5]),
        _ => it.frame(SETTINGS, ACK, vec![0; 6]),
    }
}

pub(super) fn settings(it: &mut Draft<'_>, settings: &[(u16, u32)]) {
    let mut payload = Vec::new();
    for (name, value) in settings {
        payload.extend(name.to_be_bytes());
        payload.extend(value.to_be_bytes());
    }
    it.frame(SETTINGS, 0, payload);
}
