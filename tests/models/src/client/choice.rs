//! The choice of a replica.

#[path = "../../../../common/src/client/choice/replica_set.rs"]
pub(in crate::client) mod replica_set;
