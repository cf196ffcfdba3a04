//! The attempts of a call.
//!
//! | file | contents |
//! |---|---|
//! | `attempts` | **the loop** that makes the attempts of a call, and a second attempt beside one that is late |
//! | `call` | a call and its attempts so far |
//! | `decide` | whether another attempt follows one that failed, and after which pause |
//! | `late_calls` | wakes the calls of a worker that are late, by one timer for all |
//! | `budget` | how many attempts the process may add to the first of each call |
//!
//! Retries and hedges draw on one budget: a service that stays down gets about a fifth more calls,
//! not three times as many.

pub(crate) mod attempts;
pub(crate) mod budget;
mod call;
mod decide;
mod late_calls;
