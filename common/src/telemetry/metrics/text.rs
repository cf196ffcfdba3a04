//! The text formats of Prometheus.

use prometheus_client::encoding::text::{encode_eof, encode_registry};

use super::{process::process_registry, registry};

/// The media type of `OpenMetrics`, which Prometheus prefers.
const OPEN_METRICS: &str = "application/openmetrics-text";

/// All metrics of the process, as the operators' port serves them at `/metrics`, and their media type:
/// `OpenMetrics` for a client that accepts it, and for others the older text format of Prometheus. It is for
/// a program that has a port of its own for them.
///
/// ```
/// let (media_type, text) = common::metrics::text("application/openmetrics-text");
/// assert!(media_type.starts_with("application/openmetrics-text"));
/// assert!(text.ends_with("# EOF\n"));
/// ```
pub fn text(accept: &str) -> (&'static str, String) {
    const WRITABLE: &str = "writing to a String cannot fail";
    let mut text = String::new();
    encode_registry(&mut text, &process_registry()).expect(WRITABLE);
    registry::append(&mut text);
    if accept.contains(OPEN_METRICS) {
        encode_eof(&mut text).expect(WRITABLE);
        let media_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        (media_type, text)
    } else {
        ("text/plain; version=0.0.4; charset=utf-8", plain(&text))
    }
}

/// Translates `OpenMetrics` to the older format. There, the help and the type of a counter name its
/// sample, which ends with `_total`, and units have no lines of their own.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if line.starts_with("# UNIT ") {
            continue;
        }
        // The help comes right before the type.
        let of_type = if line.starts_with("# HELP ") {
            lines.peek().copied().unwrap_or_default()
        } else {
            line
        };
        let is_counter = of_type.starts_with("# TYPE ") && of_type.ends_with(" counter");
        match line.splitn(4, ' ').collect::<Vec<_>>()[..] {
            ["#", keyword, name, rest] if is_counter => {
                plain.extend(["# ", keyword, " ", name, "_total ", rest]);
            }
            _ => plain.push_str(line),
        }
        plain.push('\n');
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_older_format_names_counters_by_their_sample() {
        let open = "# HELP a Things counted.\n# TYPE a counter\na_total 1\n# HELP b_bytes Size.\n\
                    # TYPE b_bytes gauge\n# UNIT b_bytes bytes\nb_bytes 2\n";
        let expected = "# HELP a_total Things counted.\n# TYPE a_total counter\na_total 1\n\
                        # HELP b_bytes Size.\n# TYPE b_bytes gauge\nb_bytes 2\n";
        assert_eq!(plain(open), expected);
    }

    #[test]
    fn a_scraper_gets_the_format_that_it_accepts() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;q=0.3";
        let (media_type, text) = text(prometheus);
        assert!(media_type.starts_with(OPEN_METRICS) && text.ends_with("# EOF\n"));
        let (media_type, text) = super::text("*/*");
        assert!(media_type.starts_with("text/plain") && !text.contains("# EOF"));
    }
}
