//! [`Limited`]: a rate limit, for log lines that could flood.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use crate::lock::lock;

/// Allows a number of lines in each second, and counts the others.
#[derive(Debug)]
pub(crate) struct Limited {
    per_second: u32,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    second: Instant,
    told: u32,
    untold: u64,
}

impl Limited {
    pub(crate) fn per_second(per_second: u32) -> Self {
        Self {
            per_second,
            state: Mutex::new(State {
                second: Instant::now(),
                told: 0,
                untold: 0,
            }),
        }
    }

    /// Whether a line may be written now: if so, how many were not since the last that was.
    pub(crate) fn tell(&self) -> Option<u64> {
        let mut state = lock(&self.state);
        let now = Instant::now();
        if now.duration_since(state.second) >= Duration::from_secs(1) {
            state.second = now;
            state.told = 0;
        }
        if state.told < self.per_second {
            state.told += 1;
            Some(std::mem::take(&mut state.untold))
        } else {
            state.untold += 1;
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_allows_so_many_lines_a_second_and_counts_the_others() {
        let limited = Limited::per_second(2);
        let in_an_hour = Instant::now() + Duration::from_hours(1);
        lock(&limited.state).second = in_an_hour; // the second lasts
        assert_eq!([limited.tell(), limited.tell()], [Some(0), Some(0)]);
        assert_eq!([limited.tell(), limited.tell()], [None, None]);
        let past = Instant::now().checked_sub(Duration::from_secs(1));
        lock(&limited.state).second = past.expect("the machine runs for longer");
        assert_eq!([limited.tell(), limited.tell()], [Some(2), Some(0)]);
    }
}
