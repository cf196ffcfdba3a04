//! What `make run` compiles, `make test` does not compile again.

use std::{
    collections::{BTreeSet, HashMap},
    process::Command,
};

use serde_json::Value;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// The units of third-party crates in the build of a `make` target: what cargo compiles, with which
/// features and settings, and on top of which other units.
fn third_party_units(target: &[&str]) -> BTreeSet<String> {
    let make = Command::new("make")
        .args(["--dry-run", "--no-print-directory"])
        .args(target)
        .current_dir(ROOT)
        .output()
        .expect("make runs");
    let commands = String::from_utf8(make.stdout).expect("make writes text");
    let mut commands = commands.lines().filter(|line| line.starts_with("cargo "));
    let mut words = commands
        .next()
        .unwrap_or_else(|| panic!("make {target:?} calls cargo"))
        .split_whitespace();
    let program = words.next().expect("the line has words");
    let cargo = Command::new(program)
        .args(words)
        .args(["--offline", "-Z", "unstable-options", "--unit-graph"])
        .env("RUSTC_BOOTSTRAP", "1") // the graph is an unstable option
        .current_dir(ROOT)
        .output()
        .expect("cargo runs");
    assert!(
        cargo.status.success(),
        "{}",
        String::from_utf8_lossy(&cargo.stderr)
    );
    let graph: Value = serde_json::from_slice(&cargo.stdout).expect("the graph is JSON");
    let units = graph["units"].as_array().expect("it has units");
    let mut names = HashMap::new();
    (0..units.len())
        .filter(|&index| units[index]["pkg_id"].as_str().is_some_and(is_third_party))
        .map(|index| name(units, index, &mut names))
        .collect()
}

fn is_third_party(package: &str) -> bool {
    package.starts_with("registry+")
}

/// A unit by all that makes cargo compile it anew. The names of dependencies are hashed, as they
/// would fill the memory.
fn name(units: &[Value], index: usize, names: &mut HashMap<usize, String>) -> String {
    if let Some(name) = names.get(&index) {
        return name.clone();
    }
    let unit = &units[index];
    let mut profile = unit["profile"].clone();
    profile["name"] = Value::Null; // `test` inherits all of `dev`
    let dependencies = unit["dependencies"].as_array().expect("it is a list");
    let dependencies = dependencies.iter().map(|dependency| {
        let index = dependency["index"].as_u64().expect("it is an index");
        let index = usize::try_from(index).expect("it is an index of the list");
        hash(&self::name(units, index, names))
    });
    let mut dependencies: Vec<_> = dependencies.collect();
    dependencies.sort_unstable();
    let name = format!(
        "{} {} {} {} {profile} {} {dependencies:x?}",
        unit["pkg_id"], unit["mode"], unit["target"]["kind"], unit["features"], unit["platform"],
    );
    names.insert(index, name.clone());
    name
}

fn hash(text: &str) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

#[test]
fn make_test_compiles_no_third_party_crate_of_make_run_again() {
    let tested = third_party_units(&["test"]);
    for run in [&["run"][..], &["run", "TLS=on"]] {
        let run = third_party_units(run);
        assert!(run.len() > 100, "{}", run.len());
        let again: Vec<_> = run.difference(&tested).collect();
        assert!(
            again.is_empty(),
            "name their features in tests/features: {again:#?}"
        );
    }
}

#[test]
fn a_release_has_no_feature_that_only_tests_need() {
    let has_test_clock = |target: &[&str]| {
        let units = third_party_units(target);
        units.iter().any(|unit| unit.contains("test-util"))
    };
    assert!(has_test_clock(&["run"]));
    assert!(!has_test_clock(&["run", "RELEASE=1"]));
}
