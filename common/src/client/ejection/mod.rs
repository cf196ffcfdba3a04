//! Outlier detection: the state of each replica, and which replicas are ejected.
//!
//! | file | contents |
//! |---|---|
//! | `state` | the state of a replica as one worker sees it, and the events that change it |
//! | `memory` | the failures of all replicas, as all workers see them, and the decision to eject one |

pub(crate) mod memory;
pub(crate) mod state;
