//! The process: from its start, over its connections, to the end of its drain.

mod accept;
mod control_frames;
mod drive;
mod evictable;
mod http;
pub(super) mod lifetime;
pub(super) mod run;
mod signals;
mod socket;
mod streams;
pub(super) mod worker;
