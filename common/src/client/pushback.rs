//! [`Pushback`]: when a call may be made again, as its server asks (gRFC A6).

use std::time::Duration;

use http::HeaderMap;

use crate::problem::PUSHBACK;

/// What a server asks of a call that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pushback {
    /// To wait for that time.
    After(Duration),
    /// Not to try again.
    Never,
}

impl Pushback {
    /// Reads it off the block of headers that has the gRPC status. What is no number of
    /// milliseconds means never.
    pub(super) fn of(status: &HeaderMap) -> Option<Self> {
        let millis = status.get(PUSHBACK)?.to_str().ok();
        let millis = millis.and_then(|millis| millis.parse().ok());
        Some(millis.map_or(Self::Never, |millis| {
            Self::After(Duration::from_millis(millis))
        }))
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_server_may_say_when_or_never() {
        let pushback = |millis| {
            let value = HeaderValue::from_static(millis);
            Pushback::of(&HeaderMap::from_iter([(PUSHBACK.parse().unwrap(), value)]))
        };
        let after = |millis| Some(Pushback::After(Duration::from_millis(millis)));
        assert_eq!(pushback("700"), after(700));
        assert_eq!(pushback("0"), after(0));
        assert_eq!(pushback("-1"), Some(Pushback::Never));
        assert_eq!(pushback("soon"), Some(Pushback::Never));
        assert_eq!(Pushback::of(&HeaderMap::new()), None);
    }
}
