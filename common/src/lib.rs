//! An in-process service mesh made of tower layers: one request id, one deadline, one kind of
//! log line and one kind of error, over HTTP and gRPC alike.
//!
//! # The map
//!
//! Values first, then what carries them, then the two stacks:
//!
//! | module | what is in it |
//! |---|---|
//! | [`request_id`] | [`RequestId`]: a validated value, its header and metadata names |
//! | [`deadline`] | [`Deadline`]: an instant, and the `grpc-timeout` text form |
//! | [`timings`] | the calls that a request made, and how long each took |
//! | [`context`] | [`Context`]: the three of them, task-local; [`context::spawn`] |
//! | [`logging`] | bunyan records on stdout, a buffer for each worker |
//! | [`problem`] | [`Problem`]: errors to people; the gRPC code to HTTP status table |
//! | [`config`] | [`Config`]: flags and variables that every service has |
//! | `protocol` | HTTP or gRPC, read off a request, as both pass the same stack; names of codes |
//! | `bounded` | work that ends at its deadline: a future, and the body of a response |
//! | `body` | a body that can be dropped early, which other bodies wrap |
//! | `methods` | what the descriptors of a service declare about its methods |
//! | `metrics` | what each worker counts, for `/metrics` |
//! | `lock` | a mutex whose data a panic leaves valid |
//! | `limited` | a rate limit, for log lines that could flood |
//! | [`server`] | **the inbound stack**, and the threads, connections and drain below it |
//! | [`client`] | **the outbound stack**, over a channel that is opened once and reused |
//! | [`healthcheck`] | the subcommand that asks a service whether it is ready |
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
pub mod context;
pub mod deadline;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod healthcheck;
mod limited;
mod lock;
pub mod logging;
mod methods;
mod metrics;
pub mod problem;
mod protocol;
pub mod request_id;
pub mod server;
pub mod timings;

pub use config::Config;
pub use context::Context;
pub use deadline::Deadline;
pub use problem::Problem;
pub use request_id::RequestId;
