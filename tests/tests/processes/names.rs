//! In `common`, no two types that other files can see have one name: one word, one thing.

use std::{collections::BTreeMap, fs, path::Path};

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../common/src");

/// Names that each module has for its own, as is usual in Rust.
const USUAL: [&str; 6] = [
    "Body",
    "Config",
    "Error",
    "Layer",
    "ResponseFuture",
    "Service",
];

const KINDS: [&str; 4] = ["enum ", "struct ", "trait ", "type "];

/// The name of the type that a line at the top of a file declares, if other files can see it.
fn declared(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("pub")?;
    let (_visibility, rest) = rest.split_once(' ')?;
    let name = KINDS.iter().find_map(|kind| rest.strip_prefix(kind))?;
    name.split(|c: char| !c.is_alphanumeric()).next()
}

fn collect(directory: &Path, files: &mut BTreeMap<String, Vec<String>>) {
    for entry in fs::read_dir(directory).expect("a directory of sources") {
        let path = entry.expect("it can be read").path();
        let name = path.file_name().expect("it has a name").to_string_lossy();
        if path.is_dir() && name != "tests" {
            collect(&path, files);
        } else if name.ends_with(".rs") && name != "tests.rs" && name != "fake.rs" {
            let text = fs::read_to_string(&path).expect("it can be read");
            for name in text.lines().filter_map(declared) {
                let file = path.strip_prefix(SOURCE).expect("it is a source");
                let files = files.entry(name.to_owned()).or_default();
                files.push(file.display().to_string());
            }
        }
    }
}

#[test]
fn no_two_types_have_one_name() {
    let mut files = BTreeMap::new();
    collect(Path::new(SOURCE), &mut files);
    assert!(files.contains_key("Context"), "no types were found");
    files.retain(|name, files| files.len() > 1 && !USUAL.contains(&name.as_str()));
    assert!(files.is_empty(), "rename all but one of each: {files:#?}");
}
