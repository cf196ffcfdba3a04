//! The layers of the outbound stack, one file each, and what they need:
//!
//! | file | what is in it |
//! |---|---|
//! | `call_timing` | the call is in the `Server-Timing` of its request |
//! | `call_deadline` | no call outlives its deadline |
//! | `attempts` | retries and hedges: the one loop that makes attempts |
//! | `budget` | how many attempts there may be beyond the first of each call |
//! | `usual` | how long a method usually takes |

mod attempts;
mod budget;
mod call_deadline;
mod call_timing;
mod usual;

pub use self::{
    attempts::AttemptsService, call_deadline::DeadlineService, call_timing::TimingService,
};
pub(super) use self::{budget::Budget, usual::Usual};
