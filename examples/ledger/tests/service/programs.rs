//! The programs of the tests: PostgreSQL, Redis, a service of rates, and the service itself.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, geteuid, kill_process};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    sync::watch,
};

/// How long a test waits for something that must come.
pub const PATIENCE: Duration = Duration::from_secs(40);

/// Waits until the condition gives a value.
pub async fn wait_for<T>(what: &str, condition: impl AsyncFn() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(begin.elapsed() < PATIENCE, "there is no {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Where a program is: in `PATH`, or where Debian has those of PostgreSQL.
fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let debian = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let debian = debian.filter_map(|version| Some(version.ok()?.path().join("bin")));
    let mut directories = std::env::split_paths(&path).chain(debian);
    directories.find_map(|it| Some(it.join(program)).filter(|it| it.exists()))
}

/// Whether the programs are there. Says it if not.
pub fn are_installed() -> bool {
    let programs = ["initdb", "pg_ctl", "redis-server"];
    let missing = programs.into_iter().find(|program| find(program).is_none());
    if let Some(missing) = missing {
        println!("left out: {missing} is not installed, so nothing was tested with databases");
    }
    missing.is_none()
}

fn free_port() -> u16 {
    let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
    socket.local_addr().expect("it is bound").port()
}

/// A PostgreSQL of one test.
pub struct Postgres {
    directory: TempDir,
    port: u16,
}

impl Postgres {
    /// Prepares the files of the database, and does not start it.
    pub fn new() -> Self {
        let directory = TempDir::new().expect("a directory");
        if geteuid().is_root() {
            run(Command::new("chown").arg("postgres").arg(directory.path()));
        }
        let postgres = Self {
            directory,
            port: free_port(),
        };
        let options = ["-U", "postgres", "-A", "trust", "-N", "--locale=C"];
        run(postgres.command("initdb").args(options));
        postgres
    }

    /// PostgreSQL refuses to run as root.
    fn command(&self, program: &str) -> Command {
        let program = find(program).expect("it is installed");
        let mut command = if geteuid().is_root() {
            let mut command = Command::new("runuser");
            command.args(["-u", "postgres", "--"]).arg(program);
            command
        } else {
            Command::new(program)
        };
        command.current_dir(self.directory.path());
        command.env("PGDATA", self.directory.path().join("data"));
        command
    }

    pub fn start(&self) {
        let (port, directory) = (self.port, self.directory.path().display());
        let options = format!(
            "-p {port} -k {directory} -c listen_addresses=127.0.0.1 -c fsync=off -c max_connections=60"
        );
        let log = self.directory.path().join("log");
        let mut command = self.command("pg_ctl");
        run(command.args(["start", "-w", "-o", &options, "-l"]).arg(log));
    }

    pub fn kill(&self) {
        run(self
            .command("pg_ctl")
            .args(["stop", "-w", "-m", "immediate"]));
    }

    pub fn url(&self, application: &str) -> String {
        let port = self.port;
        format!("postgres://postgres@127.0.0.1:{port}/postgres?application_name={application}")
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let mut stop = self.command("pg_ctl");
        stop.args(["stop", "-w", "-m", "immediate"]);
        let _ = stop.stdout(Stdio::null()).stderr(Stdio::null()).status(); // it may be down
    }
}

fn run(command: &mut Command) {
    // Not `output`, which would wait for the server, too.
    let status = command.stdout(Stdio::null()).status();
    assert!(status.is_ok_and(|status| status.success()), "{command:?}");
}

/// A Redis of one test.
pub struct Redis {
    port: u16,
    child: Child,
}

impl Redis {
    pub fn start() -> Self {
        let port = free_port();
        Self {
            port,
            child: Self::spawn(port),
        }
    }

    fn spawn(port: u16) -> Child {
        let mut command = Command::new(find("redis-server").expect("it is installed"));
        command.args([
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--port",
            &port.to_string(),
        ]);
        command.stdout(Stdio::null()).spawn().expect("it starts")
    }

    /// Closes all connections to it.
    pub fn restart(&mut self) {
        self.stop();
        self.child = Self::spawn(self.port);
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A service of rates, which responds while its gate is open.
pub struct RatesService {
    address: SocketAddr,
    gate: watch::Sender<bool>,
    waiting: watch::Sender<u32>,
}

impl RatesService {
    pub async fn start() -> Self {
        let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await;
        let socket = socket.expect("a free port");
        let address = socket.local_addr().expect("it is bound");
        let (gate, waiting) = (watch::Sender::new(true), watch::Sender::new(0));
        let (of_task, count) = (gate.clone(), waiting.clone());
        tokio::spawn(async move {
            while let Ok((connection, _)) = socket.accept().await {
                let (mut opened, count) = (of_task.subscribe(), count.clone());
                tokio::spawn(async move {
                    let mut connection = BufReader::new(connection);
                    let mut line = String::new();
                    while connection
                        .read_line(&mut line)
                        .await
                        .is_ok_and(|read| read > 0)
                    {
                        if line.trim().is_empty() {
                            count.send_modify(|waiting| *waiting += 1);
                            let _ = opened.wait_for(|is_open| *is_open).await;
                            count.send_modify(|waiting| *waiting -= 1);
                            let response = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n1.5";
                            let _ = connection.get_mut().write_all(response).await;
                        }
                        line.clear();
                    }
                });
            }
        });
        Self {
            address,
            gate,
            waiting,
        }
    }

    pub fn close(&self) {
        self.gate.send_replace(false);
    }

    pub fn open(&self) {
        self.gate.send_replace(true);
    }

    /// Waits until this number of requests wait for the gate.
    pub async fn wait_for(&self, requests: u32) {
        let mut waiting = self.waiting.subscribe();
        let reached = waiting.wait_for(|waiting| *waiting == requests);
        let reached = tokio::time::timeout(PATIENCE, reached).await;
        reached.expect("they come").expect("the sender is here");
    }

    pub fn url(&self) -> String {
        format!("http://{}/rates", self.address)
    }
}

/// The service.
pub struct Service {
    child: Child,
    log: Arc<TempDir>,
    port: u16,
    admin_port: u16,
}

impl Service {
    pub fn spawn(pool: &str, postgres: &Postgres, redis: &Redis, rates: &RatesService) -> Self {
        let (port, admin_port) = (free_port(), free_port());
        let log = TempDir::new().expect("a directory");
        let file = fs::File::create(log.path().join("log")).expect("a file");
        let child = Command::new(env!("CARGO_BIN_EXE_ledger"))
            .env("HOST", "127.0.0.1")
            .env("PORT", port.to_string())
            .env("ADMIN_PORT", admin_port.to_string())
            .env("WORKERS", "2")
            .env("DRAIN_TIMEOUT", "5s")
            .env("POOL", pool)
            .env("DATABASE_URL", postgres.url("ledger"))
            .env("REDIS_URL", redis.url())
            .env("RATES_URL", rates.url())
            .stdout(file)
            .spawn()
            .expect("it starts");
        Self {
            child,
            log: Arc::new(log),
            port,
            admin_port,
        }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    pub fn admin_url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.admin_port)
    }

    /// Waits until a line of the log has all of these texts.
    pub async fn wait_for_line(&self, texts: &[&str]) {
        let path: &Path = &self.log.path().join("log");
        wait_for(&format!("line with {texts:?}"), async || {
            let log = fs::read_to_string(path).expect("the log");
            let mut lines = log.lines();
            lines
                .any(|line| texts.iter().all(|text| line.contains(text)))
                .then_some(())
        })
        .await;
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.log.path().join("log")).expect("the log")
    }

    pub fn terminate(&self) {
        kill_process(self.pid(), Signal::TERM).expect("it runs");
    }

    fn pid(&self) -> Pid {
        let id = self.child.id().try_into().expect("an id");
        Pid::from_raw(id).expect("an id")
    }

    /// Waits for the end of the process.
    pub async fn end(mut self) -> ExitStatus {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("it is our child") {
                return status;
            }
            assert!(
                begin.elapsed() < PATIENCE,
                "it does not end: {}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended
        let _ = self.child.wait();
    }
}
