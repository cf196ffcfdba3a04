//! What the tests of the pair share.
//!
//! - [`Process`] is a real service whose log is read as it is written; [`Port`] is a port that a
//!   service can come back to, and [`Fake`] a replica that breaks HTTP/2.
//! - [`http`], [`grpc`] and [`frame`] are clients that send exactly the given bytes, [`browser`] is
//!   Chromium, and [`load`] is many clients at once.
//! - [`serve_aside`] serves in the process of the test.
//! - [`certificates`] are those of the pair, and clients with others.
//! - [`shapes`] are responses of every shape.
//! - [`testing`] is gRPC's interoperability service and its cases.

mod aside;
pub mod browser;
pub mod certificates;
mod fakes;
pub mod frame;
pub mod grpc;
pub mod http;
pub mod load;
mod port;
mod process;
mod record;
pub mod shapes;
pub mod testing;

pub use aside::serve_aside;
pub use fakes::{Breaks, Fake};
pub use port::Port;
pub use process::{Ended, Process, command, raise_file_limit, wait_for, wait_within};
pub use record::Record;

/// The longest wait for a response or a condition; far more than any needs.
pub const PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);
