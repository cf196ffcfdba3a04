//! What is known of replicas.

#[path = "../../../../common/src/client/ejection/memory.rs"]
pub(in crate::client) mod memory;
#[path = "../../../../common/src/client/ejection/record.rs"]
pub(in crate::client) mod record;
#[path = "../../../../common/src/client/ejection/state.rs"]
pub(in crate::client) mod state;
#[path = "../../../../common/src/client/ejection/tally.rs"]
pub(in crate::client) mod tally;
