//! [`Config`]: the flags and variables that every service with a client has.

use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::config;

/// How a client calls. Put it next to [`common::Config`](crate::Config): `#[command(flatten)]`.
#[derive(Debug, Clone, Args)]
#[group(skip)]
pub struct Config {
    /// How long a call waits for a replica while none can be reached
    #[arg(long, env, default_value = "3s", value_parser = config::duration)]
    pub failfast: Duration,

    /// Under which names calls carry their request id
    #[arg(long, env, value_enum, default_value_t)]
    pub request_id_names: RequestIdNames,
}

/// Under which names a call carries its request id.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum RequestIdNames {
    /// `request_id` and `x-request-id`
    #[default]
    Both,
    /// `x-request-id` alone: some proxies refuse names with an underscore
    XRequestId,
}
