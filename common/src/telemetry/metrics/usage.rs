//! [`Usage`]: what the process uses, and what it may use. A system that does not tell has none.

use std::{
    fs,
    path::Path,
    sync::LazyLock,
    time::{Duration, SystemTime},
};

use procfs::{
    Current,
    process::{LimitValue, Process},
};

/// A figure and its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Used {
    pub(crate) now: u64,
    /// None if there is no limit.
    pub(crate) limit: Option<u64>,
}

impl Used {
    /// Whether at most a fifth is left. The alerts have the same share.
    pub(crate) fn is_near_limit(&self) -> bool {
        let is_near = |limit: u64| u128::from(self.now) * 5 >= u128::from(limit) * 4;
        self.limit.is_some_and(|limit| limit > 0 && is_near(limit))
    }
}

/// What the process uses.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage {
    pub(crate) files: Option<Used>,
    /// Resident memory, in bytes.
    pub(crate) memory: Option<Used>,
    /// CPU time of the user and of the system, in seconds.
    pub(crate) cpu_seconds: Option<f64>,
}

impl Usage {
    pub(crate) fn now() -> Self {
        let process = Process::myself().ok();
        let stat = process.as_ref().and_then(|process| process.stat().ok());
        Self {
            files: process.as_ref().and_then(files),
            memory: stat.as_ref().map(|stat| Used {
                now: stat.rss * procfs::page_size(),
                limit: process.as_ref().and_then(memory_limit),
            }),
            #[allow(clippy::cast_precision_loss)] // exact for 2 million years
            cpu_seconds: stat.as_ref().map(|stat| {
                (stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64
            }),
        }
    }
}

fn files(process: &Process) -> Option<Used> {
    let limit = match process.limits().ok()?.max_open_files.soft_limit {
        LimitValue::Value(most) => Some(most),
        LimitValue::Unlimited => None,
    };
    Some(Used {
        now: process.fd_count().ok()? as u64,
        limit,
    })
}

/// The least of the limits of the control group of the process, of the groups above it, and of the
/// memory of the machine: beyond it, the kernel ends the process.
fn memory_limit(process: &Process) -> Option<u64> {
    let of_machine = procfs::Meminfo::current().ok().map(|info| info.mem_total);
    let groups = process.cgroups().into_iter().flatten();
    let of_groups = groups.filter_map(|group| {
        let (mount, file) = if group.hierarchy == 0 {
            ("/sys/fs/cgroup", "memory.max")
        } else if group.controllers.iter().any(|it| it == "memory") {
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
        } else {
            return None;
        };
        least_limit(Path::new(mount), &group.pathname, file)
    });
    of_groups.chain(of_machine).min()
}

/// The least limit in the files of a control group and of those above it, up to the mount. A container
/// may see its own group as the mount, and a path that only its host has. `max` is no limit.
fn least_limit(mount: &Path, group: &str, file: &str) -> Option<u64> {
    let directory = mount.join(group.trim_start_matches('/'));
    let directories = directory.ancestors().take_while(|it| it.starts_with(mount));
    let limits = directories.filter_map(|directory| {
        let text = fs::read_to_string(directory.join(file)).ok()?;
        text.trim().parse().ok()
    });
    limits.min()
}

/// When the process started.
pub(crate) fn start() -> SystemTime {
    static START: LazyLock<SystemTime> = LazyLock::new(|| {
        let since_boot = Process::myself()
            .and_then(|process| process.stat())
            .map(|stat| stat.starttime / procfs::ticks_per_second());
        match (since_boot, procfs::boot_time_secs()) {
            (Ok(since_boot), Ok(boot)) => {
                SystemTime::UNIX_EPOCH + Duration::from_secs(boot + since_boot)
            }
            _ => SystemTime::now(),
        }
    });
    *START
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_a_process_has_a_limit() {
        let memory = Usage::now().memory.expect("the system tells");
        assert!(memory.now > 0);
        assert!(memory.limit.is_some_and(|limit| limit > memory.now));
    }

    #[test]
    fn the_least_limit_of_a_group_and_those_above_it_counts() {
        let mount = tempfile::tempdir().expect("a directory");
        let write = |directory: &str, limit: &str| {
            let directory = mount.path().join(directory);
            fs::create_dir_all(&directory).expect("it can be made");
            fs::write(directory.join("limit"), format!("{limit}\n")).expect("it can be written");
        };
        write("", "max");
        let least = |group| least_limit(mount.path(), group, "limit");
        assert_eq!(least("/a/b"), None);
        write("a/b", "3000");
        write("a", "2000");
        assert_eq!(least("/a/b"), Some(2_000));
        write("", "1000");
        assert_eq!(least("/only/on/the/host"), Some(1_000));
    }

    #[test]
    fn a_figure_is_near_its_limit_from_four_fifths_on() {
        let used = |now, limit| Used { now, limit };
        assert!(!used(79, Some(100)).is_near_limit());
        assert!(used(80, Some(100)).is_near_limit());
        assert!(used(200, Some(100)).is_near_limit());
        assert!(!used(80, None).is_near_limit());
        assert!(!used(0, Some(1)).is_near_limit());
        assert!(!used(0, Some(0)).is_near_limit());
    }
}
