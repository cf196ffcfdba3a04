//! Models of the budget of attempts.

use std::sync::Arc;

use loom::thread;

use super::{
    retry::budget::{Budget, CallCounter},
    retry_policy::RetryPolicy,
};
use crate::check;

/// A budget with half an attempt, to which each call adds one. What decays meanwhile is far less.
fn budget() -> Arc<Budget> {
    let policy = RetryPolicy {
        budget: 1.0,
        budget_per_second: 0.05,
    };
    Arc::new(Budget::new(&policy))
}

/// What is left.
fn granted(budget: &Budget) -> usize {
    std::iter::from_fn(|| budget.grant_retry().then_some(())).count()
}

/// One worker calls, and two retry: together they take what the call has added, and no more.
pub fn withdrawals_never_exceed_the_balance() {
    check(|| {
        let budget = budget();
        let calls = budget.join();
        let other = {
            let budget = budget.clone();
            thread::spawn(move || usize::from(budget.grant_retry()))
        };
        calls.add();
        let taken = usize::from(budget.grant_retry());
        let taken = taken + other.join().expect("it ends");
        assert_eq!(taken + granted(&budget), 1);
    });
}

/// A worker ends while another begins: its last call counts, and counts once.
pub fn the_calls_of_a_worker_that_ends_count_once() {
    check(|| {
        let budget = budget();
        let calls = budget.join();
        let ends = thread::spawn(move || {
            calls.add();
            drop::<CallCounter>(calls);
        });
        let _begins = budget.join();
        let taken = usize::from(budget.grant_retry());
        ends.join().expect("it ends");
        let _begins = budget.join();
        assert_eq!(taken + granted(&budget), 1);
    });
}
