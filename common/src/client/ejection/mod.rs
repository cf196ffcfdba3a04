//! What is known of each replica, and which replicas are ejected.
//!
//! | file | contents |
//! |---|---|
//! | `state` | the state of a replica as one worker sees it, and the events that change it |
//! | `memory` | what the process remembers of the replicas, and which are ejected |
//! | `record` | what it remembers of one |
//! | `tally` | the successes of a worker that are still to be added to a record |

pub(crate) mod memory;
pub(crate) mod record;
pub(crate) mod state;
pub(crate) mod tally;
