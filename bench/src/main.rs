//! Runs our pair and its peers in turns and writes down how fast they are: `bench --help`.
//!
//! | module | what is in it |
//! |---|---|
//! | `pair` | the pairs: how each is built and started |
//! | `service` | one process: its stdout drained, its figures from `/proc` |
//! | `wrk` | the closed loop: as fast as 100 connections go |
//! | `question` | our own client, for what wrk can't do: one request on one connection, checked |
//! | `open_loop` | a constant rate, and the latency from the time that a request was due |
//! | `rotation` | a closed loop that goes round many connections |
//! | `compare` | all pairs in turns under both loops |
//! | `scale` | our pair alone: connections, replicas, sizes, streams, start, shutdown |
//! | `figure` | medians, spread and ratios |
//! | `report` | what is written to `bench/results`, `plot` its two pictures |

mod compare;
mod figure;
mod open_loop;
mod pair;
mod plot;
mod question;
mod report;
mod rotation;
mod scale;
mod service;
mod wrk;

use std::{error::Error, path::PathBuf, process::ExitCode, time::Duration};

use clap::Parser;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use pair::Kind;

/// What goes wrong here ends the run, and a person reads it.
type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Compares the pair with its peers, and shows how it scales
#[derive(Parser)]
struct Options {
    /// Rounds, in each of which every pair has its turn
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,

    /// How long a pair is measured in its turn, after a warm-up of a second
    #[arg(long, default_value = "2s", value_parser = humantime::parse_duration)]
    turn: Duration,

    /// The pairs to run; ratios are to the first of them
    #[arg(long, value_delimiter = ',', default_values_t = Kind::ALL)]
    pairs: Vec<Kind>,

    /// Leaves out how our pair scales
    #[arg(long)]
    no_scale: bool,

    /// Where results.json, results.md and the plots go
    #[arg(long, default_value = "bench/results")]
    results: PathBuf,
}

fn main() -> ExitCode {
    match run(Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(mut options: Options) -> Result<()> {
    // 10,000 connections are as many open files.
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, raised)?;
    let mut built = Vec::new();
    for kind in options.pairs {
        eprintln!("building {kind}");
        match kind.build() {
            Err(error) if kind == Kind::Python => eprintln!("python is left out: {error}"),
            result => {
                result?;
                built.push(kind);
            }
        }
    }
    // From here on they are those that there are.
    options.pairs = built;
    if options.pairs.is_empty() {
        return Err("there is no pair to run".into());
    }
    let comparison = compare::run(&options)?;
    let scale = if options.no_scale {
        None
    } else {
        Kind::Ours.build()?;
        Some(scale::run(&options)?)
    };
    report::write(comparison, scale, &options)
}
