//! The script of each manner.

mod connections;
mod frames;
mod good;
mod goodbyes;
mod heads;
mod health;
mod messages;
mod resets;
mod settings;
mod statuses;

use super::{draft::Draft, manner::Manner};

/// What a fake does on its connection beside its scripts.
#[derive(Debug)]
pub(super) struct Habits {
    /// Whether it reads frames.
    pub(super) listens: bool,
    /// Whether it acknowledges settings.
    pub(super) acknowledges: bool,
    /// Whether it lets the client send more.
    pub(super) grants: bool,
    /// The most streams at once. It refuses further ones.
    pub(super) max_streams: usize,
    /// How it answers pings.
    pub(super) pings: Pings,
}

impl Default for Habits {
    fn default() -> Self {
        Self {
            listens: true,
            acknowledges: true,
            grants: true,
            max_streams: 10_000, // bounds the memory
            pings: Pings::Answered,
        }
    }
}

/// How a fake answers pings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pings {
    /// At once.
    Answered,
    /// Never.
    Unanswered,
    /// Late.
    Late,
    /// With other bytes.
    OtherBytes,
}

/// Writes the script of a manner.
pub(super) fn write(manner: Manner, draft: &mut Draft<'_>, habits: &mut Habits) {
    let is_written = good::write(manner, draft)
        || statuses::write(manner, draft)
        || messages::write(manner, draft)
        || heads::write(manner, draft)
        || frames::write(manner, draft)
        || resets::write(manner, draft)
        || goodbyes::write(manner, draft)
        || health::write(manner, draft)
        || settings::write(manner, draft, habits)
        || connections::write(manner, draft, habits);
    assert!(is_written, "{manner:?} has no script");
}
