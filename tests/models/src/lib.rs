//! Models of the types that the workers of a process share.
//!
//! A model is a small program with two or three threads over the real file of `common`, which this crate
//! compiles once more: on [loom], whose atomics, mutexes and threads take every order that the memory
//! model of C11 allows, also that of weak memory such as Arm's. A model fails if any order breaks what it
//! asserts, or leaves a thread asleep for ever.
//!
//! | models | the files of `common` | what they show |
//! |---|---|---|
//! | `server::capacity::models` | `server/capacity`: `permits.rs`, `handle.rs` | no permit is taken twice, lost or made up, also in the reserve and where a connection is preempted; a connection hears each reason to end |
//! | `client::budget_models` | `client/retry/budget.rs` | retries never exceed the balance, and each call counts once |
//! | `client::ejection_models` | `client/ejection`: `memory.rs`; `client/choice/replica_set.rs` | the workers agree on who is ejected, one of them takes a trial that is due, half of the replicas are left, and no call is lost |
//! | `client::wire_models` | `client/wire`: `activity.rs` | each call is watched, and a free stream is given to a call that waits, also where they run on other threads than their connection |
//!
//! What they can't show: anything about more threads or steps than they have; orders with more
//! preemptions than `check` allows; and anything about the neighbours of these files, which are replaced by
//! the few lines that the files need. A `Notify` is one of these: each of its steps is under a mutex, and
//! the models drop none that waits. A loop of a neighbour is written down once more in its model, which
//! says so. loom knows no total order of `SeqCst`, nor one of two plain stores by threads that do not meet,
//! so a model may fail where such an order would help; one whose steps differ from run to run fails for
//! nothing.
//!
//! The tests are in `tests/models.rs`, as the tests of the included files would be built with those of
//! this library.
//!
//! [loom]: https://docs.rs/loom

// `cargo test` with a pattern builds the tests of any library, and those of the files need all of common.
#![cfg(not(test))]
// The files are here for their atomics; most of them have more than the models call.
#![allow(dead_code, unreachable_pub)]

#[path = "../../../common/src/backoff.rs"]
mod backoff;
pub mod client;
#[path = "../../../common/src/endpoints.rs"]
mod endpoints;
#[path = "../../../common/src/limits.rs"]
mod limits;
pub mod notify;
#[path = "../../../common/src/telemetry/metrics/replica_state.rs"]
mod replica_state;
pub mod server;
mod stubs;
mod sync;

use loom::model::Builder;
use stubs::{telemetry, tls};

/// The most preemptions of a run: orders that need more of them are not tried. Most bugs need one or two.
const PREEMPTIONS: usize = 3;

/// Runs a model in every order of its steps, with at most [`PREEMPTIONS`].
fn check(model: impl Fn() + Sync + Send + 'static) {
    check_up_to(PREEMPTIONS, model);
}

/// Runs a model of many steps in every order with so few preemptions.
fn check_up_to(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}
