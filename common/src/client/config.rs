//! [`Config`]: the flags and variables of every service that calls another.

use std::{sync::Arc, time::Duration};

use super::{network::Network, retry_policy::RetryPolicy};
use crate::config::settings;
#[cfg(feature = "cli")]
use crate::config::settings::group;

/// The default of [`Config::failfast`], as it is written in flags.
const FAILFAST: &str = "3s";

/// The settings of a client. A service flattens them beside [`common::Config`](crate::Config) with
/// `#[command(flatten)]`. A service with several targets may have a `Config` for each:
///
/// ```
/// use common::client::Config;
/// use std::time::Duration;
///
/// let patient = Config { failfast: Duration::from_secs(8), ..Config::default() };
/// assert_eq!(Config::default().failfast, Duration::from_secs(3));
/// ```
#[derive(Debug, Clone)]
#[cfg_attr(feature = "cli", derive(clap::Args))]
#[cfg_attr(feature = "cli", group(skip))]
pub struct Config {
    /// How long a call waits for a replica while none is connected
    #[cfg_attr(feature = "cli", arg(help_heading = group::CALLS, long, env, default_value = FAILFAST, value_parser = settings::duration))]
    pub failfast: Duration,

    /// The metadata names of the request id in calls: both, or x-request-id alone, because some
    /// proxies refuse names with an underscore
    // Hidden, because values with a help of their own would give `--help` another form.
    #[cfg_attr(
        feature = "cli",
        arg(help_heading = group::CALLS, long, env, value_enum, default_value_t, hide_possible_values = true)
    )]
    pub request_id_names: RequestIdNames,

    /// When calls get further attempts. It is no flag of its own
    #[cfg_attr(feature = "cli", arg(skip))]
    pub retries: RetryPolicy,

    /// Another network than the system's. It is no flag of its own
    #[cfg_attr(feature = "cli", arg(skip))]
    pub network: Option<Arc<dyn Network>>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            failfast: settings::duration(FAILFAST).expect("the tests parse it"),
            request_id_names: RequestIdNames::default(),
            retries: RetryPolicy::default(),
            network: None,
        }
    }
}

/// The names under which a call carries its request id.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum RequestIdNames {
    /// `request_id` and `x-request-id`
    #[default]
    Both,
    /// `x-request-id` alone: some proxies refuse names with an underscore
    XRequestId,
}
