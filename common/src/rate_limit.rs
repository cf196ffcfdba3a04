//! [`RateLimit`]: a rate limit, for log lines that could flood.

use std::{sync::Mutex, time::Duration};

use tokio::time::Instant;

use crate::sync::lock;

/// Allows a number of lines a second and counts the suppressed ones.
#[derive(Debug)]
pub(crate) struct RateLimit {
    per_second: u32,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    second: Instant,
    allowed: u32,
    suppressed: u64,
}

impl RateLimit {
    pub(crate) fn per_second(per_second: u32) -> Self {
        Self {
            per_second,
            state: Mutex::new(State {
                second: Instant::now(),
                allowed: 0,
                suppressed: 0,
            }),
        }
    }

    /// Returns the number of lines suppressed since the last allowed one, or `None` if this line is
    /// suppressed, too.
    pub(crate) fn allow(&self) -> Option<u64> {
        let mut state = lock(&self.state);
        let now = Instant::now();
        if now.duration_since(state.second) >= Duration::from_secs(1) {
            state.second = now;
            state.allowed = 0;
        }
        if state.allowed < self.per_second {
            state.allowed += 1;
            Some(std::mem::take(&mut state.suppressed))
        } else {
            state.suppressed += 1;
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_over_the_rate_are_suppressed_and_counted() {
        let limited = RateLimit::per_second(2);
        let in_an_hour = Instant::now() + Duration::from_hours(1);
        lock(&limited.state).second = in_an_hour; // the second does not end
        assert_eq!([limited.allow(), limited.allow()], [Some(0), Some(0)]);
        assert_eq!([limited.allow(), limited.allow()], [None, None]);
        let past = Instant::now().checked_sub(Duration::from_secs(1));
        lock(&limited.state).second = past.expect("the machine has run for over a second");
        assert_eq!([limited.allow(), limited.allow()], [Some(2), Some(0)]);
    }
}
