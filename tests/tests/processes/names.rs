//! In `common`, no two types that other files can see have one name: one word, one thing.

use std::collections::BTreeMap;

use crate::sources;

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

#[test]
fn no_two_types_have_one_name() {
    let sources = sources::of_common();
    let mut files = BTreeMap::<_, Vec<_>>::new();
    for (file, text) in &sources {
        for name in text.lines().filter_map(declared) {
            files.entry(name).or_default().push(file);
        }
    }
    assert!(files.contains_key("Context"), "no types were found");
    files.retain(|name, files| files.len() > 1 && !USUAL.contains(name));
    assert!(files.is_empty(), "rename all but one of each: {files:#?}");
}
