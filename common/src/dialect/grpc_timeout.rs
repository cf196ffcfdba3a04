//! `grpc-timeout`, the header that carries the time left until a deadline: [`format_timeout`] and
//! [`parse_timeout`].

use std::time::Duration;

use http::{HeaderMap, HeaderValue};

use crate::{
    headers::first,
    request::{
        context::Deadline,
        dialect::{Asked, Fault},
    },
};

/// The units of `grpc-timeout`, finest first: the letter and the nanoseconds.
const UNITS: [(u8, u64); 6] = [
    (b'n', 1),
    (b'u', 1_000),
    (b'm', 1_000_000),
    (b'S', 1_000_000_000),
    (b'M', 60_000_000_000),
    (b'H', 3_600_000_000_000),
];

/// The most digits of a `grpc-timeout`.
const MAX_DIGITS: usize = 8;
const MAX_VALUE: u64 = 99_999_999;

/// Timeouts of at least this are written in milliseconds or a coarser unit. So they have few
/// values, which HTTP/2's header tables hold, and most calls send one byte.
const COARSE: Duration = Duration::from_secs(1);
const MILLISECONDS: usize = 2;

/// Writes a timeout as a `grpc-timeout`, precise to a thousandth. It is rounded down: the next hop
/// must never have more time.
///
/// ```
/// use std::time::Duration;
/// use common::deadline::{format_timeout, parse_timeout};
///
/// let text = format_timeout(Duration::from_millis(9_990));
/// assert_eq!(text, "9990m");
/// assert_eq!(parse_timeout(&text), Ok(Duration::from_millis(9_990)));
/// ```
pub fn format_timeout(timeout: Duration) -> HeaderValue {
    // The u64 is capped at 584 years, beyond any deadline.
    let nanos = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
    let is_coarse = timeout >= COARSE;
    let (unit, value) = UNITS[if is_coarse { MILLISECONDS } else { 0 }..]
        .iter()
        .map(|(unit, size)| (unit, nanos / size))
        .find(|(_, value)| *value <= MAX_VALUE)
        .expect("584 years in hours have eight digits at most");
    let mut text = [*unit; MAX_DIGITS + 1];
    let mut digits = itoa::Buffer::new();
    let digits = digits.format(value).as_bytes();
    text[..digits.len()].copy_from_slice(digits);
    let mut header = HeaderValue::from_bytes(&text[..=digits.len()])
        .expect("digits and a letter are a header value");
    header.set_sensitive(!is_coarse); // which keeps the value out of HTTP/2's header tables
    header
}

/// Reads a `grpc-timeout`: one to eight ASCII digits and a unit.
pub fn parse_timeout(value: &HeaderValue) -> Result<Duration, InvalidTimeout> {
    let (unit, digits) = value.as_bytes().split_last().ok_or(InvalidTimeout)?;
    let (_, size) = UNITS
        .into_iter()
        .find(|(letter, _)| letter == unit)
        .ok_or(InvalidTimeout)?;
    if !(1..=MAX_DIGITS).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return Err(InvalidTimeout);
    }
    let value = digits
        .iter()
        .fold(0, |sum, digit| sum * 10 + u128::from(digit - b'0'));
    Ok(Duration::from_nanos_u128(value * u128::from(size)))
}

/// The value is not a `grpc-timeout`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is not one to eight digits and a unit of H, M, S, m, u or n")]
pub struct InvalidTimeout;

/// Adds the time that the client gives the request, or the fault of its header.
pub(super) fn with_timeout(mut asked: Asked, headers: &HeaderMap) -> Asked {
    match first(headers, &Deadline::GRPC_TIMEOUT).map(parse_timeout) {
        Some(Ok(timeout)) => asked.timeout = Some(timeout),
        Some(Err(reason)) => asked.faults.push(Fault {
            action: "grpc_timeout",
            status: "ignored",
            reason: Some(reason.to_string()),
            message: "the request's grpc-timeout is not usable",
        }),
        None => {}
    }
    asked
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<Duration, InvalidTimeout> {
        parse_timeout(&HeaderValue::from_str(text).unwrap())
    }

    proptest! {
        #[test]
        fn a_written_timeout_reads_back_and_is_never_longer(secs in 0..400_000_000_000_u64, nanos in 0..1_000_000_000_u32) {
            let timeout = Duration::new(secs, nanos);
            let text = format_timeout(timeout);
            let read = parse_timeout(&text).unwrap();
            prop_assert!(read <= timeout);
            // Timeouts of more than 584 years are capped.
            let capped = Duration::from_nanos(u64::MAX);
            prop_assert!(timeout >= capped || timeout.saturating_sub(read) <= timeout / 1_000);
        }

        #[test]
        fn every_valid_text_is_read(value in 0..=99_999_999_u64, unit in "[HMSmun]") {
            let seconds = |factor: u64| Duration::from_secs(value * factor);
            let expected = match unit.as_str() {
                "H" => seconds(3_600),
                "M" => seconds(60),
                "S" => seconds(1),
                "m" => Duration::from_millis(value),
                "u" => Duration::from_micros(value),
                _ => Duration::from_nanos(value),
            };
            prop_assert_eq!(parse(&format!("{value}{unit}")), Ok(expected));
        }

        #[test]
        fn only_valid_texts_are_read(text in "[ -~]{0,12}") {
            let valid = text.len() >= 2 && text.len() <= 9
                && text.ends_with(['H', 'M', 'S', 'm', 'u', 'n'])
                && text[..text.len() - 1].bytes().all(|byte| byte.is_ascii_digit());
            prop_assert_eq!(parse(&text).is_ok(), valid);
        }
    }

    #[test]
    fn malformed_texts_are_refused() {
        for text in [
            "",
            "S",
            "10",
            "10s",
            "-1S",
            "1.5S",
            "100000000S",
            "1 S",
            "+1S",
        ] {
            assert_eq!(parse(text), Err(InvalidTimeout), "{text:?}");
        }
    }
}
