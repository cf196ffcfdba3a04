//! Notes channels without mutual TLS, for a process that has it: their calls would be in plain text
//! although nobody has said so.

use std::{fmt::Display, sync::OnceLock};

/// The target of the first channel that was made from settings without mutual TLS. The settings of
/// the process may have it: only [`run`](crate::server::run) knows them.
static WITHOUT_TLS: OnceLock<String> = OnceLock::new();

/// Notes the target of a channel that was made from settings without mutual TLS.
pub(crate) fn note_channel_without_tls(target: impl Display) {
    WITHOUT_TLS.get_or_init(|| target.to_string());
}

/// The target of the first such channel.
pub(crate) fn channel_without_tls() -> Option<&'static str> {
    WITHOUT_TLS.get().map(String::as_str)
}
