//! How an attempt ended.

#[path = "../../../../common/src/client/ending/judgement.rs"]
pub(in crate::client) mod judgement;
