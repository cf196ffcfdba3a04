//! The cases of gRPC's interoperability tests, through `common`, against the server at an address.
//! Each that held is a line with its name and how many calls it made; the first that did not is a
//! panic.

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
    // By then the last calls that were dropped are reset.
    tokio::time::sleep(Duration::from_millis(100)).await;
    ExitCode::SUCCESS
}
