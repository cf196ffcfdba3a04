//! The budget of attempts.

#[path = "../../../../common/src/client/retry/budget.rs"]
pub(in crate::client) mod budget;

pub(in crate::client) mod policy {
    /// The policy of a budget.
    pub(crate) struct RetryPolicy {
        pub(crate) budget: f64,
        pub(crate) budget_per_second: f64,
    }
}
