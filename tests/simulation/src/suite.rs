//! [`main`]: runs many seeds, each twice and in processes of their own, and shrinks those that fail.
//!
//! | variable | what it sets |
//! |---|---|
//! | `SEED` | the only seed, with the events around its first violation |
//! | `LEFT_OUT` | the numbers of the faults that `SEED` runs without, separated by commas |
//! | `TRACE` | with `SEED`: prints all events |
//! | `SECONDS` | for how long fresh seeds run, after those of the corpus |
//! | `FROM` | the first fresh seed, in place of one by the clock |
//! | `EXCEPT` | fresh seeds that are left out, separated by commas |
//! | `MAY_FAIL` | how many fresh seeds may fail: they are printed, and are news of the code and not of its last change |
//! | `UNTIL_FAILURE` | stops at the first failure, and shrinks nothing |

use std::{
    collections::BTreeMap,
    env,
    fmt::Debug,
    hash::{DefaultHasher, Hash, Hasher},
    io::Read as _,
    process::{Child, Command, ExitCode, Stdio},
    str::FromStr,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use crate::{lock, run::run};

/// The seeds that have failed once, each with the fault that it showed.
const CORPUS: &str = include_str!("../corpus.txt");

/// The variable that makes a process run a seed.
const CHILD: &str = "SIMULATION_CHILD";

/// The longest time for a run, of a machine and not of the simulation: far more than any needs.
const PATIENCE: Duration = Duration::from_mins(3);

/// How long before a violation events are printed.
const BEFORE: Duration = Duration::from_secs(2);
const MOST_EVENTS: usize = 60;

/// What a process says of its run.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Result {
    calls: usize,
    hash: u64,
    used: BTreeMap<String, usize>,
    /// The kilobytes of memory that it had at most.
    memory: u64,
    violations: Vec<String>,
}

/// The main function of the suite, and that of its processes.
pub fn main() -> ExitCode {
    let seed = env::var("SEED").ok().map(|seed| {
        let seed = seed.parse::<u64>();
        seed.expect("SEED is a number")
    });
    match (env::var_os(CHILD), seed) {
        (Some(_), Some(seed)) => child(seed),
        (_, Some(seed)) => one(seed),
        (_, None) => many(),
    }
}

fn left_out() -> Vec<usize> {
    numbers_in("LEFT_OUT")
}

/// The numbers that a variable has, separated by commas.
fn numbers_in<T: FromStr<Err: Debug>>(variable: &str) -> Vec<T> {
    let text = env::var(variable).unwrap_or_default();
    let numbers = text.split(',').filter(|number| !number.is_empty());
    let number = |text: &str| text.parse().expect("the variable has numbers");
    numbers.map(number).collect()
}

/// Runs a seed in this process, and prints what came of it.
fn child(seed: u64) -> ExitCode {
    let report = run(seed, &left_out());
    println!("calls {}", report.calls);
    for (name, times) in &report.used {
        println!("used {times} {name}");
    }
    let mut hasher = DefaultHasher::new();
    for (at, event) in &report.events {
        (at, event.to_string()).hash(&mut hasher);
    }
    println!("hash {}", hasher.finish());
    println!("memory {}", most_memory());
    for (at, what) in &report.violations {
        println!("violation {at:?} {what}");
    }
    if env::var_os("TRACE").is_some() {
        print_schedule(&report.schedule);
        let first = report
            .violations
            .first()
            .map_or(Duration::MAX, |(at, _)| *at);
        let all = env::var("TRACE").is_ok_and(|it| it == "all");
        let near = report.events.iter().filter(|(at, _)| {
            all || (*at + BEFORE >= first && *at <= first + Duration::from_millis(1))
        });
        let near: Vec<_> = near.collect();
        let skipped = if all {
            0
        } else {
            near.len().saturating_sub(MOST_EVENTS)
        };
        for (at, event) in &near[skipped..] {
            println!("event {at:?} {event}");
        }
    }
    ExitCode::SUCCESS
}

fn print_schedule(schedule: &crate::schedule::Schedule) {
    for (number, kind) in schedule.replicas.iter().enumerate() {
        println!("event replica {number}: {kind:?}");
    }
    println!("event clients: {:?}", schedule.clients);
    println!("event edge: {:?}", schedule.edge);
    for (number, fault) in schedule.faults.iter().enumerate() {
        println!("event fault {number}: {fault}");
    }
}

