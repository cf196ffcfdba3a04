//! An in-process service mesh made of tower layers: every request has one id and one deadline, and
//! log lines and errors have one form, over HTTP and gRPC alike.
//!
//! # The map
//!
//! The rooms stand on floors, the lowest first. Each uses those before it; only [`server`] and [`client`]
//! never use each other. A test holds this (`tests/tests/processes/floors.rs`).
//!
//! | room | what is in it |
//! |---|---|
//! | `limits`, `endpoints`, `ports`, `environment` | values: every limit that is not configuration; the paths of every HTTP port; where the process listens; what a variable of the environment means |
//! | `sync`, `rate_limit`, `backoff` | tools: what threads share state with; a rate limit for log lines; pauses that grow |
//! | [`pages`] | what the pages of a service share, and the links between them |
//! | `request` | the values of a request: [`RequestId`], [`Deadline`], its dialect, trace, timings and record, and [`Context`], which carries them; and what methods declare |
//! | `body` | bodies that wrap others, and the deadline of a future or a body |
//! | `telemetry` | [`metrics`]: counters of each thread, and those of the service; [`logging`]: bunyan records on stdout, a buffer for each worker; `traces`: spans and their export |
//! | [`tls`] | certificates: those of the service, and who its peers are |
//! | `transport` | the bytes below HTTP: TCP, TLS, or what a test has in its place |
//! | `calls` | how many calls to other services are in flight, and how many may be |
//! | [`config`] | [`Config`], the flags and variables of every service; [`config::parse`]; the subcommand `healthcheck` |
//! | `problem` | [`Problem`]: errors for people; the table from gRPC codes to HTTP statuses |
//! | `dialect` | HTTP and gRPC: the only files that know how requests, failures and ends of each look |
//! | [`server`] | **the inbound stack**, and the process below it |
//! | [`client`] | **the outbound stack**, over a channel that is opened once and reused |
//! | `openapi` | the description of an API, for programs and for people |
//!
//! Read [`server`] and [`client`] next. Each of them has a file `stack.rs` that lists its layers,
//! top to bottom, one a line.
//!
//! A service consists of its faces, which are what each of its ports serves, and a call of
//! [`server::run`]:
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
//!     server::run("hello", &config.common, |_process| {
//!         let router = Router::new().route("/", get(|| async { "Hello!" }));
//!         [Listener::http(8082, router)]
//!     })
//! }
//! ```
//!
//! # Features
//!
//! | feature | default | what it adds |
//! |---|---|---|
//! | `server` | yes | [`server`] |
//! | `client` | yes | [`client`] |
//! | `cli` | yes | flags and environment variables, with clap: [`config::parse`] |
//! | `openapi` | no | `openapi`: `/openapi.json` and the page `/docs` |
//! | `traces` | no | spans for OpenTelemetry, exported over OTLP where `OTEL_EXPORTER_OTLP_ENDPOINT` says |

// With one side off, shared modules hold items that only the other uses.
#![cfg_attr(
    not(all(feature = "server", feature = "client")),
    allow(dead_code, unused_imports, unreachable_pub)
)]

mod backoff;
mod body;
mod calls;
#[cfg(feature = "client")]
pub mod client;
pub mod config;
mod dialect;
mod endpoints;
#[cfg(any(feature = "cli", feature = "traces"))]
mod environment;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod headers;
mod limits;
#[cfg(feature = "openapi")]
pub mod openapi;
#[cfg(feature = "server")]
pub mod pages;
mod ports;
mod problem;
mod rate_limit;
mod request;
#[cfg(feature = "server")]
pub mod server;
mod sync;
mod telemetry;
pub mod tls;
mod transport;

pub use config::settings::Config;
pub use problem::Problem;
pub use request::{
    context::{Context, Deadline},
    id::{InvalidRequestId, RequestId},
};
pub use telemetry::{logging, metrics};

/// What code reads of the request that it is part of, and what it does in its [`Context`].
pub mod context {
    pub use crate::dialect::http::outbound_headers;
    pub use crate::request::{
        context::{
            Scope, calls, current, deadline, log_field, peer, peer_address, record, scheme, spawn,
            spawn_blocking, with_request_id,
        },
        draining::draining,
        log_fields::InvalidLogField,
    };
}

/// A [`Deadline`] on the wire, as `grpc-timeout`, and the error once it has passed.
pub mod deadline {
    pub use crate::{
        dialect::grpc_timeout::{InvalidTimeout, format_timeout, parse_timeout},
        request::context::DeadlineExceeded,
    };
}

/// The calls that a request made, and the time that each took.
///
/// The server times each HTTP request, and each gRPC call that asks with the metadata
/// `want-server-timing`. The client adds each call. The response carries the times in its
/// [`Server-Timing`](https://www.w3.org/TR/server-timing/) header.
///
/// A handler that asks with [`context::record`] also gets the attempts of each call: see
/// [`Record`](timings::Record).
pub mod timings {
    pub use crate::request::timings::{Attempt, AttemptKind, Call, Record};
}

/// Compiles the example of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
