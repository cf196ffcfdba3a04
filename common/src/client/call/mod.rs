//! The layers of a call, above its attempts.
//!
//! | file | contents |
//! |---|---|
//! | `timing` | the time of a call, for the `Server-Timing` of its request |
//! | `deadline` | the deadline of a call, enforced |
//! | `limit` | how many calls the process has in flight |

pub(crate) mod deadline;
pub(crate) mod limit;
pub(crate) mod timing;
