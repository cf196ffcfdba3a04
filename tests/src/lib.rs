//! What the tests of the pair stand on: [`Process`], a real service whose lines are read as
//! they come, [`http`], [`grpc`] and [`frame`], clients that send just what they are told to, and
//! [`browser`], a real one; [`load`] is many clients at once. [`testing`] is gRPC's own service and its
//! cases.

pub mod browser;
mod fakes;
pub mod frame;
pub mod grpc;
pub mod http;
pub mod load;
mod process;
mod record;
pub mod testing;

pub use fakes::Fake;
pub use process::{Ended, Process, command, raise_file_limit, wait_for};
pub use record::Record;

/// How long an answer, or a condition, may take to come; far more than any needs.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);
