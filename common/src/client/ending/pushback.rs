//! [`Pushback`]: when a call may be made again, as its server asks (gRFC A6).

use std::time::Duration;

use http::{HeaderMap, HeaderValue};

use crate::problem::PUSHBACK;

/// What a server asks of the caller after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pushback {
    /// Nothing.
    Unspecified,
    /// To wait for this time.
    After(Duration),
    /// Not to call again.
    Never,
}

impl Pushback {
    /// Reads the pushback from the headers that have the gRPC status. A value that is not a number
    /// of milliseconds means [`Never`](Self::Never).
    pub(crate) fn of(status: &HeaderMap) -> Self {
        let Some(value) = status.get(PUSHBACK) else {
            return Self::Unspecified;
        };
        number_in(value).map_or(Self::Never, |millis| {
            Self::After(Duration::from_millis(millis))
        })
    }
}

/// The number that a header has, in ASCII digits alone: `parse` takes a plus sign as well.
fn number_in(value: &HeaderValue) -> Option<u64> {
    let digits = value.to_str().ok()?;
    let are_digits = digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| are_digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_may_say_when_or_never() {
        let pushback = |millis| {
            let value = HeaderValue::from_static(millis);
            Pushback::of(&HeaderMap::from_iter([(PUSHBACK.parse().unwrap(), value)]))
        };
        let after = |millis| Pushback::After(Duration::from_millis(millis));
        assert_eq!(pushback("700"), after(700));
        assert_eq!(pushback("0"), after(0));
        for never in ["-1", "+1", "soon", "", " 1", "1.5", "99999999999999999999"] {
            assert_eq!(pushback(never), Pushback::Never, "{never:?}");
        }
        assert_eq!(Pushback::of(&HeaderMap::new()), Pushback::Unspecified);
    }
}
