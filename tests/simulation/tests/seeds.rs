//! Runs the corpus, and fresh seeds for `SECONDS`; see [`simulation::suite`].

use std::process::ExitCode;

fn main() -> ExitCode {
    simulation::suite::main()
}
