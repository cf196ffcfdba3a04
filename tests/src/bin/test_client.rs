//! Runs the cases of gRPC's interoperability tests through `common` against a server. Prints a
//! line for each case that passes, with its name and the number of its calls. The first failure is
//! a panic.

use std::{process::ExitCode, time::Duration};

use clap::Parser;
use tests::testing::{
    cases::{self, ALL},
    peers,
};

#[derive(Parser)]
struct Config {
    /// The host and the port of the server
    address: String,
    /// A case to leave out
    #[arg(long)]
    without: Vec<String>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let Config { address, without } = Config::parse();
    let connect = peers::ours(&address);
    for case in &ALL {
        if !without.iter().any(|name| name == case.name) {
            cases::run(case, case.name, &connect).await;
            println!("{} {}", case.name, case.calls);
        }
    }
    // The last calls that were dropped need this time for their resets.
    tokio::time::sleep(Duration::from_millis(100)).await;
    ExitCode::SUCCESS
}
