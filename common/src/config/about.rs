//! [`About`]: what the process is and how it was configured, for the page `/status` and for
//! `build_info`.

use std::sync::OnceLock;

#[cfg(feature = "cli")]
use crate::telemetry::metrics;

static ABOUT: OnceLock<About> = OnceLock::new();

/// The name and the version of a service, and its settings.
#[derive(Debug, Default)]
pub(crate) struct About {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) settings: Vec<Setting>,
    /// The variables of settings that are links of Kubernetes, and so no settings.
    pub(crate) links: Vec<String>,
}

/// A setting as it was read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    /// The variable, or the flag of a setting without one.
    pub(crate) name: String,
    /// None if the setting is not set and has no value by default.
    pub(crate) value: Option<String>,
    /// What it means that the setting has no value, where its help says so: `no TLS`.
    pub(crate) without: Option<String>,
    /// Where the value is from: a flag, the environment, or the default.
    pub(crate) source: &'static str,
}

/// Notes what the process is, once.
#[cfg(feature = "cli")]
pub(super) fn note(about: About) {
    metrics::set_build(&about.name, &about.version);
    let _ = ABOUT.set(about); // a second reading, such as of a test, is of the same process
}

/// What the process is. A process that has not read its configuration with `parse` is unknown.
pub(crate) fn about() -> &'static About {
    static UNKNOWN: About = About {
        name: String::new(),
        version: String::new(),
        settings: Vec::new(),
        links: Vec::new(),
    };
    ABOUT.get().unwrap_or(&UNKNOWN)
}
