//! The layers of the outbound stack.
//!
//! | module | contents |
//! |---|---|
//! | `call_timing` | the time of a call, for the `Server-Timing` of its request |
//! | `call_deadline` | the deadline of a call, enforced |
//! | `attempts` | the attempts of a call: retries and hedges within one budget |

mod attempts;
mod call_deadline;
mod call_timing;

pub(super) use self::attempts::{Budget, Calls, RETRY, UsualLatency};
pub use self::{attempts::Attempts, call_deadline::CallDeadline, call_timing::CallTiming};
