//! An in-process service mesh made of tower layers: one request id, one deadline, one kind of
//! log line and one kind of error, over HTTP and gRPC alike.
//!
//! # The map
//!
//! Values first, then the code that carries them, then the two stacks:
//!
//! | module | what is in it |
//! |---|---|
//! | `request` | the values of a request: [`RequestId`], [`Deadline`], the timings of its calls, its protocol, and [`Context`], which carries them from task to task |
//! | [`logging`] | bunyan records on stdout, a buffer for each worker |
//! | [`problem`] | [`Problem`]: errors for people; the gRPC code to HTTP status table |
//! | [`config`] | [`Config`]: flags and variables of every service |
//! | `limits` | every limit that is not configuration |
//! | `bounded`, `body` | a future that ends at its deadline, and bodies that can be dropped early |
//! | `metrics` | the counters of each worker, for `/metrics` |
//! | `limited` | a rate limit, for log lines that could flood |
//! | `lock` | a mutex whose data stays valid after a panic |
//! | [`server`] | **the inbound stack**, and the process below it |
//! | [`client`] | **the outbound stack**, over a channel that is opened once and reused |
//!
//! Read [`server`] and [`client`] after this page: each stack is written down there in one
//! place, top to bottom, a layer a line.
//!
//! A service is its faces (an [`axum::Router`] for each port) and [`server::run`]:
//!
//! ```no_run
//! use axum::{Router, routing::get};
//! use clap::Parser;
//! use common::server::{self, Listener};
//!
//! #[derive(Parser)]
//! struct Config {
//!     #[command(flatten)]
//!     common: common::Config,
//! }
//!
//! fn main() -> std::process::ExitCode {
//!     let config: Config = common::config::parse();
//!     server::run("hello", &config.common, [Listener::http(8082)], |_worker| {
//!         [Router::new().route("/", get(|| async { "Hello!" }))]
//!     })
//! }
//! ```

mod body;
mod bounded;
pub mod client;
pub mod config;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod limited;
mod limits;
mod lock;
pub mod logging;
mod metrics;
pub mod problem;
mod request;
pub mod server;

pub use config::Config;
pub use problem::Problem;
pub use request::{
    context::{self, Context},
    deadline::{self, Deadline},
    id::{self as request_id, RequestId},
    timings,
};
pub(crate) use request::{methods, protocol};
