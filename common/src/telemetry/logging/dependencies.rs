//! [`QuietDependencies`]: only errors of dependencies are logged.
//!
//! Clients decide how much a dependency logs. Nobody can list all that a service may have, so a dependency is
//! told by the place of its source, which each event knows: cargo keeps what it fetches from the public
//! registry, or vendors, in directories of its own. The crates of a workspace are elsewhere, and so are those
//! from git or another registry, which may be the service's own. (The directory of a mirror has the name of the
//! mirror, so what it serves logs as the service does.)

use tracing::{Level, Metadata, Subscriber, subscriber::Interest};
use tracing_subscriber::{Layer, filter::Targets, layer::Context};

/// Parts of the paths of sources that cargo, or a distribution for it, has fetched.
const FETCHED: [&str; 5] = [
    "/registry/src/index.crates.io-",
    "/registry/src/github.com-",
    "/share/cargo/registry/", // Debian
    "/vendor/",
    "/cargo-vendor-dir/", // Nix
];

/// Lets an event of a dependency pass if it is an error, or if the filter names its target. What is there
/// decides once for each place that logs.
pub(super) struct QuietDependencies(Targets);

impl QuietDependencies {
    pub(super) fn new(filter: &Targets) -> Self {
        Self(filter.clone())
    }

    fn passes(&self, metadata: &Metadata<'_>) -> bool {
        !metadata.is_event()
            || *metadata.level() == Level::ERROR
            || !is_dependency(metadata.target(), metadata.file().unwrap_or_default())
            || self.names(metadata.target())
    }

    fn names(&self, target: &str) -> bool {
        let mut named = self.0.iter();
        named.any(|(named, _)| target.starts_with(named))
    }
}

impl<S: Subscriber> Layer<S> for QuietDependencies {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.passes(metadata) {
            Interest::always()
        } else {
            Interest::never()
        }
    }

    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        self.passes(metadata)
    }
}

/// Whether an event with this target, from this source, is that of a dependency. This crate is none,
/// wherever it comes from.
fn is_dependency(target: &str, file: &str) -> bool {
    let is_ours = target.split("::").next() == Some(env!("CARGO_CRATE_NAME"));
    !is_ours && FETCHED.iter().any(|part| file.contains(part))
}

#[cfg(test)]
mod tests {
    use tracing::{debug, info_span, level_filters::LevelFilter};
    use tracing_subscriber::{Registry, layer::SubscriberExt};

    use super::*;
    use crate::telemetry::logging::parse_filter;

    #[test]
    fn what_cargo_has_fetched_is_a_dependency() {
        let cargo = "/home/me/.cargo/registry/src/index.crates.io-0123456789abcdef";
        for (target, file, expected) in [
            (
                "sqlx::query",
                format!("{cargo}/sqlx-core-0.9.0/src/logger.rs"),
                true,
            ),
            (
                "sqlx::query",
                "/app/vendor/sqlx-core/src/logger.rs".into(),
                true,
            ),
            (
                "common::server",
                format!("{cargo}/common-1.0.0/src/server/mod.rs"),
                false,
            ),
            ("orders", "orders/src/main.rs".into(), false),
            ("orders", "vendor/orders/src/main.rs".into(), false),
            ("ledger", "/home/me/shared/ledger/src/lib.rs".into(), false),
            (
                "ledger",
                "/home/me/.cargo/git/checkouts/ledger-1/2/src/lib.rs".into(),
                false,
            ),
            (
                "ledger",
                "/home/me/.cargo/registry/src/crates.example.com-7/ledger/src/lib.rs".into(),
                false,
            ),
            ("unknown", String::new(), false),
        ] {
            assert_eq!(is_dependency(target, &file), expected, "{target} {file}");
        }
    }

    #[test]
    fn the_filter_may_name_a_dependency() {
        let named =
            |text: &str, target| QuietDependencies::new(&parse_filter(text).unwrap()).names(target);
        assert!(!named("debug", "sqlx::query"));
        assert!(named("info,sqlx=warn", "sqlx::query"));
        assert!(!named("info,orders=debug", "sqlx::query"));
    }

    #[test]
    fn the_crates_of_a_workspace_log_at_their_level() {
        let filter = Targets::new().with_default(LevelFilter::DEBUG);
        let quiet = QuietDependencies::new(&filter);
        let subscriber = Registry::default().with(filter).with(quiet);
        tracing::subscriber::with_default(subscriber, || {
            assert!(tracing::event_enabled!(target: "orders", Level::DEBUG));
            assert!(!info_span!("a span").is_disabled());
            debug!("an event");
        });
    }
}
