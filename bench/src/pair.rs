//! The pairs: how each is built and started.

use std::{
    env, fmt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    str::FromStr,
    sync::atomic::{AtomicU16, Ordering},
    thread,
    time::{Duration, Instant},
};

use serde::Serialize;

use crate::{
    Result,
    question::{Question, ask_once},
    service::{Service, Usage},
    sidecar,
};

/// The pairs that are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// axum and tonic, as in their documentation.
    Plain,
    /// [`Self::Plain`] with ids, logs and a timeout.
    PlainLogged,
    /// Our inbound stack, with HTTP/1.1 and JSON between the services.
    Rest,
    /// [`Self::Plain`] with an Envoy beside each service, which does what ours do themselves.
    Sidecar,
    /// aiohttp and grpcio.
    Python,
    /// service1 and service2.
    Ours,
    /// [`Self::Ours`] with mutual TLS between the services.
    Tls,
}

impl Kind {
    pub(crate) const ALL: [Self; 7] = [
        Self::Plain,
        Self::PlainLogged,
        Self::Sidecar,
        Self::Rest,
        Self::Python,
        Self::Ours,
        Self::Tls,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::PlainLogged => "plain-logged",
            Self::Sidecar => "sidecar",
            Self::Rest => "rest",
            Self::Python => "python",
            Self::Ours => "ours",
            Self::Tls => "tls",
        }
    }

    /// Builds the pair on its own, so that cargo does not unify its features with another pair's.
    pub(crate) fn build(self) -> Result<()> {
        let what: &[&str] = match self {
            Self::Plain => &["plain", "--bin=plain-service*"],
            Self::PlainLogged => &["plain", "--bin=plain-logged-service*"],
            Self::Ours if env::var_os(SERVICES).is_some() => return Ok(()),
            Self::Ours => &["service1", "--package=service2"],
            Self::Rest => {
                Self::Ours.build()?;
                &["rest"]
            }
            Self::Tls => {
                Self::Ours.build()?;
                return write_certificates();
            }
            Self::Sidecar => {
                Self::Plain.build()?;
                return sidecar::install();
            }
            Self::Python => return install_python(),
        };
        let mut cargo = Command::new("cargo");
        cargo.args(["build", "--release", "--quiet", "--package"]);
        cargo.args(what);
        succeed(&mut cargo)
    }

    /// The command that runs service1 (0) or service2 (1).
    fn command(self, service: usize) -> Command {
        let name = NAMES[service];
        if self == Self::Python {
            let mut command = Command::new(format!("{PYTHON}/bin/python"));
            command
                .arg(format!("bench/peers/python/{name}.py"))
                .env("PYTHONPATH", PYTHON);
            return command;
        }
        let mut command = Command::new(self.program(service));
        if self == Self::Tls {
            command.env("MESH_TLS_DIR", format!("{CERTIFICATES}/{name}"));
        }
        command
    }

    /// The file of a pair in Rust that runs service1 (0) or service2 (1).
    pub(crate) fn program(self, service: usize) -> PathBuf {
        let built = match env::var_os(SERVICES) {
            Some(directory) if matches!(self, Self::Ours | Self::Tls) => directory.into(),
            _ => PathBuf::from("target/release"),
        };
        built.join(format!("{}{}", self.prefix(service), NAMES[service]))
    }

    fn prefix(self, service: usize) -> &'static str {
        match self {
            Self::Plain | Self::Sidecar => "plain-",
            Self::PlainLogged => "plain-logged-",
            Self::Rest if service == 1 => "rest-",
            _ => "",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        let kind = Self::ALL.into_iter().find(|kind| kind.name() == name);
        kind.ok_or_else(|| {
            format!(
                "unknown pair; the pairs are {}",
                Self::ALL.map(Self::name).join(", ")
            )
        })
    }
}

/// The services of each pair, by their index.
const NAMES: [&str; 2] = ["service1", "service2"];

/// The variable that names a directory with our services, built already.
const SERVICES: &str = "SERVICES";

/// The virtual environment of the Python pair.
pub(crate) const PYTHON: &str = "target/bench/python";

/// The certificates of [`Kind::Tls`].
const CERTIFICATES: &str = "target/bench/certs";

fn write_certificates() -> Result<()> {
    let certs = ["run", "--release", "--quiet", "--package", "certs", "--"];
    let services = ["--service", "service1", "--service", "service2"];
    let mut cargo = Command::new("cargo");
    cargo
        .args(certs)
        .args(["--dir", CERTIFICATES])
        .args(services);
    succeed(cargo.stdout(Stdio::null()))
}

/// Makes a virtual environment with these requirements.
pub(crate) fn venv(directory: &str, requirements: &str) -> Result<()> {
    let python = format!("{directory}/bin/python");
    if !Path::new(&python).exists() {
        succeed(Command::new("python3").args(["-m", "venv", directory]))?;
    }
    let install = ["-m", "pip", "install", "--quiet", "--requirement"];
    succeed(Command::new(&python).args(install).arg(requirements))
}

fn install_python() -> Result<()> {
    venv(PYTHON, "bench/peers/python/requirements.txt")?;
    let out = [
        format!("--python_out={PYTHON}"),
        format!("--grpc_python_out={PYTHON}"),
    ];
    let compile = [
        "-m",
        "grpc_tools.protoc",
        "-I",
        "protos",
        "api.proto",
        "app/grpc/service1.proto",
    ];
    let mut python = Command::new(format!("{PYTHON}/bin/python"));
    succeed(python.args(compile).args(out))
}

