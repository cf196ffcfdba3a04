//! [`raise_file_limit`] and [`max_connections`]: the limit of open files, and the connections that it
//! leaves room for.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::warn;

use crate::{config::settings::Config, limits};

/// Raises the limit of open files, and so of connections, as far as the system allows. The usual
/// limit of 1,024 is for programs that use `select`.
///
/// [`run`](crate::server::run) does so. A program that calls [`bind`](crate::server::bind) decides for
/// itself, as its limit is its own.
///
/// # Errors
///
/// If the system refuses its own maximum.
pub fn raise_file_limit() -> io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    Ok(setrlimit(Resource::Nofile, raised)?)
}

/// The most connections that are accepted: those of the configuration, if there are files for them.
/// Without files, accepting would fail, for clients of all ports. Where only the files of the process
/// itself are missing, the difference is small, and is no warning.
pub(crate) fn max_connections(config: &Config) -> usize {
    let wanted = config.max_connections.get();
    let Some(files) = getrlimit(Resource::Nofile).current else {
        return wanted; // there is no limit
    };
    let files = usize::try_from(files).unwrap_or(usize::MAX);
    let connections = wanted.min(connections_within(files, config.workers.get()));
    if files < wanted {
        warn!(
            action = "start",
            status = "failure",
            max_connections = wanted,
            open_files = files,
            connections,
            "the limit of open files is below MAX_CONNECTIONS, so fewer are accepted; raise it \
             (`ulimit -n`, or LimitNOFILE= of systemd), or lower MAX_CONNECTIONS"
        );
    }
    connections
}

/// The connections that this number of files leaves room for, but at least a quarter of the files.
fn connections_within(files: usize, workers: usize) -> usize {
    let calls = limits::MAX_CHANNEL_CONNECTIONS.min(files / 4);
    let own = limits::OWN_FILES
        + limits::ADMIN_CONNECTIONS
        + limits::FILES_PER_WORKER.saturating_mul(workers)
        + calls;
    files.saturating_sub(own).max(files / 4).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_the_process_itself_are_left_to_it() {
        for (files, workers, connections) in [
            (1_048_576, 64, 1_047_696),
            (20_480, 2, 19_848),
            (1_024, 2, 648),
            (256, 2, 72),
            (64, 2, 16),
            (2, 2, 1),
        ] {
            assert_eq!(connections_within(files, workers), connections, "{files}");
        }
    }
}
