//! Figures and times in the words of the page.

use std::time::{Duration, SystemTime};

use crate::telemetry::metrics::Percentile;

pub(crate) fn date(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

/// A span of time: in days, or below two days in its two largest units.
pub(crate) fn span(span: Duration) -> String {
    let days = span.as_secs() / (24 * 60 * 60);
    if days >= 2 {
        return format!("{days} days");
    }
    let text = humantime::format_duration(Duration::from_secs(span.as_secs())).to_string();
    let units: Vec<_> = text.split(' ').take(2).collect();
    units.join(" ")
}

/// The span from a time up to now. A clock may have been set back.
pub(crate) fn age(now: SystemTime, time: SystemTime) -> String {
    span(now.duration_since(time).unwrap_or_default())
}

/// How long a request took, in three digits or fewer.
pub(crate) fn took(duration: Duration) -> String {
    let millis = duration.as_secs_f64() * 1e3;
    match millis {
        ..9.995 => format!("{millis:.2} ms"),
        ..99.95 => format!("{millis:.1} ms"),
        ..999.5 => format!("{millis:.0} ms"),
        _ => format!("{:.1} s", millis / 1e3),
    }
}

pub(crate) fn percentile(percentile: Percentile) -> String {
    match percentile {
        Percentile::About(duration) => took(duration),
        Percentile::Above(bound) => format!("> {}", span(bound)),
    }
}

/// A rate in requests/s.
pub(crate) fn rate(per_second: f64) -> String {
    match per_second {
        0.0 => "0".into(),
        ..0.995 => format!("{per_second:.2}"),
        ..99.95 => format!("{per_second:.1}"),
        _ => format!("{per_second:.0}"),
    }
}

pub(crate) fn bytes(bytes: u64) -> String {
    format!("{} MB", bytes.div_ceil(1_000_000))
}

/// The list as a phrase: `a`, `a and b`, `a, b and c`.
pub(crate) fn and(words: &[&str]) -> String {
    match words {
        [] => String::new(),
        [only] => (*only).to_owned(),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_has_one_unit_or_two() {
        assert_eq!(span(Duration::from_secs(0)), "0s");
        assert_eq!(span(Duration::from_secs(59)), "59s");
        assert_eq!(span(Duration::from_secs(3_600 * 25 + 61)), "1day 1h");
        assert_eq!(span(Duration::from_hours(9 * 24)), "9 days");
    }

    #[test]
    fn a_figure_has_the_digits_that_matter() {
        for (micros, text) in [
            (70, "0.07 ms"),
            (9_994, "9.99 ms"),
            (9_996, "10.0 ms"),
            (250_000, "250 ms"),
            (999_600, "1.0 s"),
        ] {
            assert_eq!(took(Duration::from_micros(micros)), text);
        }
        for (per_second, text) in [
            (0.0, "0"),
            (1.0 / 60.0, "0.02"),
            (1.0, "1.0"),
            (99.96, "100"),
        ] {
            assert_eq!(rate(per_second), text);
        }
        let above = Percentile::Above(Duration::from_secs(10));
        assert_eq!(percentile(above), "> 10s");
    }

    #[test]
    fn a_list_is_a_phrase() {
        assert_eq!(and(&[]), "");
        assert_eq!(and(&["a"]), "a");
        assert_eq!(and(&["a", "b", "c"]), "a, b and c");
    }
}
