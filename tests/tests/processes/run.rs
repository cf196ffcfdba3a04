//! `make run`: what scripts/run shows, keeps and leaves behind.

use std::{
    collections::BTreeSet,
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, ChildStdout, Command, Output, Stdio},
    thread,
};

use rustix::process::{Pid, Signal, kill_process, kill_process_group, test_kill_process};
use tests::{Port, Record, http, wait_for};

use super::readme::Directory;

/// The variables of the ports, that of service2 first, those of a second service1 last.
const PORTS: [&str; 8] = [
    "SERVICE2_PORT",
    "SERVICE2_ADMIN_PORT",
    "SERVICE1_PORT",
    "SERVICE1_GRPC_PORT",
    "SERVICE1_ADMIN_PORT",
    "REPLICA_PORT",
    "REPLICA_GRPC_PORT",
    "REPLICA_ADMIN_PORT",
];

const SAY_HELLO: &str = "/api/v1/say-hello?name=test";

/// A run of the pair, on ports of its own.
struct Run {
    directory: Directory,
    ports: [Port; 8],
    child: Child,
}

impl Run {
    fn start(name: &str) -> Self {
        // A signal that is ignored can't be trapped, and this test may run in the background.
        Self::start_as(name, &["env", "--default-signal=INT,HUP", "scripts/run"])
    }

    /// Starts the run with this command, which is or has `scripts/run`.
    fn start_as(name: &str, command: &[&str]) -> Self {
        let directory = Directory::new(name).with_programs(&["service1", "service2"]);
        let ports = [(); 8].map(|()| Port::keep());
        let child = run(&directory, &ports, command)
            .process_group(0)
            .spawn()
            .expect("the shell is there");
        let run = Self {
            directory,
            ports,
            child,
        };
        wait_for("the first call", || {
            TcpStream::connect(run.service2()).ok()?;
            (http::get(run.service2(), "/readyz").status == 200).then_some(())
        });
        run
    }

    fn service2(&self) -> SocketAddr {
        self.ports[0].address()
    }

    fn log(&self) -> String {
        log_in(&self.directory)
    }

    /// The ids of the services, from their lines.
    fn services(&self) -> Vec<Pid> {
        let log = self.log();
        let whole = log.rsplit_once('\n').expect("they listen").0;
        let lines = whole.lines().map(Record::read);
        #[expect(clippy::cast_possible_truncation, reason = "a process id")]
        let ids = lines.filter_map(|line| line.number("pid").map(|id| id as i32));
        let ids: BTreeSet<_> = ids.collect();
        let services: Vec<_> = ids.into_iter().filter_map(Pid::from_raw).collect();
        services
    }

    fn pid(&self) -> Pid {
        let pid = i32::try_from(self.child.id()).expect("an id");
        Pid::from_raw(pid).expect("an id")
    }

    fn stdout(&mut self) -> ChildStdout {
        self.child.stdout.take().expect("it is piped")
    }

    /// The exit code and what stdout got, once no process of the run is left: each has the pipe of
    /// stderr.
    fn ended(&mut self) -> (Option<i32>, String) {
        let mut stdout = self.stdout();
        let mut stderr = self.child.stderr.take().expect("it is piped");
        let reader = thread::spawn(move || {
            let mut text = String::new();
            stdout.read_to_string(&mut text).expect("UTF-8");
            stderr.read_to_end(&mut Vec::new()).expect("it is open");
            text
        });
        let status = wait_for("its end", || self.child.try_wait().expect("it is ours"));
        wait_for("the end of all", || reader.is_finished().then_some(()));
        (status.code(), reader.join().expect("it read all"))
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            let _ = kill_process_group(self.pid(), Signal::TERM);
            let _ = self.child.wait();
        }
    }
}

/// A command of a run on these ports.
fn run(directory: &Directory, ports: &[Port; 8], command: &[&str]) -> Command {
    let mut run = directory.command(command[0], &command[1..]);
    for variable in [
        "HOST",
        "PORT",
        "GRPC_PORT",
        "ADMIN_PORT",
        "LOG",
        "CARGO_TARGET_DIR",
        "PROFILE",
        "TLS",
        "EDGE_TLS_DIR",
        "FAULTS",
        "SERVICE1_CHANNEL",
    ] {
        run.env_remove(variable);
    }
    run.envs(PORTS.into_iter().zip(ports.iter().map(Port::variable)))
        .env("RUST_LOG", "info")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    run
}

fn log_in(directory: &Directory) -> String {
    fs::read_to_string(directory.0.join("target/run.log")).expect("there is a log")
}

fn stderr(output: &Output) -> &str {
    str::from_utf8(&output.stderr).expect("UTF-8")
}

fn is_running(process: Pid) -> bool {
    test_kill_process(process).is_ok()
}

