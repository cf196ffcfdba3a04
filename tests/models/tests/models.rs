//! The models of the library, as tests.

use std::{env, process::Command};

/// Set in a process that runs a model.
const INSIDE: &str = "MODEL";

/// Runs a model in a process of its own, as loom aborts where a thread that it gives up has values to drop.
fn run(test: &str, model: fn()) {
    if env::var_os(INSIDE).is_some() {
        return model();
    }
    let output = Command::new(env::current_exe().expect("it has a path"))
        .args(["--exact", "--nocapture", test])
        .envs([(INSIDE, "1"), ("RUST_BACKTRACE", "0")])
        .output()
        .expect("it starts");
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{log}");
}

/// A test for each model of a module.
macro_rules! models {
    ($name:ident, $module:path: $($model:ident,)*) => {
        mod $name {
            $(#[test]
            fn $model() {
                use $module as models;
                super::run(concat!(stringify!($name), "::", stringify!($model)), models::$model);
            })*
        }
    };
}

models!(capacity, models::server::capacity::models:
    one_permit_is_never_taken_twice,
    a_permit_of_the_reserve_comes_back,
    a_permit_is_given_in_advance_once,
    a_connection_is_preempted,
    threads_of_another_maker_lose_no_permit,
    a_connection_hears_each_reason_to_close,
);

models!(budget, models::client::budget_models:
    withdrawals_never_exceed_the_balance,
    the_calls_of_a_worker_that_ends_count_once,
);

models!(ejection, models::client::ejection_models:
    workers_agree_where_trials_end_differently,
    workers_agree_where_a_replica_is_forgotten_and_readmitted,
    workers_agree_where_a_replica_is_forgotten_and_ejected,
    a_trial_is_taken_once,
    half_of_the_replicas_are_left,
    the_window_loses_no_call,
    a_call_that_waits_hears_of_a_readmission,
);

models!(wire, models::client::wire_models:
    each_call_is_watched,
    a_free_stream_is_given_to_a_call_that_waits,
    a_call_that_waits_is_noticed,
    silence_is_noticed,
);
