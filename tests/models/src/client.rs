//! The client's part.

#[path = "../../../common/src/client/layers/attempts/budget.rs"]
mod budget;
pub mod budget_models;
pub mod pool;
pub mod wire;

/// The policy of a budget.
pub(in crate::client) struct RetryPolicy {
    budget: f64,
    budget_per_second: f64,
}

pub(in crate::client) mod ending {
    /// What an attempt says about its replica.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(in crate::client) enum Evidence {
        Success,
        Failure,
        Silence,
        Doubt,
        Nothing,
    }
}
