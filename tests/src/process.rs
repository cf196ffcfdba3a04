//! [`Process`]: a service as a real process.

use std::{
    collections::HashMap,
    env,
    ffi::OsString,
    fs,
    io::{self, BufRead, BufReader, Read},
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, OnceLock, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::{PATIENCE, Record};

/// Calls `condition` until it returns a value.
///
/// # Panics
///
/// When it returns none in time.
pub fn wait_for<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    wait_within(PATIENCE, what, condition)
}

/// Calls `condition` until it returns a value, at most for `patience`.
///
/// # Panics
///
/// When it returns none in time.
pub fn wait_within<T>(
    patience: Duration,
    what: &str,
    mut condition: impl FnMut() -> Option<T>,
) -> T {
    let begin = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(begin.elapsed() < patience, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A running service. Dropping it kills the service.
#[derive(Debug)]
pub struct Process {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
    readers: Vec<JoinHandle<()>>,
    stderr: Arc<Mutex<String>>,
}

/// The exit status and the output of a service that has ended.
#[derive(Debug)]
pub struct Ended {
    /// The exit status.
    pub status: ExitStatus,
    /// The lines of stdout: the log.
    pub stdout: Vec<String>,
    /// All of stderr.
    pub stderr: String,
}

impl Ended {
    /// The whole log.
    pub fn log(&self) -> Vec<Record> {
        read(&self.stdout)
    }

    /// The whole log by request id, with the lines of each request in their order.
    pub fn log_by_id(&self) -> HashMap<String, Vec<Record>> {
        let mut by_id = HashMap::<_, Vec<_>>::new();
        for line in self.log() {
            let id = line.text("request_id").to_owned();
            by_id.entry(id).or_default().push(line);
        }
        by_id
    }

    /// Whether the log has a line with these text fields.
    pub fn has_line(&self, fields: &[(&str, &str)]) -> bool {
        self.log().iter().any(|line| line.has(fields))
    }
}

fn read(lines: &[String]) -> Vec<Record> {
    lines.iter().map(|line| Record::read(line)).collect()
}

impl Process {
    /// Starts a program of this workspace with these variables, and waits for nothing. It listens
    /// on loopback and on free ports unless the variables say otherwise.
    ///
    /// # Panics
    ///
    /// When the program can't be built or started.
    pub fn spawn(program: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut command = Command::new(path_of(program));
        command.args(arguments);
        Self::spawn_command(command, variables)
    }

    /// Starts a service through `wrapper`, a program that replaces itself with the rest of its
    /// arguments, and waits until the service listens.
    ///
    /// # Panics
    ///
    /// When the service can't be built or started.
    pub fn start_within(wrapper: &[&str], program: &str, variables: &[(&str, &str)]) -> Self {
        let mut command = Command::new(wrapper[0]);
        command.args(&wrapper[1..]).arg(path_of(program));
        let path = env::var("PATH").unwrap_or_default();
        let process = Self::spawn_command(command, &[variables, &[("PATH", &path)]].concat());
        process.http();
        process
    }

    fn spawn_command(mut command: Command, variables: &[(&str, &str)]) -> Self {
        let mut child = set_up(&mut command, variables)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let lines = Arc::new(Mutex::new(Vec::new()));
        let stderr = Arc::new(Mutex::new(String::new()));
        let stdout_reader = {
            let lines = lines.clone();
            let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
            thread::spawn(move || {
                for line in stdout.lines() {
                    lock(&lines).push(line.expect("the log is UTF-8"));
                }
            })
        };
        let stderr_reader = {
            let text = stderr.clone();
            let mut pipe = child.stderr.take().expect("it is piped");
            thread::spawn(move || {
                let mut all = String::new();
                pipe.read_to_string(&mut all).expect("stderr is UTF-8");
                *lock(&text) = all;
            })
        };
        Self {
            child,
            lines,
            readers: vec![stdout_reader, stderr_reader],
            stderr,
        }
    }

    /// Starts a service and waits until it listens.
    pub fn start(program: &str, variables: &[(&str, &str)]) -> Self {
        let process = Self::spawn(program, &[], variables);
        process.http();
        if program == "service1" || program == "fixture" {
            process.grpc();
        }
        process
    }

    /// service2 in front of the gRPC port of `backend`, ready to serve.
    pub fn service2(backend: &Process, variables: &[(&str, &str)]) -> Self {
        let channel = backend.grpc().to_string();
        let mut all = vec![("SERVICE1_CHANNEL", channel.as_str())];
        all.extend(variables);
        let process = Self::start("service2", &all);
        process.wait_until_ready();
        process
    }

    /// service1 and service2, connected and ready.
    pub fn pair(variables: &[(&str, &str)]) -> (Self, Self) {
        let service1 = Self::start("service1", variables);
        let service2 = Self::service2(&service1, variables);
        (service1, service2)
    }

    /// Waits until `/readyz` returns 200.
    pub fn wait_until_ready(&self) {
        let address = self.http();
        wait_for("readiness", || {
            (crate::http::get(address, "/readyz").status == 200).then_some(())
        });
    }

    /// The address of the HTTP port.
    pub fn http(&self) -> SocketAddr {
        self.listens_with("http")
    }

    /// The address of the gRPC port.
    pub fn grpc(&self) -> SocketAddr {
        self.listens_with("grpc")
    }

    /// The address of the port for operators.
    pub fn admin(&self) -> SocketAddr {
        self.listens_with("admin")
    }

    fn listens_with(&self, protocol: &str) -> SocketAddr {
        let line = self.line(&[("action", "listen"), ("protocol", protocol)]);
        line.text("address")
            .parse()
            .expect("the line has the address")
    }

    /// The log up to now.
    pub fn log(&self) -> Vec<Record> {
        read(&lock(&self.lines))
    }

    /// The lines of the log up to now that have this request id.
    pub fn log_of(&self, id: &str) -> Vec<Record> {
        let mut log = self.log();
        log.retain(|line| line.text("request_id") == id);
        log
    }

    /// Waits for the first line that has these text fields.
    pub fn line(&self, fields: &[(&str, &str)]) -> Record {
        wait_for(&format!("a line with {fields:?}"), || {
            self.log().into_iter().find(|line| line.has(fields))
        })
    }

    /// Waits for the access line of a request.
    pub fn access_line(&self, id: &str) -> Record {
        wait_for(&format!("the access line of {id}"), || {
            let mut log = self.log_of(id).into_iter();
            log.find(|line| !line.text("first_request_line").is_empty())
        })
    }

    /// The id of the process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A figure of `/proc/PID/status` in KiB: `VmRSS` is the memory now, `VmHWM` its peak.
    ///
    /// # Panics
    ///
    /// When there is no such figure.
    pub fn memory(&self, key: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it runs");
        let line = status.lines().find(|line| line.starts_with(key));
        let figure = line.and_then(|line| line.split_whitespace().nth(1));
        figure.expect("the figure").parse().expect("a number")
    }

    /// The number of open files, which connections are, too.
    ///
    /// # Panics
    ///
    /// When the process is gone.
    pub fn open_files(&self) -> usize {
        let files = fs::read_dir(format!("/proc/{}/fd", self.pid()));
        files.expect("it runs").count()
    }

    /// A figure of `/metrics` by the beginning of its line. A figure that is missing is 0, as
    /// counters appear with their first count.
    ///
    /// # Panics
    ///
    /// When the figure is not a number.
    pub fn metric(&self, name: &str) -> f64 {
        let metrics = crate::http::get(self.admin(), "/metrics");
        let mut lines = metrics.text().lines();
        let figure = lines.find_map(|line| line.strip_prefix(name));
        figure.map_or(0.0, |figure| figure.trim().parse().expect("a number"))
    }

    /// Sends a signal by name, such as `TERM`. After `STOP`, waits until all threads have stopped.
    ///
    /// # Panics
    ///
    /// When the process is gone.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill")
            .args(["-s", name, &self.pid().to_string()])
            .status();
        assert!(
            sent.is_ok_and(|status| status.success()),
            "the process is there"
        );
        if name == "STOP" {
            wait_for("all threads to stop", || {
                let tasks = fs::read_dir(format!("/proc/{}/task", self.pid())).ok()?;
                let is_stopped = |task: io::Result<fs::DirEntry>| {
                    let stat = fs::read_to_string(task.ok()?.path().join("stat")).ok()?;
                    stat.rsplit_once(") ")?.1.starts_with('T').then_some(())
                };
                tasks.map(is_stopped).collect::<Option<()>>()
            });
        }
    }

    /// Waits for the process to end.
    ///
    /// # Panics
    ///
    /// When it does not end in time.
    pub fn ended(mut self) -> Ended {
        let status = wait_for("the end of the process", || {
            self.child.try_wait().expect("it is ours")
        });
        for reader in self.readers.drain(..) {
            reader.join().expect("it read all to the end");
        }
        Ended {
            status,
            stdout: lock(&self.lines).clone(),
            stderr: lock(&self.stderr).clone(),
        }
    }

    /// Ends the process with SIGTERM.
    pub fn terminate(self) -> Ended {
        self.signal("TERM");
        self.ended()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A test may have ended the process, or stopped it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Raises the limit of open files, and so of connections, as far as the system allows.
///
/// # Panics
///
/// When the system refuses its own maximum.
pub fn raise_file_limit() {
    common::server::raise_file_limit().expect("it is not beyond the maximum");
}

/// A program that will listen on free ports, for a test that handles its stdout itself.
pub fn command(program: &str, variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(path_of(program));
    set_up(&mut command, variables);
    command
}

/// The harness reads the ports off this module's lines, so they are always logged.
const LISTENING: &str = "common::server::process=info";

fn set_up<'a>(command: &'a mut Command, variables: &[(&str, &str)]) -> &'a mut Command {
    let mut log = variables.iter().filter(|(name, _)| *name == "RUST_LOG");
    let log = log.next_back().map(|(_, levels)| levels);
    command
        .env_clear()
        .envs([
            ("HOST", "127.0.0.1"),
            ("PORT", "0"),
            ("GRPC_PORT", "0"),
            ("ADMIN_PORT", "0"),
            ("WORKERS", "2"),
        ])
        .envs(variables.iter().copied())
        .envs(log.map(|levels| ("RUST_LOG", format!("{levels},{LISTENING}"))))
        .stdin(Stdio::null())
}

/// The programs of the product. All others are those of the tests.
const SERVICES: [&str; 3] = ["certs", "service1", "service2"];

/// The path of a program of this workspace, built from the sources as they are now.
///
/// A suite in the profile `harness` runs optimised services: those in the directory of the variable
/// `SERVICES`, such as the programs of images, or else the release build.
fn path_of(program: &str) -> PathBuf {
    static SUITE: OnceLock<PathBuf> = OnceLock::new();
    static OPTIMISED: OnceLock<PathBuf> = OnceLock::new();
    let is_debug = cfg!(debug_assertions);
    if !is_debug && SERVICES.contains(&program) {
        let directory = OPTIMISED.get_or_init(|| {
            if let Some(directory) = env::var_os("SERVICES") {
                directory.into()
            } else {
                build(&SERVICES, &["--release"]);
                built().with_file_name("release")
            }
        });
        return directory.join(program);
    }
    let directory = SUITE.get_or_init(|| {
        if is_debug {
            // Together, so that cargo compiles each dependency once.
            let packages = [&SERVICES[..], &["tests"]].concat();
            build(&packages, &["--bins", "--examples"]);
        } else {
            let options = ["--profile", "harness", "--bins", "--examples"];
            build(&["tests"], &options);
        }
        built()
    });
    let path = directory.join(program);
    if path.exists() {
        path
    } else {
        directory.join("examples").join(program)
    }
}

fn build(packages: &[&str], options: &[&str]) {
    let packages = packages.iter().flat_map(|package| ["--package", package]);
    let mut build = Command::new(env!("CARGO"));
    build
        .args(["build", "--quiet"])
        .args(packages)
        .args(options);
    // cargo sets these for a test. A build script that reads them, such as that of ring, would run again,
    // and so would the builds of all that needs its crate.
    let of_this_package = |(name, _): &(OsString, OsString)| {
        let name = name.to_string_lossy();
        name == "OUT_DIR" || name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")
    };
    for (name, _) in env::vars_os().filter(of_this_package) {
        build.env_remove(name);
    }
    let status = build.current_dir(env!("CARGO_MANIFEST_DIR")).status();
    assert!(
        status.is_ok_and(|status| status.success()),
        "the programs build"
    );
}

/// The directory that cargo builds programs of the profile of this test into.
fn built() -> PathBuf {
    // target/debug/deps/processes-0123456789abcdef
    let test = env::current_exe().expect("a test has a path");
    let directory = test.ancestors().nth(2);
    directory.expect("it is in target/debug/deps").to_owned()
}