/// The most memory that this process had, in kilobytes.
fn most_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.unwrap_or_default()
}

/// Runs a seed in a process of its own. Also returns its output.
fn run_child(seed: u64, left_out: &[usize], trace: bool) -> (Result, String) {
    let left_out: Vec<_> = left_out.iter().map(ToString::to_string).collect();
    let mut command = Command::new(env::current_exe().expect("it has a file"));
    command
        .env(CHILD, "1")
        .env("SEED", seed.to_string())
        .env("LEFT_OUT", left_out.join(","))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if trace && env::var_os("TRACE").is_none() {
        command.env("TRACE", "near");
    }
    let child = command.spawn().expect("it runs itself");
    let (output, errors, end) = wait(child);
    let mut result = Result::default();
    for line in output.lines() {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "calls" => result.calls = rest.parse().unwrap_or_default(),
            "hash" => result.hash = rest.parse().unwrap_or_default(),
            "memory" => result.memory = rest.parse().unwrap_or_default(),
            "violation" => result.violations.push(rest.to_owned()),
            "used" => {
                let (times, name) = rest.split_once(' ').unwrap_or(("0", rest));
                let times = times.parse::<usize>().unwrap_or_default();
                result.used.insert(name.to_owned(), times);
            }
            _ => {}
        }
    }
    match end {
        None => result.violations.insert(0, "0s it does not end".into()),
        Some(false) => {
            let errors: Vec<_> = errors.lines().take(6).collect();
            result
                .violations
                .insert(0, format!("0s it panics: {}", errors.join(" / ")));
        }
        Some(true) => {}
    }
    (result, output)
}

/// The output of a process, its errors, and whether it ended well; `None` if it had to be ended.
fn wait(mut child: Child) -> (String, String, Option<bool>) {
    let (mut out, mut err) = (child.stdout.take(), child.stderr.take());
    let out = thread::spawn(move || {
        let mut text = String::new();
        let _ = out.as_mut().map(|out| out.read_to_string(&mut text));
        text
    });
    let err = thread::spawn(move || {
        let mut text = String::new();
        let _ = err.as_mut().map(|err| err.read_to_string(&mut text));
        text
    });
    let begin = Instant::now();
    let end = loop {
        match child.try_wait() {
            Ok(Some(status)) => break Some(status.success()),
            Ok(None) if begin.elapsed() < PATIENCE => thread::sleep(Duration::from_millis(5)),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                break None;
            }
        }
    };
    let text = |thread: thread::JoinHandle<String>| thread.join().unwrap_or_default();
    (text(out), text(err), end)
}

