//! [`Node`]: a Docker engine of its own, which stands for a machine.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use tempfile::TempDir;
use tests::{PATIENCE, wait_for};

use super::lan::{Lan, run};

/// A private engine in the network namespace of a node. All of its processes are in one PID
/// namespace, so they end together, as on a machine that loses power.
pub(crate) struct Node {
    pub(crate) address: Ipv4Addr,
    engine: Child,
    cgroup: String,
    directory: TempDir,
}

impl Node {
    /// Starts the engine of a node, and waits until it answers.
    pub(crate) fn start(number: usize) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = |name: &str| directory.path().join(name).display().to_string();
        let config = serde_json::json!({
            "data-root": path("data"),
            "exec-root": path("exec"),
            "pidfile": path("pid"),
            "hosts": [format!("unix://{}", path("socket"))],
            "storage-driver": "vfs",
            "cgroup-parent": format!("/{}", Lan::namespace(number)),
            // The key makes the id of the node; by default, all engines of a machine share one.
            "deprecated-key-path": path("key.json"),
        });
        fs::write(path("daemon.json"), config.to_string()).expect("it can be written");
        let log = fs::File::create(path("log")).expect("it can be written");
        // `ip netns exec` would hide the cgroups.
        let engine = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{}", Lan::namespace(number)))
            .args("unshare --uts --mount --pid --fork --kill-child --mount-proc".split(' '))
            .args([
                "sh",
                "-c",
                r#"hostname "$0" && exec dockerd --config-file "$1""#,
            ])
            .args([format!("node{number}"), path("daemon.json")])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file can be shared"))
            .stderr(log)
            .spawn()
            .expect("nsenter is there");
        let node = Self {
            address: Lan::address(number),
            engine,
            cgroup: Lan::namespace(number),
            directory,
        };
        wait_for("the engine of a node", || {
            let mut command = Command::new("docker");
            let output = command.args(["--host", &node.host(), "info"]).output();
            output
                .expect("docker is there")
                .status
                .success()
                .then_some(())
        });
        node
    }

    fn host(&self) -> String {
        format!("unix://{}", self.directory.path().join("socket").display())
    }

    /// Runs a command of Docker on this node.
    pub(crate) fn docker(&self, arguments: &[&str]) -> String {
        run("docker", &[&["--host", &self.host()], arguments].concat())
    }

    /// Runs a command of Docker on this node, with these variables.
    pub(crate) fn docker_with(&self, variables: &[(&str, &str)], arguments: &[&str]) {
        let mut command = Command::new("docker");
        command.args(["--host", &self.host()]).args(arguments);
        let output = command.envs(variables.iter().copied()).output();
        let output = output.expect("docker is there");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "docker {arguments:?}: {stderr}");
    }

    /// Copies an image of this machine's engine to this node.
    pub(crate) fn load_image(&self, name: &str) {
        let mut save = Command::new("docker");
        let save = save.args(["save", name]).stdout(Stdio::piped()).spawn();
        let mut save = save.expect("docker is there");
        let mut load = Command::new("docker");
        load.args(["--host", &self.host(), "load", "--quiet"]);
        load.stdin(save.stdout.take().expect("it is piped"))
            .stdout(Stdio::null());
        let is_loaded = load.status().expect("docker is there").success();
        let is_saved = save.wait().expect("it ends").success();
        assert!(
            is_saved && is_loaded,
            "{name} can't be copied; `make images` builds it"
        );
    }

    /// The HTTP port of service2 on this node.
    pub(crate) fn edge(&self) -> SocketAddr {
        (self.address, 8081).into()
    }

    /// The port for operators of the same.
    pub(crate) fn admin(&self) -> SocketAddr {
        (self.address, 9081).into()
    }

    /// Kills the engine and all of its containers.
    pub(crate) fn kill(&mut self) {
        let _ = self.engine.kill();
        let _ = self.engine.wait();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.directory.path().join("log"));
            let log = log.unwrap_or_default();
            let last: Vec<_> = log.lines().rev().take(20).collect();
            eprintln!("the engine of {}, its last lines first:", self.address);
            for line in last {
                eprintln!("  {line}");
            }
        }
        self.kill();
        // The last processes may take a moment to die.
        let end = Instant::now() + PATIENCE;
        while !remove_cgroups(&self.cgroup) && Instant::now() < end {
            sleep(Duration::from_millis(20));
        }
    }
}

/// Removes the control groups that the containers leave, whether there is one hierarchy or one for
/// each controller. Returns whether all are gone.
fn remove_cgroups(name: &str) -> bool {
    let root = PathBuf::from("/sys/fs/cgroup");
    let hierarchies = directories(&root).into_iter().chain([root]);
    let groups: Vec<_> = hierarchies.map(|one| one.join(name)).collect();
    for group in &groups {
        remove_cgroup(group);
    }
    !groups.iter().any(|group| group.exists())
}

fn remove_cgroup(path: &Path) {
    for child in directories(path) {
        remove_cgroup(&child);
    }
    let _ = fs::remove_dir(path);
}

fn directories(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    paths.filter(|path| path.is_dir()).collect()
}
