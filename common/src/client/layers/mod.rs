//! The layers of the outbound stack.
//!
//! | module | contents |
//! |---|---|
//! | `call_timing` | the time of a call, for the `Server-Timing` of its request |
//! | `call_deadline` | the deadline of a call, enforced |
//! | `call_limit` | how many calls the process has in flight |
//! | `attempts` | the attempts of a call: retries and hedges within one budget |

mod attempts;
mod call_deadline;
mod call_limit;
mod call_timing;

pub(super) use self::attempts::{Budget, Calls, Decision, History, decide};
pub use self::{
    attempts::Attempts, call_deadline::CallDeadline, call_limit::CallLimit, call_timing::CallTiming,
};
