//! [`Config`]: the flags and variables that every service with a client has.

use std::time::Duration;

use clap::Args;

use crate::config::positive_duration;

/// How long a client waits for a replica. Put it next to [`common::Config`](crate::Config):
/// `#[command(flatten)]`.
#[derive(Debug, Clone, Args)]
#[group(skip)]
pub struct Config {
    /// How long one attempt of a call may take before another is made
    #[arg(long, env, default_value = "2500ms", value_parser = positive_duration)]
    pub attempt_timeout: Duration,

    /// How long a call waits for a replica while none can be reached
    #[arg(long, env, default_value = "3s", value_parser = humantime::parse_duration)]
    pub failfast: Duration,
}
