//! A `grpc-timeout` is one to eight digits and a unit, or an error.

use common::deadline::parse_timeout;
use http::HeaderValue;

pub fn run(bytes: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(bytes) else {
        return;
    };
    let is_valid = bytes.split_last().is_some_and(|(unit, digits)| {
        (1..=8).contains(&digits.len())
            && digits.iter().all(u8::is_ascii_digit)
            && b"HMSmun".contains(unit)
    });
    assert_eq!(parse_timeout(&value).is_ok(), is_valid);
}
