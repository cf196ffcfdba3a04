//! [`explain`]: says what to do if `main` makes what needs a tokio runtime, before a service runs.

use std::{
    env,
    panic::{self, PanicHookInfo},
    process::exit,
    thread,
};

use tokio::runtime::Handle;

/// Replaces the panic of a client that is made in `main`, such as a pool of connections, with one line, and
/// exits with this code. Other panics stay as they are. The log of a service replaces this hook.
pub(super) fn explain(service: &str, exit_code: i32) {
    let (service, main) = (service.to_owned(), thread::current().id());
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        let is_here = thread::current().id() == main && Handle::try_current().is_err();
        if !is_here || !needs_runtime(info) {
            return usual(info);
        }
        if env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0") {
            usual(info);
        }
        eprintln!(
            "{service}: main has no tokio runtime, and makes what needs one: make it in faces, or give it to \
             Builder::shared (RUST_BACKTRACE=1 says what it is)"
        );
        exit(exit_code)
    }));
}

/// Whether this is how tokio, or a client that stands on it, misses its runtime. sqlx has a text of its own.
fn needs_runtime(info: &PanicHookInfo<'_>) -> bool {
    let reason = info.payload_as_str().unwrap_or_default();
    reason.contains("context of a Tokio") || reason.contains("requires a Tokio context")
}
