//! The budget of attempts.

#[path = "../../../../common/src/client/retry/budget.rs"]
pub(in crate::client) mod budget;
