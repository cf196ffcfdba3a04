//! Measures our pair and its peers in turns, and reports the figures: `bench --help`.
//!
//! | module | what is in it |
//! |---|---|
//! | `pair` | the pairs: how each is built and started |
//! | `sidecar` | the Envoys of one of them |
//! | `service` | one process: drains its stdout, and reads its figures from `/proc` |
//! | `wrk` | the closed loop: as many requests as the connections can carry |
//! | `question` | our own client, which checks each response, as wrk can't |
//! | `open_loop` | requests at a constant rate, and latencies from the time that each was due |
//! | `rotation` | a closed loop that rotates through many connections |
//! | `compare` | all pairs in turns under both loops |
//! | `scale` | our pair alone: connections, replicas, sizes, streams, start, shutdown |
//! | `figure` | medians, spreads and ratios |
//! | `report` | the files in `bench/results` |
//! | `plot` | the two plots among them |

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
mod sidecar;
mod wrk;

use std::{error::Error, path::PathBuf, process::ExitCode, time::Duration};

use clap::Parser;

use pair::Kind;

/// Any error ends the run, and a person reads it.
type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Compares our pair with its peers, and measures how it scales
#[derive(Parser)]
struct Options {
    /// The number of rounds; each pair has one turn in a round
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,

    /// How long a turn measures, after a warm-up of 1 s
    #[arg(long, default_value = "2s", value_parser = humantime::parse_duration)]
    turn: Duration,

    /// The pairs to run; ratios are to the first one
    #[arg(long, value_delimiter = ',', default_values_t = Kind::ALL)]
    pairs: Vec<Kind>,

    /// Do not measure how our pair scales
    #[arg(long)]
    no_scale: bool,

    /// The directory for results.json, results.md and the plots
    #[arg(long, default_value = "bench/results")]
    results: PathBuf,
}

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

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
    // Each of 10,000 connections is an open file.
    common::server::raise_file_limit()?;
    let mut built = Vec::new();
    for kind in options.pairs {
        eprintln!("building {kind}");
        match kind.build() {
            Err(error) if matches!(kind, Kind::Python | Kind::Sidecar) => {
                eprintln!("{kind} is left out: {error}");
            }
            result => {
                result?;
                built.push(kind);
            }
        }
    }
    options.pairs = built;
    if options.pairs.is_empty() {
        return Err("no pair was built".into());
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
