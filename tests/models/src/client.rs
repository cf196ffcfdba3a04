//! The client's part: its rooms, with the files that have models.

pub mod budget_models;
pub mod ejection_models;
pub mod wire_models;

mod choice;
mod ejection;
mod ending;
mod retry;
mod retry_policy {
    /// The policy of a budget.
    pub(crate) struct RetryPolicy {
        pub(crate) budget: f64,
        pub(crate) budget_per_second: f64,
    }
}
mod wire;