#[test]
fn a_second_run_changes_nothing_of_the_first() {
    let first = Run::start("run-twice");
    let id = http::get(first.service2(), SAY_HELLO).id().to_owned();
    wait_for("its lines", || {
        (first.log().matches(&id).count() == 3).then_some(())
    });
    let before = first.log();

    let second = run(&first.directory, &first.ports, &["scripts/run"]).output();
    let second = second.expect("the shell is there");
    assert_eq!(second.status.code(), Some(1));
    assert_eq!(stderr(&second).lines().count(), 1, "{}", stderr(&second));
    let holder = format!(
        "make run: it is already on, as process {}",
        first.child.id()
    );
    assert!(stderr(&second).starts_with(&holder), "{}", stderr(&second));
    assert!(second.stdout.is_empty());

    assert!(first.log().starts_with(&before));
    assert_eq!(http::get(first.service2(), SAY_HELLO).status, 200);
}

#[test]
fn a_port_that_is_taken_is_one_line_that_names_it_and_leaves_the_last_log() {
    let directory = Directory::new("run-taken").with_programs(&["service1", "service2"]);
    fs::write(directory.0.join("target/run.log"), "of the last run\n").expect("a file");
    let ports = [(); 8].map(|()| Port::keep());
    for (variable, port) in PORTS.iter().zip(&ports).take(5) {
        let taken = TcpListener::bind(port.address()).expect("it is kept for us");
        let output = run(&directory, &ports, &["scripts/run"]).output();
        let output = output.expect("the shell is there");
        assert_eq!(output.status.code(), Some(1));
        let line = format!(
            "make run: another program listens on port {}; set {variable} to a free port\n",
            port.variable()
        );
        assert_eq!(stderr(&output), line);
        assert!(output.stdout.is_empty());
        assert_eq!(log_in(&directory), "of the last run\n");
        drop(taken);
    }
}

#[test]
fn a_signal_drains_both_services_and_leaves_no_process() {
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let mut run = Run::start("run-signal");
        let services = run.services();
        kill_process_group(run.pid(), signal).expect("it is ours");
        // Once more, as an impatient person does.
        kill_process_group(run.pid(), signal).expect("it is ours");
        let (code, stdout) = run.ended();
        assert_eq!(code, Some(0), "{signal:?}");
        assert!(!services.into_iter().any(is_running), "{signal:?}");
        // All is shown, and as it is in the file.
        assert_eq!(stdout, run.log());
        let lines = stdout.lines().map(Record::read);
        let stops = lines.filter(|line| line.text("action") == "stop").count();
        assert_eq!(stops, 2, "{stdout}");
    }
}

#[test]
fn the_lock_ends_with_its_holder() {
    let mut first = Run::start("run-killed");
    let services = first.services();
    kill_process(first.pid(), Signal::KILL).expect("it is ours");
    first.child.wait().expect("it is ours");
    // The services go on: another run says what it finds, and leaves their log.
    let before = first.log();
    let output = run(&first.directory, &first.ports, &["scripts/run"]).output();
    let output = output.expect("the shell is there");
    assert!(
        stderr(&output).contains("another program listens on port"),
        "{}",
        stderr(&output)
    );
    assert!(first.log().starts_with(&before));
    for service in &services {
        kill_process(*service, Signal::TERM).expect("it is ours");
    }
    wait_for("their end", || TcpStream::connect(first.service2()).err());
}

#[test]
fn no_two_services_log_into_one_pipe() {
    let run = Run::start("run-pipes");
    for service in run.services() {
        let stdout = format!("/proc/{}/fd/1", service.as_raw_nonzero());
        let stdout = fs::read_link(stdout).expect("it runs");
        assert!(stdout.ends_with("target/run.log"), "{stdout:?}");
    }
}

