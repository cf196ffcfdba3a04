//! The README and the docs: their commands run, and their examples, figures and links are true.

use std::{
    collections::BTreeSet,
    fs,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::unix::{fs::symlink, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio, id},
};

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Map, Value};
use tests::{Port, Process, Record, http, wait_for};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Programs whose commands the pages may show.
const PROGRAMS: [&str; 4] = ["curl", "docker", "make", "cargo"];

/// Commands that other tests run: the command, the file that runs it, and the text that does.
const RUN_ELSEWHERE: [(&str, &str, &str); 16] = [
    ("docker compose up", CONTAINERS, r#"compose(&["up", "#),
    ("docker compose logs", CONTAINERS, r#"compose(&["logs", "#),
    ("make scale N=3", CONTAINERS, "scale(3);"),
    ("make scale N=1", CONTAINERS, "scale(1);"),
    (
        "docker kill $(docker compose ps --quiet service1 | head -1)",
        CONTAINERS,
        r#"run("docker", &["kill", "#,
    ),
    (
        "make new-service NAME=orders",
        "tests/template/run",
        "new-service NAME=\"$1\"",
    ),
    ("make test", CI, "\nstep make test\n"),
    ("make databases", CI, "\nstep make databases\n"),
    ("make interop", CI, "\nstep make interop "),
    ("make others", CI, "\nstep make others "),
    (
        "make others BREAKS=\"internal hangs\"",
        CI,
        "\nstep make others 'BREAKS=internal hangs'\n",
    ),
    ("make faults", CI, "\nstep make faults\n"),
    ("make faults-wire", CI, "\nstep make faults-wire\n"),
    ("make simulate", CI, "\nstep make simulate "),
    ("make manifests", CI, "\nstep make manifests\n"),
    ("make e2e", CI, "\nstep make e2e\n"),
];
const CONTAINERS: &str = "tests/tests/containers.rs";
const CI: &str = ".ci/run";

/// Commands that functions of this file run.
const RUN_HERE: [(&str, fn()); 5] = [
    ("make", make_lists_every_target),
    ("make run", commands_show_what_they_do),
    ("make run TLS=on", commands_show_what_they_do),
    ("make certs", make_certs_writes_certificates),
    ("make trace ID=…", commands_show_what_they_do),
];

/// The README and the docs: name and text of each page.
fn pages() -> Vec<(String, String)> {
    let docs = fs::read_dir(format!("{ROOT}/docs")).expect("there are docs");
    let docs = docs.map(|entry| entry.expect("an entry").file_name());
    let docs = docs.map(|name| format!("docs/{}", name.display()));
    let pages = std::iter::once("README.md".to_owned()).chain(docs);
    let pages = pages.filter(|name| Path::new(name).extension().is_some_and(|end| end == "md"));
    pages.map(|name| (name.clone(), read(&name))).collect()
}

fn read(name: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// A command in a block of a page, and the output that the page shows; none in a block of `sh`.
#[derive(Debug)]
struct Example<'a> {
    command: &'a str,
    output: Option<Vec<&'a str>>,
}

/// The parts of a page between fences, and the languages of those in fences.
fn parts(page: &str) -> impl Iterator<Item = (Option<&str>, &str)> {
    page.split("```").enumerate().map(|(index, part)| {
        if index % 2 == 0 {
            (None, part)
        } else {
            let (language, block) = part.split_once('\n').expect("a block has lines");
            (Some(language), block)
        }
    })
}

fn examples(page: &str) -> Vec<Example<'_>> {
    let mut examples = Vec::<Example>::new();
    for (language, block) in parts(page) {
        for line in block.lines() {
            match (language, line.strip_prefix("$ ")) {
                (Some("sh"), None) => examples.push(Example {
                    command: line,
                    output: None,
                }),
                (Some("console"), Some(command)) => examples.push(Example {
                    command,
                    output: Some(Vec::new()),
                }),
                (Some("console"), None) => {
                    let output = examples.last_mut().and_then(|last| last.output.as_mut());
                    output.expect("a command comes first").push(line);
                }
                _ => {}
            }
        }
    }
    examples
}

/// The commands in the sentences of a page, but not the names of programs alone.
fn mentions(page: &str) -> Vec<String> {
    let texts = parts(page).filter(|(language, _)| language.is_none());
    let spans = texts.flat_map(|(_, text)| text.split('`').skip(1).step_by(2));
    let spans = spans.map(|span| span.split_whitespace().collect::<Vec<_>>());
    let commands = spans.filter(|words| match words[..] {
        [program] => program == "make",
        [program, ..] => PROGRAMS.contains(&program),
        [] => false,
    });
    commands.map(|words| words.join(" ")).collect()
}

/// The commands of a page that no test runs.
fn unknown_commands(page: &str) -> Vec<String> {
    let is_compared =
        |example: &Example| example.output.is_some() && Kind::of(example.command).is_some();
    let examples = examples(page).into_iter();
    let examples = examples.filter(|example| !is_compared(example));
    let commands = examples.map(|example| example.command.to_owned());
    let commands = commands.chain(mentions(page));
    commands.filter(|command| !is_run(command)).collect()
}

fn is_run(command: &str) -> bool {
    let is_run_here = RUN_HERE.iter().any(|(known, _)| *known == command);
    let mut elsewhere = RUN_ELSEWHERE.iter();
    is_run_here
        || elsewhere.any(|(known, file, text)| *known == command && read(file).contains(text))
}

#[test]
fn a_test_runs_every_command() {
    for (name, page) in pages() {
        assert_eq!(unknown_commands(&page), Vec::<String>::new(), "{name}");
    }
    let page = "```sh\nmake test\nmake coffee\ncurl a\n```\n`make tea`, `make run`\n";
    assert_eq!(
        unknown_commands(page),
        ["make coffee", "curl a", "make tea"]
    );
}

/// The commands whose output is compared with what a page shows.
enum Kind {
    Curl,
    Table,
    Records,
}

impl Kind {
    fn of(command: &str) -> Option<Self> {
        if command.starts_with("curl ") {
            Some(Self::Curl)
        } else if command.starts_with("make trace ID=") {
            let is_raw = command.ends_with(" RAW=1");
            Some(if is_raw { Self::Records } else { Self::Table })
        } else {
            None
        }
    }
}

#[test]
fn commands_show_what_they_do() {
    let mut compared = 0;
    for (name, page) in pages() {
        let examples = examples(&page).into_iter();
        let examples = examples.filter_map(|example| {
            Some((example.command, Kind::of(example.command)?, example.output?))
        });
        let examples: Vec<_> = examples.collect();
        if examples.is_empty() {
            continue;
        }
        compared += examples.len();
        let pair = MakeRun::start(name == "docs/tls.md");
        for (command, kind, shown) in examples {
            let seen = format!("{name}: {command}");
            match kind {
                Kind::Curl => assert_eq!(shape(&pair.output(command)), shape(&shown), "{seen}"),
                Kind::Table => {
                    let rows = wait_for(&seen, || {
                        let rows = pair.output(command);
                        (rows.len() >= shown.len()).then_some(rows)
                    });
                    assert_eq!(cells(&rows), cells(&shown), "{seen}");
                }
                Kind::Records => {
                    let records = wait_for(&seen, || {
                        let records = records(&pair.output(command));
                        (records.len() >= shown.len()).then_some(records)
                    });
                    assert_shows(&records, &shown, &seen);
                    if name == "docs/way-of-a-request.md" {
                        assert_names_every_field(&page, &records);
                    }
                }
            }
        }
        pair.stop();
    }
    assert!(compared >= 5, "{compared}");
}

/// What an output shows in every run. The order of headers may vary.
fn shape(output: &[impl AsRef<str>]) -> Vec<String> {
    let mut lines: Vec<_> = output.iter().map(|line| masked(line.as_ref())).collect();
    if lines[0].starts_with("HTTP/") {
        let end = lines.iter().position(String::is_empty);
        lines[1..end.expect("a head ends")].sort();
    }
    lines
}

/// The rows of a table without the width of its columns, and without durations.
fn cells(rows: &[impl AsRef<str>]) -> Vec<String> {
    let words = rows.iter().map(|row| row.as_ref().split_whitespace());
    words
        .map(|words| masked(&words.collect::<Vec<_>>().join(" ")))
        .collect()
}

/// The line without its date, ids and durations.
fn masked(line: &str) -> String {
    const ENDS: [char; 5] = ['"', '=', ',', ';', ' '];
    if line.starts_with("date: ") {
        return "date: …".into();
    }
    let words = line.split_inclusive(ENDS).map(|word| {
        let text = word.trim_end_matches(ENDS);
        let is_id = text.split('-').map(str::len).eq([8, 4, 4, 4, 12]);
        let is_duration = text.contains('.') && text.parse::<f64>().is_ok();
        if is_id || is_duration {
            word.replace(text, "…")
        } else {
            word.to_owned()
        }
    });
    words.collect()
}

fn records(lines: &[impl AsRef<str>]) -> Vec<Map<String, Value>> {
    let lines = lines.iter().map(AsRef::as_ref);
    lines
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

/// The lines have the fields that are shown; only times differ.
fn assert_shows(real: &[Map<String, Value>], shown: &[&str], seen: &str) {
    let shown = records(shown);
    assert_eq!(real.len(), shown.len(), "{seen}");
    for (real, shown) in real.iter().zip(shown) {
        for (key, value) in shown {
            let real = real.get(&key);
            if key == "time" || key == "request_time_frac" {
                let is_alike = real.is_some_and(|real| real.is_string() == value.is_string());
                assert!(is_alike, "{seen}: {key}");
            } else {
                assert_eq!(real, Some(&value), "{seen}: {key}");
            }
        }
    }
}

fn assert_names_every_field(page: &str, records: &[Map<String, Value>]) {
    for key in records.iter().flat_map(Map::keys) {
        let is_named = page.contains(&format!("\"{key}\":")) || page.contains(&format!("`{key}`"));
        assert!(is_named, "{key}");
    }
}

/// A directory with the Makefile and its scripts, apart from the one that a person works in.
pub(super) struct Directory(pub(super) PathBuf);

impl Directory {
    pub(super) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("{name}-{}", id()));
        for directory in ["scripts", "target/debug", "bin"] {
            fs::create_dir_all(path.join(directory)).expect("it can be made");
        }
        let scripts = fs::read_dir(format!("{ROOT}/scripts")).expect("there are scripts");
        let scripts = scripts.map(|entry| entry.expect("an entry").file_name());
        let scripts = scripts.map(|name| format!("scripts/{}", name.display()));
        for file in scripts.chain(["Makefile".to_owned()]) {
            fs::copy(Path::new(ROOT).join(&file), path.join(&file)).expect("it can be copied");
        }
        Self(path)
    }

    /// Puts programs of this workspace where `make run` finds its build.
    pub(super) fn with_programs(self, programs: &[&str]) -> Self {
        for program in programs {
            let built = tests::command(program, &[]);
            let path = self.0.join("target/debug").join(program);
            symlink(built.get_program(), path).expect("a symbolic link");
        }
        self
    }

    /// A command in this directory. It finds the programs in `bin` first.
    pub(super) fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let path = std::env::var("PATH").expect("there are programs");
        let mut command = Command::new(program);
        command
            .args(arguments)
            .current_dir(&self.0)
            .env("PATH", format!("{}:{path}", self.0.join("bin").display()))
            // `make test` may be above: its make is no concern of the one below.
            .env_remove("MAKEFLAGS")
            .env_remove("MAKELEVEL");
        command
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The pair, as `make run` runs it.
struct MakeRun {
    directory: Directory,
    make: Child,
    service1: SocketAddr,
    service2: SocketAddr,
    grpc: Port,
}

impl MakeRun {
    /// The pair, with mutual TLS or without.
    fn start(with_tls: bool) -> Self {
        let directory = Directory::new("make-run");
        let directory = directory.with_programs(&["certs", "service1", "service2"]);
        // The services are built already, in the profile of the tests.
        let cargo = directory.0.join("bin/cargo");
        let certs = if with_tls { " --bin certs" } else { "" };
        let packages = "--package certs --package service1 --package service2 --package tests";
        let wanted = format!("build {packages} --bin service1 --bin service2{certs}");
        write_program(&cargo, &format!("[ \"$*\" = '{wanted}' ]"));

        // An address of its own, where no other process has the port; or the one of a certificate.
        let own = Ipv4Addr::LOCALHOST.to_bits() & 0xFF00_0000 | id();
        let (host, tls) = if with_tls {
            (Ipv4Addr::LOCALHOST, "TLS=on")
        } else {
            (Ipv4Addr::from_bits(own), "TLS=off")
        };
        let name = if with_tls {
            "localhost"
        } else {
            &host.to_string()
        };
        let grpc = Port::keep();
        let make = directory
            .command("make", &["run", tls])
            .env("RUST_LOG", "info")
            .env("HOST", host.to_string())
            .env("ADMIN_HOST", host.to_string())
            .env("PORT", "0")
            .env("GRPC_PORT", grpc.variable())
            .env("SERVICE1_CHANNEL", format!("{name}:{}", grpc.variable()))
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("make is there");
        let unknown = (host, 0).into();
        let mut pair = Self {
            directory,
            make,
            service1: unknown,
            service2: unknown,
            grpc,
        };
        pair.service1 = pair.listens("service1");
        pair.service2 = pair.listens("service2");
        wait_for("readiness", || {
            (http::get(pair.service2, "/readyz").status == 200).then_some(())
        });
        pair
    }

    /// The HTTP address of a service, from the log that `make run` keeps.
    fn listens(&self, service: &str) -> SocketAddr {
        let fields = [
            ("name", service),
            ("action", "listen"),
            ("protocol", "http"),
        ];
        wait_for(service, || {
            let log = fs::read_to_string(self.directory.0.join("target/run.log")).ok()?;
            let whole = log.rsplit_once('\n')?.0;
            let mut records = whole.lines().map(Record::read);
            let line = records.find(|record| record.has(&fields))?;
            Some(line.text("address").parse().expect("an address"))
        })
    }

    /// The lines that a command of a page prints.
    fn output(&self, command: &str) -> Vec<String> {
        let command = command
            .replace("localhost:8080", &self.service1.to_string())
            .replace("localhost:8081", &self.service2.to_string())
            .replace("localhost:50051", &self.grpc.address().to_string());
        let output = self.directory.command("sh", &["-c", &command]).output();
        let output = output.expect("there is a shell").stdout;
        let output = String::from_utf8(output).expect("UTF-8");
        output.lines().map(Into::into).collect()
    }

    /// Ends it as a terminal does, which signals the whole process group.
    fn signal(&self) {
        let group = i32::try_from(self.make.id()).ok().and_then(Pid::from_raw);
        // There is none where it has ended.
        let _ = kill_process_group(group.expect("an id"), Signal::TERM);
    }

    fn stop(self) {
        let services = [self.service1, self.service2];
        drop(self);
        for service in services {
            wait_for("its end", || TcpStream::connect(service).err());
        }
    }
}

impl Drop for MakeRun {
    fn drop(&mut self) {
        self.signal();
        let _ = self.make.wait();
    }
}

/// Writes a program of the shell.
fn write_program(path: &Path, text: &str) {
    fs::write(path, format!("#!/bin/sh\n{text}\n")).expect("it can be written");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(path, mode).expect("it is ours");
}

#[test]
fn make_certs_writes_certificates() {
    let directory = Directory::new("make-certs");
    let certs = tests::command("certs", &[]);
    // A cargo that has built it already.
    let run = format!(
        "[ \"$1 $2 $3 $4 $5\" = 'run --quiet --package certs --' ] && shift 5 && exec {} \"$@\"",
        certs.get_program().display()
    );
    write_program(&directory.0.join("bin/cargo"), &run);
    let made = directory.command("make", &["certs"]).status();
    assert!(made.expect("make is there").success());
    for file in ["service1/tls.crt", "service2/tls.key", "service2/ca.crt"] {
        assert!(
            directory.0.join("target/certs").join(file).exists(),
            "{file}"
        );
    }
}

#[test]
fn make_lists_every_target() {
    let directory = Directory::new("make-help");
    let help = directory.command("make", &[]).output();
    let help = String::from_utf8(help.expect("make is there").stdout).expect("UTF-8");
    let makefile = read("Makefile");
    let targets = makefile
        .lines()
        .find_map(|line| line.strip_prefix(".PHONY: "));
    for target in targets.expect("the targets").split_whitespace() {
        let is_listed = help
            .lines()
            .any(|line| line.split(' ').next() == Some(target));
        assert!(is_listed, "{target}: {help}");
    }
}

#[test]
fn the_id_of_make_trace_is_never_run() {
    let directory = Directory::new("make-trace");
    let made = directory.0.join("made-by-an-id");
    let id = format!("$(shell touch {})`touch {0}`", made.display());
    let mut trace = directory.command("make", &["--silent", "trace", &format!("ID={id}")]);
    let trace = trace.output().expect("make is there");
    assert!(!made.exists());
    let said = String::from_utf8_lossy(&trace.stderr);
    assert!(said.contains(&id), "{said}");
}

#[test]
fn the_readme_is_short_and_its_figures_are_those_of_their_pages() {
    let readme = read("README.md");
    assert!(readme.lines().count() < 150);
    let rows = readme.lines().filter_map(|line| line.strip_prefix("| **"));
    let mut figures = 0;
    for row in rows {
        let (figure, row) = row.split_once("**").expect("a figure is bold");
        let (_, page) = row.split_once("](").expect("a figure has a link");
        let (page, _) = page.split_once(')').expect("a link ends");
        assert!(read(page).contains(figure), "{figure} is not in {page}");
        assert!(MEASURED.contains(&page), "{page}");
        figures += 1;
    }
    assert_eq!(figures, 3);
}

/// The pages with figures that were measured.
const MEASURED: [&str; 5] = [
    "bench/README.md",
    "deploy/README.md",
    "deploy/swarm/README.md",
    "docs/failures.md",
    "docs/limits.md",
];

#[test]
fn figures_have_the_commit_that_they_were_measured_at() {
    let git = |arguments: &[&str]| {
        let output = Command::new("git")
            .args(arguments)
            .current_dir(ROOT)
            .output();
        output.ok().filter(|output| output.status.success())
    };
    let is_shallow = git(&["rev-parse", "--is-shallow-repository"]);
    let has_history = is_shallow.is_some_and(|it| it.stdout == b"false\n");
    for name in MEASURED {
        let page = read(name);
        let spans = page.split('`').skip(1).step_by(2);
        let is_commit =
            |span: &&str| span.len() == 7 && span.bytes().all(|it| it.is_ascii_hexdigit());
        let commits: Vec<_> = spans.filter(is_commit).collect();
        assert!(!commits.is_empty(), "{name}");
        for commit in commits {
            let is_there = git(&["cat-file", "-e", &format!("{commit}^{{commit}}")]).is_some();
            assert!(is_there || !has_history, "{name}: {commit}");
        }
    }
    let results: Value = serde_json::from_str(&read("bench/results/results.json")).expect("JSON");
    let commit = results["origin"]["commit"].as_str().expect("a commit");
    assert!(read("bench/README.md").contains(&format!("measured at `{commit}` by `make bench`")));
    let failures = read("docs/failures.md");
    let rows = failures
        .lines()
        .skip_while(|line| !line.starts_with("| fault, "));
    for row in rows.skip(2).take_while(|line| line.starts_with('|')) {
        assert!(row.ends_with("` |"), "{row}");
    }
}

#[test]
fn links_lead_to_files_and_headings() {
    let pages = pages().into_iter().map(|(name, _)| name);
    let others = [
        "bench/README.md",
        "deploy/README.md",
        "deploy/swarm/README.md",
        "deploy/kubernetes/README.md",
    ];
    for name in pages.chain(others.map(str::to_owned)) {
        let page = read(&name);
        let directory = Path::new(&name).parent().expect("a directory");
        let texts = parts(&page).filter(|(language, _)| language.is_none());
        let links = texts.flat_map(|(_, text)| text.split("](").skip(1));
        let links = links.map(|link| link.split_once(')').expect("a link ends").0);
        for link in links.filter(|link| !link.starts_with("https://")) {
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let file = match file {
                "" => name.clone(),
                file => directory.join(file).display().to_string(),
            };
            let is_there = Path::new(ROOT).join(&file).exists();
            assert!(is_there, "{name}: {link}");
            let has_heading = || headings(&read(&file)).any(|anchor| anchor == heading);
            assert!(heading.is_empty() || has_heading(), "{name}: {link}");
        }
    }
}

#[test]
fn the_files_of_common_that_pages_name_are_there() {
    const SOURCES: &str = "common/src/";
    let mut named = 0;
    for (name, page) in pages() {
        for (at, _) in page.match_indices(SOURCES) {
            let is_of_path = |letter: char| letter.is_alphanumeric() || "/._-".contains(letter);
            let file = page[at..].split(|letter| !is_of_path(letter)).next();
            let file = file.expect("a path").trim_end_matches('.');
            assert!(Path::new(ROOT).join(file).exists(), "{name}: {file}");
            named += 1;
        }
    }
    assert!(named >= 30, "{named}");
}

/// The anchors that GitHub makes of the headings of a page.
fn headings(page: &str) -> impl Iterator<Item = String> {
    let headings = page.lines().filter(|line| line.starts_with('#'));
    headings.map(|heading| {
        let heading = heading.trim_start_matches('#').trim().to_lowercase();
        let heading = heading.replace(' ', "-");
        let is_kept = |letter: &char| letter.is_alphanumeric() || "-_".contains(*letter);
        heading.chars().filter(is_kept).collect()
    })
}

#[test]
fn the_page_on_configuration_has_every_setting_with_its_default() {
    let page = read("docs/configuration.md");
    for (service, settings) in [("service1", 26), ("service2", 31)] {
        let help = Process::spawn(service, &["--help"], &[]).ended().stdout;
        let help = help.join("\n");
        let settings_of_help = help.split(" --").skip(1).filter_map(|setting| {
            let (flag, rest) = setting.split_once(' ')?;
            let (_, rest) = rest.split_once("[env: ")?;
            let (variable, rest) = rest.split_once('=')?;
            Some((flag, variable, rest))
        });
        let mut found = 0;
        for (flag, variable, rest) in settings_of_help {
            let begin = format!("| `{variable}` | `--{flag}` |");
            let row = page.lines().find(|row| row.starts_with(&begin));
            let row = row.expect(&begin);
            if let Some((_, default)) = rest.split_once("[default: ") {
                let (default, _) = default.split_once(']').expect("it ends");
                assert!(row.contains(&format!("`{default}`")), "{default}: {row}");
            }
            found += 1;
        }
        assert_eq!(found, settings, "{service}");
    }
}

#[test]
fn the_help_names_the_variables_of_opentelemetry_that_the_docs_explain() {
    let names = |text: &str| {
        let is_of_name = |letter: char| letter.is_ascii_uppercase() || letter == '_';
        let words = text.split(|letter| !is_of_name(letter));
        let names = words.filter(|word| word.starts_with("OTEL_") && word.len() > "OTEL_".len());
        names.map(str::to_owned).collect::<BTreeSet<_>>()
    };
    let explained = names(&read("docs/operating.md"));
    for service in ["service1", "service2"] {
        let help = Process::spawn(service, &["--help"], &[]).ended().stdout;
        assert_eq!(names(&help.join("\n")), explained, "{service}");
    }
}

#[test]
fn the_third_service_works_with_the_pair() {
    let service1 = Process::start("service1", &[]);
    let channel = service1.grpc().to_string();
    let service3 = Process::start("service3", &[("SERVICE1_CHANNEL", &channel)]);
    service3.wait_until_ready();
    let answer = http::get(service3.http(), "/api/v1/say-goodbye?name=test");
    assert_eq!((answer.status, answer.text()), (200, "\"Goodbye, TEST!\""));
    let access = service3.access_line(answer.id());
    assert_eq!(access.number("response_status"), Some(200.0));
    assert_eq!(
        service1
            .line(&[("request_id", answer.id())])
            .text("processed_name"),
        "TEST"
    );
    assert_eq!(
        http::get(service3.http(), "/api/v1/say-goodbye?name=%").status,
        400
    );
}

/// A block below a link to a file, such as ``[`src/main.rs`](../examples/…/main.rs):``, is a part of
/// that file, which is compiled.
#[test]
fn blocks_of_files_are_in_these_files() {
    let mut compared = 0;
    for (name, page) in pages() {
        let mut caption: Option<String> = None;
        for (language, text) in parts(&page) {
            match (language, caption.take()) {
                (Some(_), Some(file)) => {
                    let directory = Path::new(&name).parent().expect("a directory");
                    let file = directory.join(file).display().to_string();
                    let is_there = read(&file).contains(text);
                    assert!(is_there, "{name}: {file} does not have this block:\n{text}");
                    compared += 1;
                }
                (None, _) => caption = captioned_file(text),
                (Some(_), None) => {}
            }
        }
    }
    assert!(compared >= 15, "{compared}");
}

/// The file that the last line of a text links to, if that line is such a link and nothing else.
fn captioned_file(text: &str) -> Option<String> {
    let line = text.trim_end().rsplit('\n').next()?;
    let file = line.strip_prefix("[`")?.strip_suffix("):")?;
    let (_, file) = file.split_once("`](")?;
    Some(file.to_owned())
}
