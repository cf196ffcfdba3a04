//! [`Config`]: the flags and variables of every service that calls another.

use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::config;

/// The settings of a client. A service flattens them beside [`common::Config`](crate::Config) with
/// `#[command(flatten)]`.
#[derive(Debug, Clone, Args)]
#[group(skip)]
pub struct Config {
    /// How long a call waits for a replica while none can be reached
    #[arg(long, env, default_value = "3s", value_parser = config::duration)]
    pub failfast: Duration,

    /// The names under which calls carry their request id
    #[arg(long, env, value_enum, default_value_t)]
    pub request_id_names: RequestIdNames,
}

/// The names under which a call carries its request id.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum RequestIdNames {
    /// `request_id` and `x-request-id`
    #[default]
    Both,
    /// `x-request-id` alone: some proxies refuse names with an underscore
    XRequestId,
}
