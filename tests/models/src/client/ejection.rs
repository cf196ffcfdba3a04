//! What is known of replicas.

#[path = "../../../../common/src/client/ejection/memory.rs"]
pub(in crate::client) mod memory;
#[path = "../../../../common/src/client/ejection/state.rs"]
pub(in crate::client) mod state;
