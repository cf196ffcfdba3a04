//! The sources of `common`, for the tests that read them.

use std::{collections::BTreeMap, fs, path::Path};

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../common/src");

/// The files of `common/src` that are no tests, by their path in it, and their text.
pub(crate) fn of_common() -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    read(Path::new(SOURCE), &mut files);
    files
}

fn read(directory: &Path, files: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(directory).expect("a directory of sources") {
        let path = entry.expect("it can be read").path();
        let name = path.file_name().expect("it has a name").to_string_lossy();
        if path.is_dir() && name != "tests" {
            read(&path, files);
        } else if name.ends_with(".rs") && name != "tests.rs" && name != "fake.rs" {
            let file = path.strip_prefix(SOURCE).expect("it is a source");
            let text = fs::read_to_string(&path).expect("it can be read");
            files.insert(file.display().to_string(), text);
        }
    }
}
