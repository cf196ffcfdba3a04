//! The closed loop: each connection sends a request as soon as it has the response to the last one.

use std::{process::Command, time::Duration};

use crate::{Result, question::Question};

/// The figures of wrk.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Report {
    pub(crate) requests: f64,
    pub(crate) per_second: f64,
    pub(crate) p99: Duration,
}

/// Runs wrk on one thread, to leave the cores to the services.
pub(crate) fn run(question: &Question, connections: usize, time: Duration) -> Result<Report> {
    let output = Command::new("wrk")
        .args(["-t1", "--latency", "--timeout", "10s"])
        .arg(format!("-c{connections}"))
        .arg(format!("-d{}s", time.as_secs().max(1)))
        .arg(question.url())
        .output()
        .map_err(|error| {
            format!("wrk can't be run: {error}; install it (Debian: apt-get install wrk)")
        })?;
    let text = String::from_utf8_lossy(&output.stdout);
    parse(&text).ok_or_else(|| {
        format!(
            "wrk did not succeed: {text}{}",
            String::from_utf8_lossy(&output.stderr)
        )
        .into()
    })
}

/// Parses the output of wrk. Returns `None` if there were errors.
fn parse(text: &str) -> Option<Report> {
    if text.contains("Non-2xx") || text.contains("Socket errors") {
        return None;
    }
    let words = |prefix: &str| {
        text.lines()
            .map(str::trim)
            .find_map(|line| line.strip_prefix(prefix))
    };
    let requests = text.lines().find(|line| line.contains(" requests in "))?;
    Some(Report {
        requests: requests.split_whitespace().next()?.parse().ok()?,
        per_second: words("Requests/sec:")?.trim().parse().ok()?,
        p99: duration(words("99%")?.trim())?,
    })
}

/// Parses a duration of wrk, such as `1.23ms`.
fn duration(text: &str) -> Option<Duration> {
    let unit = text.find(|character: char| character.is_ascii_alphabetic())?;
    let (number, unit) = text.split_at(unit);
    let seconds = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        _ => return None,
    };
    Some(Duration::from_secs_f64(
        number.parse::<f64>().ok()? * seconds,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "Running 1s test @ http://127.0.0.1:20005/api/v1/say-hello?name=test
  1 threads and 100 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     5.12ms    2.03ms  28.31ms   79.03%
    Req/Sec    20.12k     1.12k   21.90k    70.00%
  Latency Distribution
     50%    4.70ms
     75%    5.97ms
     90%    7.45ms
     99%   12.80ms
  20125 requests in 1.00s, 4.41MB read
Requests/sec:  20078.95
Transfer/sec:      4.40MB
";

    #[test]
    fn its_report_is_read() {
        let report = parse(TEXT).unwrap();
        assert_eq!(
            (report.requests, report.per_second, report.p99),
            (20_125.0, 20_078.95, Duration::from_micros(12_800))
        );
    }

    #[test]
    fn answers_that_are_errors_are_no_result() {
        assert!(parse(&format!("{TEXT}  Non-2xx or 3xx responses: 7\n")).is_none());
        assert!(
            parse(&format!(
                "{TEXT}  Socket errors: connect 0, read 3, write 0, timeout 0\n"
            ))
            .is_none()
        );
    }
}
