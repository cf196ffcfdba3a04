//! [`Config`]: the flags and variables that every service with a client has.

use std::time::Duration;

use clap::Args;

/// How long a client waits for a replica. Put it next to [`common::Config`](crate::Config):
/// `#[command(flatten)]`.
#[derive(Debug, Clone, Args)]
#[group(skip)]
pub struct Config {
    /// How long a call waits for a replica while none can be reached
    #[arg(long, env, default_value = "3s", value_parser = humantime::parse_duration)]
    pub failfast: Duration,
}