fn succeed(command: &mut Command) -> Result<()> {
    let status = command.stdin(Stdio::null()).status()?;
    if status.success() {
        return Ok(());
    }
    Err(format!("{command:?} failed: {status}").into())
}

/// The longest time until a pair responds correctly.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Returns a port below the ephemeral range. Each is used once, so that lingering connections of
/// one pair do not affect the next.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(20_000);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Sends the request until the response is right.
fn until_right(question: &Question) -> Result<()> {
    let begin = Instant::now();
    while let Err(error) = ask_once(question) {
        if begin.elapsed() > ANSWER_TIMEOUT {
            return Err(format!("no right response in {ANSWER_TIMEOUT:?}: {error}").into());
        }
        thread::sleep(Duration::from_micros(500));
    }
    Ok(())
}

/// Options for the start of a pair.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setting {
    /// The number of replicas of service1.
    pub(crate) replicas: usize,
    /// Whether to keep what the services write to stdout.
    pub(crate) keep_stdout: bool,
}

impl Default for Setting {
    fn default() -> Self {
        Self {
            replicas: 1,
            keep_stdout: false,
        }
    }
}

/// A running pair.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) backends: Vec<Service>,
    pub(crate) edge: Service,
    sidecars: Vec<Service>,
    /// The request that the loops send.
    pub(crate) hello: Question,
    /// The time from the start of the processes to the first right response.
    pub(crate) started_in: Duration,
}

impl Pair {
    /// Starts a pair and waits until it responds correctly.
    pub(crate) fn start(kind: Kind, setting: Setting) -> Result<Self> {
        let begin = Instant::now();
        let mut backends = Vec::new();
        let mut targets = Vec::new();
        let mut sidecars = Vec::new();
        for _ in 0..setting.replicas {
            let (grpc, http) = (free_port(), free_port());
            let mut environment = vec![
                ("HOST", "127.0.0.1".to_owned()),
                ("GRPC_PORT", grpc.to_string()),
                ("PORT", http.to_string()),
                ("ADMIN_PORT", "0".to_owned()),
            ];
            if kind == Kind::Rest {
                // No access line, as in service1 over gRPC: three lines a request in both pairs.
                environment.push((
                    "RUST_LOG",
                    "info,common::server::layers::access=warn".to_owned(),
                ));
            }
            backends.push(Service::start(
                &mut kind.command(0),
                &environment,
                setting.keep_stdout,
            )?);
            targets.push(match kind {
                Kind::Rest => http,
                Kind::Sidecar => {
                    let port = free_port();
                    let fields = [("port", port), ("service", grpc)];
                    sidecars.push(sidecar::start(NAMES[0], &fields, setting.keep_stdout)?);
                    port
                }
                _ => grpc,
            });
        }
        let service = free_port();
        let mut port = service;
        if kind == Kind::Sidecar {
            let outbound = free_port();
            port = free_port();
            let fields = [
                ("port", port),
                ("service", service),
                ("outbound", outbound),
                ("upstream", targets[0]), // only our pair has several
            ];
            sidecars.push(sidecar::start(NAMES[1], &fields, setting.keep_stdout)?);
            targets = vec![outbound];
        }
        let host = if kind == Kind::Tls {
            "localhost" // the name in the certificate
        } else {
            "127.0.0.1"
        };
        let targets: Vec<_> = targets
            .iter()
            .map(|port| format!("{host}:{port}"))
            .collect();
        let environment = [
            ("HOST", "127.0.0.1".to_owned()),
            ("PORT", service.to_string()),
            ("ADMIN_PORT", "0".to_owned()),
            ("SERVICE1_CHANNEL", targets.join(",")),
        ];
        let edge = Service::start(&mut kind.command(1), &environment, setting.keep_stdout)?;
        let hello = Question::hello(port, "test");
        until_right(&hello)?;
        Ok(Self {
            backends,
            edge,
            sidecars,
            hello,
            started_in: begin.elapsed(),
        })
    }

    /// Waits for the effects of a load that has ended. Its connections close with requests in
    /// flight. The plain edge cancels their calls, which looks like an attack to the plain backend:
    /// h2 takes at most 20 resets at once. Until the edge has connected again, it responds with
    /// 502.
    pub(crate) fn settle(&self) -> Result<()> {
        thread::sleep(Duration::from_millis(100));
        until_right(&self.hello)
    }

    fn services(&self) -> impl Iterator<Item = &Service> {
        let services = self.backends.iter().chain([&self.edge]);
        services.chain(&self.sidecars)
    }

    /// The usage of all processes together.
    pub(crate) fn usage(&self) -> Result<Usage> {
        let mut sum = Usage::default();
        for service in self.services() {
            sum = sum + service.usage()?;
        }
        Ok(sum)
    }

    /// The sum of the peak memory of all processes, in KiB.
    pub(crate) fn peak_kib(&self) -> Result<u64> {
        let peaks = self.services().map(Service::peak_kib);
        Ok(peaks.sum::<std::io::Result<u64>>()?)
    }

    /// Checks once more that the response is right, and stops the processes.
    pub(crate) fn stop(self) -> Result<()> {
        self.settle()?;
        self.edge.stop()?;
        for service in self.backends.into_iter().chain(self.sidecars) {
            service.stop()?;
        }
        Ok(())
    }
}
