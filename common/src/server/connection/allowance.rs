//! [`Allowance`]: what a client may do a second, of a kind that costs it little.

use tokio::time::Instant;

/// The client has done more than it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooMany;

#[derive(Debug)]
pub(crate) struct Allowance {
    per_second: u32,
    at_once: u32,
    /// What may come now. The time since `refilled` adds to it once it is used up.
    left: u32,
    refilled: Instant,
}

impl Allowance {
    pub(crate) fn new(per_second: u32, at_once: u32) -> Self {
        Self {
            per_second,
            at_once,
            left: at_once,
            refilled: Instant::now(),
        }
    }

    /// Allows more, up to twice what may come at once.
    pub(crate) fn add(&mut self, more: u32) {
        self.left = (self.left + more).min(2 * self.at_once);
    }

    pub(crate) fn spend(&mut self) -> Result<(), TooMany> {
        if self.left == 0 {
            let millis = self.refilled.elapsed().as_millis();
            let earned = u32::try_from(millis).unwrap_or(u32::MAX);
            self.left = earned
                .saturating_mul(self.per_second / 1_000)
                .min(self.at_once);
            self.refilled = Instant::now();
        }
        self.left = self.left.checked_sub(1).ok_or(TooMany)?;
        Ok(())
    }
}
