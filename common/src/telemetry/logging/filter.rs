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

/// A part of a filter that can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{part:?} {why}")]
pub struct InvalidFilter {
    part: String,
    why: Why,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum Why {
    #[error(
        "is neither a level (off, error, warn, info, debug, trace), nor a target, nor target=level; \
         separate several with commas"
    )]
    Malformed,
    #[error("selects by span or field, which this log does not do: select by target and level")]
    Span,
    #[error(
        "is not a level (off, error, warn, info, debug, trace); if it is a target, write it with its level, \
         such as =trace"
    )]
    AlmostLevel,
}

/// Parses a filter, in the syntax of `RUST_LOG`: parts separated by commas. A level alone (default: `info`)
/// applies to all targets except dependencies. `target=level` applies to one module or dependency, and
/// `target` alone to all its events. A level is a word or its number, from 0 (off) to 5 (trace).
///
/// Parts that select by span or field (`target[span{field=value}]=level`) are refused: such a filter takes a
/// lock for every span.
///
/// ```
/// use common::logging::parse_filter;
///
/// assert!(parse_filter("debug, h2=trace, service2::rest").is_ok());
/// assert!(parse_filter("").is_ok());
/// assert!(parse_filter("infoo").is_err());
/// assert!(parse_filter("[request]=debug").is_err());
/// ```
///
/// # Errors
///
/// [`InvalidFilter`] if a part is none of them, or a word that is almost a level.
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
        let (target, level) = parse(directive).map_err(|why| InvalidFilter {
            part: directive.to_owned(),
            why,
        })?;
        filter = match target {
            None => filter.with_default(level),
            Some(target) => filter.with_target(target, level),
        };
    }
    Ok(filter)
}

/// The target of a part, if it has one, and its level.
fn parse(part: &str) -> Result<(Option<&str>, LevelFilter), Why> {
    if part.contains(['[', '{']) {
        return Err(Why::Span);
    }
    let (target, level) = match part.split_once('=') {
        Some((target, level)) => (target.trim_end(), parse_level(level.trim_start())),
        None if let Some(level) = parse_level(part) => return Ok((None, level)),
        None if is_almost_level(part) => return Err(Why::AlmostLevel),
        None => (part, Some(LevelFilter::TRACE)),
    };
    match level {
        Some(level) if is_target(target) => Ok((Some(target), level)),
        _ => Err(Why::Malformed),
    }
}

fn parse_level(text: &str) -> Option<LevelFilter> {
    let is_word = text.bytes().all(|byte| byte.is_ascii_alphanumeric());
    text.parse().ok().filter(|_| is_word && !text.is_empty())
}

/// Whether a word begins as a level does, such as `infoo` or `warning`: as a target it would let the log
/// say less than was meant.
fn is_almost_level(word: &str) -> bool {
    const BEGINNINGS: [&str; 6] = ["off", "err", "warn", "info", "debug", "trace"];
    let word = word.to_ascii_lowercase();
    let is_one_word = word.bytes().all(|byte| byte.is_ascii_alphanumeric());
    is_one_word
        && BEGINNINGS
            .iter()
            .any(|beginning| word.starts_with(beginning))
}

/// Whether the text looks like a module path.
fn is_target(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_:-.".contains(&byte);
    let begins = |byte: &u8| !byte.is_ascii_digit();
    text.as_bytes().first().is_some_and(begins) && text.bytes().all(is_plain)
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
            ("INFO,Service2=Debug", "service2", Level::DEBUG, false),
            ("INFO,service2=Debug", "service2", Level::DEBUG, true),
            ("h2", "h2::codec", Level::TRACE, true),
            ("h2", "service2", Level::INFO, true),
            (
                "warn,common::server",
                "common::server::process",
                Level::TRACE,
                true,
            ),
            ("warn,common::server", "service2", Level::INFO, false),
            ("4", "service2", Level::DEBUG, true),
            ("0,h2=5", "h2::codec", Level::TRACE, true),
            ("0,h2=5", "service2", Level::ERROR, false),
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
        for (text, why) in [
            ("infoo", Why::AlmostLevel),
            ("Warning", Why::AlmostLevel),
            ("garbage=", Why::Malformed),
            ("=info", Why::Malformed),
            ("a=b", Why::Malformed),
            ("info;debug", Why::Malformed),
            ("6", Why::Malformed),
            ("info/words", Why::Malformed),
            ("a b=info", Why::Malformed),
            ("[x]=info", Why::Span),
            ("service2[say_hello{name=\"x\"}]=debug", Why::Span),
        ] {
            let error = parse_filter(text).unwrap_err();
            assert_eq!(error.why, why, "{text}");
            assert!(error.to_string().contains(&format!("{text:?}")), "{error}");
        }
    }
}
