//! The settings of a service: each is a flag and an environment variable, and `--help` lists both.
//!
//! The settings that all services share are [`common::Config`](crate::Config). The function `parse`
//! reads them, and those of the service itself; it comes with the feature `cli`.

pub(crate) mod about;
pub(crate) mod admin_names;
#[cfg(feature = "cli")]
mod cli;
#[cfg(feature = "cli")]
mod healthcheck;
#[cfg(feature = "cli")]
mod missing_runtime;
pub(crate) mod proxies;
pub(crate) mod settings;

#[cfg(feature = "cli")]
pub use self::cli::{Defaults, EXIT_BAD_CONFIGURATION, parse};
pub use self::{
    admin_names::{AdminNames, InvalidName},
    proxies::{InvalidNetwork, TrustedProxies},
};
