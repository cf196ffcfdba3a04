//! Which events are logged.

use tracing_subscriber::filter::{LevelFilter, Targets};

/// The dependencies of this crate that log. Clients decide how much (a frame of nine bytes makes h2 log a
/// warning), so only errors of a dependency are logged, unless the filter names it. `dependencies` has the rule
/// for all others.
const DEPENDENCIES: [&str; 9] = [
    "axum",
    "h2",
    "hyper",
    "hyper_util",
    "mio",
    "tokio",
    "tonic",
    "tower",
    "tower_http",
];

/// A part of a filter that can't be parsed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is neither a level (off, error, warn, info, debug, trace) nor target=level; separate several with commas"
)]
pub struct InvalidFilter(String);

/// Parses a filter: parts separated by commas. A level alone (default: `info`) applies to all
/// targets except dependencies. `target=level` applies to one module or dependency.
///
/// ```
/// use common::logging::parse_filter;
///
/// assert!(parse_filter("debug, h2=trace").is_ok());
/// assert!(parse_filter("").is_ok());
/// assert!(parse_filter("infoo").is_err());
/// ```
///
/// # Errors
///
/// [`InvalidFilter`] if a part is neither of the two.
pub fn parse_filter(text: &str) -> Result<Targets, InvalidFilter> {
    let quiet = DEPENDENCIES.map(|dependency| (dependency, LevelFilter::ERROR));
    let mut filter = Targets::new()
        .with_default(LevelFilter::INFO)
        .with_targets(quiet);
    for directive in text
        .split(',')
        .map(str::trim)
        .filter(|text| !text.is_empty())
    {
        let invalid = || InvalidFilter(directive.to_owned());
        let (target, level) = match directive.split_once('=') {
            Some((target, level)) => (Some(target.trim_end()), level.trim_start()),
            None => (None, directive),
        };
        let level = parse_level(level).ok_or_else(invalid)?;
        filter = match target {
            None => filter.with_default(level),
            Some(target) if is_target(target) => filter.with_target(target, level),
            Some(_) => return Err(invalid()),
        };
    }
    Ok(filter)
}

fn parse_level(text: &str) -> Option<LevelFilter> {
    let is_word = text.bytes().all(|byte| byte.is_ascii_alphabetic());
    text.parse().ok().filter(|_| is_word && !text.is_empty())
}

/// Whether the text looks like a module path.
fn is_target(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_:-.".contains(&byte);
    !text.is_empty() && text.bytes().all(is_plain)
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn dependencies_log_errors_unless_the_filter_names_them() {
        for (text, target, level, is_logged) in [
            ("", "service2", Level::INFO, true),
            ("", "service2", Level::DEBUG, false),
            ("", "h2::proto::ping_pong", Level::WARN, false),
            ("", "h2::proto::ping_pong", Level::ERROR, true),
            (" debug ", "service2", Level::DEBUG, true),
            ("debug", "hyper::proto", Level::WARN, false),
            ("debug,h2=debug", "h2::codec", Level::DEBUG, true),
            (
                "error, common::server = info",
                "common::server::process",
                Level::INFO,
                true,
            ),
            ("error,common::server=info", "service2", Level::WARN, false),
            ("off", "service2", Level::ERROR, false),
        ] {
            let filter = parse_filter(text).unwrap();
            assert_eq!(
                filter.would_enable(target, &level),
                is_logged,
                "{text} {target}"
            );
        }
    }

    #[test]
    fn an_invalid_part_is_refused() {
        for text in [
            "infoo",
            "garbage=",
            "=info",
            "a=b",
            "info;debug",
            "1",
            "a b=info",
            "[x]=info",
        ] {
            let error = parse_filter(text).unwrap_err().to_string();
            assert!(error.contains(&format!("{text:?}")), "{error}");
        }
    }
}