#[test]
fn with_faults_there_are_two_replicas() {
    let run = Run::start_as("run-faults", &["env", "FAULTS=on", "scripts/run"]);
    let replicas = [&run.ports[3], &run.ports[6]].map(Port::address);
    wait_for("two replicas", || {
        let log = run.log();
        let is_up = |replica: &SocketAddr| log.contains(&format!(r#""replica":"{replica}""#));
        // A replica may be up before its own first line is written.
        (replicas.iter().all(is_up) && run.services().len() == 3).then_some(())
    });
}

#[test]
fn a_service_that_ends_by_itself_ends_the_run() {
    let mut run = Run::start("run-end");
    let services = run.services();
    kill_process(services[0], Signal::KILL).expect("it is ours");
    let (code, _) = run.ended();
    assert_eq!(code, Some(128 + 9));
    assert!(!is_running(services[1]));
}

#[test]
fn a_reader_that_goes_away_ends_the_run() {
    let mut run = Run::start("run-unread");
    let services = run.services();
    drop(run.stdout());
    http::get(run.service2(), SAY_HELLO);
    wait_for("its end", || run.child.try_wait().expect("it is ours"));
    assert!(!services.into_iter().any(is_running));
}

/// What a person sees on a terminal. `script` gives the run one.
fn seen_on_a_terminal(name: &str, log: &str) -> (String, String) {
    let command = format!("LOG={log} exec scripts/run");
    let mut run = Run::start_as(name, &["script", "-qefc", &command, "/dev/null"]);
    assert_eq!(http::get(run.service2(), SAY_HELLO).status, 200);
    let mut seen = String::new();
    let mut stdout = run.stdout();
    let mut bytes = [0; 4_096];
    while !(seen.contains("say-hello?name=test HTTP") || seen.contains(" bytes, "))
        || !seen.contains("Ctrl-C ends the services")
    {
        let count = stdout.read(&mut bytes).expect("it is open");
        assert!(count > 0, "{seen}");
        seen.push_str(str::from_utf8(&bytes[..count]).expect("whole lines of ASCII"));
    }
    let service2 = run.ports[0].variable();
    (seen.replace("\r\n", "\n"), service2)
}

#[test]
fn a_terminal_gets_short_lines_and_what_to_do_next() {
    if Command::new("script").arg("--version").output().is_err() {
        println!("skipped: script is not installed");
        return;
    }
    let (seen, port) = seen_on_a_terminal("run-short", "");
    for shown in [
        &format!("service2 INFO  listening  protocol=http  address=127.0.0.1:{port}\n"),
        "service1 INFO  name processed  processed_name=TEST  ",
        "service2 INFO  GET /api/v1/say-hello?name=test  200, 14 bytes, ",
        &format!("  page     http://localhost:{port}/\n"),
        &format!("  docs     http://localhost:{port}/docs\n"),
        "  make trace ID=order-17\n",
    ] {
        assert!(seen.contains(shown), "{shown}: {seen}");
    }
    assert!(!seen.contains('{'), "{seen}");

    let (seen, _) = seen_on_a_terminal("run-json", "json");
    let mut lines = seen.lines().filter(|line| line.starts_with('{'));
    assert!(
        lines.any(|line| Record::read(line).text("action") == "process_name"),
        "{seen}"
    );
    assert!(!seen.contains("service1 INFO"), "{seen}");
}

/// The lines as a terminal gets them, by each awk that is here.
fn short(lines: &str) -> Vec<String> {
    let mut shown = Vec::new();
    for awk in ["awk", "mawk", "gawk", "busybox"] {
        let mut command = Command::new(awk);
        command.args((awk == "busybox").then_some("awk"));
        let started = command
            .args(["-f", "records.awk", "-f", "short.awk"])
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts"))
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let Ok(mut started) = started else { continue };
        let mut stdin = started.stdin.take().expect("it is piped");
        let lines = lines.to_owned();
        let writer = thread::spawn(move || stdin.write_all(lines.as_bytes()));
        let output = started.wait_with_output().expect("it is ours");
        writer.join().expect("no panic").expect("it reads all");
        shown.push(String::from_utf8(output.stdout).expect("UTF-8"));
    }
    assert!(!shown.is_empty());
    shown
}

#[test]
fn a_short_line_has_what_a_person_needs() {
    let record = r#"{"v":0,"name":"service2","hostname":"vm","pid":7,"level":40,"time":"2026-11-29T15:56:14.067Z","target":"a","line":27,"file":"a.rs","msg":"a \"quoted\" \\ message\u001b","action":"call","status":"failure","error":"no, \"thing\"","attempts":2,"request_id":"a\"b\\c$d`e"}"#;
    let line = "15:56:14.067 service2 WARN  a \"quoted\" \\ message\\u001b  status=failure  error=no, \"thing\"  attempts=2  a\"b\\c$d`e\n";
    for shown in short(&format!("{record}\n")) {
        assert_eq!(shown, line);
    }
}

#[test]
fn a_line_that_is_no_record_passes_whole() {
    let long = format!(
        r#"{{"v":0,"name":"service2","level":30,"time":"2026-11-29T15:56:14.067Z","msg":"{}"#,
        "x".repeat(30_000)
    );
    let lines = [
        "thread 'main' panicked at src/main.rs:1:1:",
        "",
        "{",
        r#"{"name":"service1","time":"2026-11-29T15:56:14.067Z","level":30}"#,
        r#"{"name":"service1","time":"2026-11-29T15:56:14.067Z","msg":"cut{"name":"service2"}"#,
        r#"{"name":"service1","time":"2026-11-29T15:56:14.067Z","msg":"a","nested":{"a":1}}"#,
        "%s %d %%",
        &long,
    ];
    let lines = lines.join("\n") + "\n";
    for shown in short(&lines) {
        assert_eq!(shown, lines);
    }
}
