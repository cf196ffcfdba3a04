//! The fuzz targets hold for each committed input. `make fuzz` looks for further ones.

use std::{fs, path::Path};

#[path = "../../fuzz/src/lib.rs"]
#[allow(unreachable_pub)] // it is a crate elsewhere
mod fuzz;

/// The inputs of a target.
fn inputs(target: &str) -> Vec<Vec<u8>> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    let files = fs::read_dir(corpus.join(target)).expect("the target has inputs");
    let inputs = files.map(|file| fs::read(file.expect("an entry").path()).expect("a file"));
    let inputs: Vec<_> = inputs.collect();
    assert!(!inputs.is_empty(), "{target}");
    inputs
}

/// The text at the beginning of an input, as the fuzzer gives it to a target.
fn text(input: &[u8]) -> &str {
    match str::from_utf8(input) {
        Ok(text) => text,
        Err(error) => str::from_utf8(&input[..error.valid_up_to()]).expect("valid up to there"),
    }
}

#[test]
fn each_target_holds_for_its_inputs() {
    for input in inputs("grpc_timeout") {
        fuzz::grpc_timeout::run(&input);
    }
    for input in inputs("stack") {
        fuzz::stack::run(&input);
    }
    for input in inputs("log_line") {
        fuzz::log_line::run(text(&input));
    }
    for input in inputs("query") {
        fuzz::query::run(text(&input));
    }
    for input in inputs("request_id") {
        fuzz::request_id::run(text(&input));
    }
    for input in inputs("target") {
        fuzz::target::run(text(&input));
    }
}
