//! The pool of replicas.

#[path = "../../../../common/src/client/pool/backoff.rs"]
mod backoff;
#[path = "../../../../common/src/client/pool/members.rs"]
mod members;
#[path = "../../../../common/src/client/pool/memory.rs"]
mod memory;
pub mod models;
#[path = "../../../../common/src/client/pool/record.rs"]
mod record;
#[path = "../../../../common/src/client/pool/state.rs"]
mod state;
#[path = "../../../../common/src/client/pool/tally.rs"]
mod tally;