/// Runs a seed twice, and prints what happens around its first violation.
fn one(seed: u64) -> ExitCode {
    let left_out = left_out();
    let (result, output) = run_child(seed, &left_out, true);
    let (again, _) = run_child(seed, &left_out, false);
    for line in events_in(&output) {
        println!("{line}");
    }
    println!("seed {seed}: {} calls, {} kB", result.calls, result.memory);
    if again.hash != result.hash {
        println!("its second run was another");
    }
    for violation in &result.violations {
        println!("VIOLATED {violation}");
    }
    if result.violations.is_empty() && again.hash == result.hash {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// The schedule and the events that a process has printed.
fn events_in(output: &str) -> impl Iterator<Item = &str> {
    let lines = output.lines();
    lines.filter_map(|line| line.strip_prefix("event "))
}

/// What a violation is about, without the numbers.
fn kind(violation: &str) -> String {
    let what = violation
        .split_once(' ')
        .map_or(violation, |(_, what)| what);
    let letters = what.chars().filter(|one| !one.is_ascii_digit());
    letters.take(40).collect()
}

/// Leaves out faults while the violation stays, and prints what is left.
fn shrink_and_print(seed: u64, violation: &str) {
    let wanted = kind(violation);
    let mut left_out = Vec::new();
    for fault in 0..crate::schedule::Schedule::draw(seed).faults.len() {
        let mut fewer = left_out.clone();
        fewer.push(fault);
        let (result, _) = run_child(seed, &fewer, false);
        if result.violations.iter().any(|it| kind(it) == wanted) {
            left_out = fewer;
        }
    }
    let (result, output) = run_child(seed, &left_out, true);
    println!("\nseed {seed} fails: {violation}");
    for line in events_in(&output) {
        println!("  {line}");
    }
    for violation in result.violations.iter().take(8) {
        println!("  VIOLATED {violation}");
    }
    let left_out: Vec<_> = left_out.iter().map(ToString::to_string).collect();
    let left_out = left_out.join(",");
    println!("  again: SEED={seed} LEFT_OUT={left_out} cargo test --package simulation");
}

/// The figures of all runs.
#[derive(Debug, Default)]
struct Sum {
    seeds: usize,
    calls: usize,
    memory: u64,
    /// The seeds with each generator, and how often it was used.
    used: BTreeMap<String, (usize, usize)>,
    failed: Vec<(u64, String)>,
}

/// The first fresh seed.
fn first_fresh() -> u64 {
    if let Ok(from) = env::var("FROM") {
        return from.parse().expect("FROM is a number");
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |it| it.as_secs()) * 1_000_000
}

/// Runs the corpus, and fresh seeds for a while.
fn many() -> ExitCode {
    let seconds = env::var("SECONDS").ok().and_then(|it| it.parse().ok());
    let corpus = CORPUS.lines().filter_map(|line| {
        let seed = line.split_whitespace().next()?;
        seed.parse::<u64>().ok()
    });
    let corpus: Vec<_> = corpus.collect();
    let fresh = first_fresh();
    let until_failure = env::var_os("UNTIL_FAILURE").is_some();
    let has_failed = AtomicBool::new(false);
    let except = numbers_in::<u64>("EXCEPT");
    println!("{} seeds of the corpus, then from {fresh}", corpus.len());
    let (next, sum, begin) = (
        AtomicU64::new(0),
        Mutex::new(Sum::default()),
        Instant::now(),
    );
    let end = Duration::from_secs(seconds.unwrap_or(0));
    let cores = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                while !(until_failure && has_failed.load(Relaxed)) {
                    let number = next.fetch_add(1, Relaxed);
                    let index = usize::try_from(number).expect("few");
                    let seed = match corpus.get(index) {
                        Some(seed) => *seed,
                        None if begin.elapsed() < end => fresh + number - corpus.len() as u64,
                        None => return,
                    };
                    if except.contains(&seed) {
                        continue;
                    }
                    let (result, _) = run_child(seed, &[], false);
                    let is_checked_twice = number % 16 == 0;
                    let is_same =
                        !is_checked_twice || run_child(seed, &[], false).0.hash == result.hash;
                    let mut sum = lock(&sum);
                    sum.seeds += 1;
                    sum.calls += result.calls;
                    sum.memory = sum.memory.max(result.memory);
                    for (name, times) in result.used {
                        let (seeds, uses) = sum.used.entry(name).or_default();
                        *seeds += 1;
                        *uses += times;
                    }
                    if let Some(first) = result.violations.first() {
                        println!("seed {seed}: {first}");
                        sum.failed.push((seed, first.clone()));
                    } else if !is_same {
                        let what = "0s its second run was another".to_owned();
                        println!("seed {seed}: {what}");
                        sum.failed.push((seed, what));
                    }
                    has_failed.store(!sum.failed.is_empty(), Relaxed);
                }
            });
        }
    });
    let sum = sum.into_inner().expect("no thread panicked");
    println!("\nthe seeds with each generator, and its uses:");
    for (name, (seeds, uses)) in &sum.used {
        println!("{seeds:6} {uses:8} {name}");
    }
    let mut shown = Vec::new();
    for (seed, violation) in &sum.failed {
        if !until_failure && shown.len() < 5 && !shown.contains(&kind(violation)) {
            shown.push(kind(violation));
            shrink_and_print(*seed, violation);
        }
    }
    println!(
        "\n{} seeds, {} calls, at most {} MB, {} failed, in {:.0} s",
        sum.seeds,
        sum.calls,
        sum.memory / 1_024,
        sum.failed.len(),
        begin.elapsed().as_secs_f64(),
    );
    let may_fail = env::var("MAY_FAIL").ok().and_then(|it| it.parse().ok());
    let is_known = |(seed, _): &(u64, String)| corpus.contains(seed);
    if sum.failed.len() <= may_fail.unwrap_or(0) && !sum.failed.iter().any(is_known) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
