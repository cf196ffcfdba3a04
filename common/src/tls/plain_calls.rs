//! Notes channels whose settings contradict those of the process: without mutual TLS, for a process that has
//! it, so that calls would be in plain text although nobody has said so; and with it, for a target that says
//! plain text.

use std::{fmt::Display, sync::OnceLock};

/// The target of the first channel that was made from settings without mutual TLS. The settings of
/// the process may have it: only [`run`](crate::server::run) knows them.
static WITHOUT_TLS: OnceLock<String> = OnceLock::new();

/// The target of the first channel with mutual TLS that begins with `http://`.
static HTTP_WITH_TLS: OnceLock<String> = OnceLock::new();

/// Notes the target of a channel that was made from settings without mutual TLS.
pub(crate) fn note_channel_without_tls(target: impl Display) {
    WITHOUT_TLS.get_or_init(|| target.to_string());
}

/// The target of the first such channel.
pub(crate) fn channel_without_tls() -> Option<&'static str> {
    WITHOUT_TLS.get().map(String::as_str)
}

/// Notes a target that begins with `http://`, of a channel with mutual TLS.
pub(crate) fn note_http_with_tls(target: impl Display) {
    HTTP_WITH_TLS.get_or_init(|| target.to_string());
}

/// The first such target.
pub(crate) fn http_with_tls() -> Option<&'static str> {
    HTTP_WITH_TLS.get().map(String::as_str)
}
