//! The public items of `common` are those of `common/public-api.txt`, so that no change of the API
//! goes unnoticed. `make public-api` writes the file anew.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    ffi::OsString,
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

/// The format of rustdoc's JSON that the crate `public-api` reads: that of Rust 1.95.
const FORMAT: u64 = 57;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// The names of which each path is another type: `common::Config` and `common::client::Config`.
const NAMES_OF_SEVERAL: [&str; 1] = ["Config"];

/// The paths of the types in a list of public items, by name. A type within a type is not one of them.
fn paths_of_types(list: &str) -> BTreeMap<&str, Vec<&str>> {
    let mut paths = BTreeMap::<_, Vec<_>>::new();
    for line in list.lines() {
        let item = line.trim_start_matches("#[non_exhaustive] ");
        let kinds = ["pub struct ", "pub enum ", "pub trait ", "pub type "];
        let Some(item) = kinds.iter().find_map(|kind| item.strip_prefix(kind)) else {
            continue;
        };
        let is_in_path = |it: char| it.is_alphanumeric() || it == '_' || it == ':';
        let path = item.split(|it| !is_in_path(it)).next().unwrap_or_default();
        let path = path.trim_end_matches(':'); // of a trait with supertraits
        let (module, name) = path.rsplit_once("::").expect("it is in the crate");
        let is_within_type = module.contains(char::is_uppercase) || item.contains(">::");
        if !is_within_type {
            paths.entry(name).or_default().push(path);
        }
    }
    paths
}

#[test]
fn a_type_has_one_path() {
    let list = Path::new(ROOT).join("common/public-api.txt");
    let list = fs::read_to_string(list).expect("there is a list");
    let paths = paths_of_types(&list);
    assert!(paths.len() > 10, "{paths:?}");
    let twice = paths.iter().filter(|(_, paths)| paths.len() > 1);
    let twice: Vec<_> = twice.map(|(name, _)| *name).collect();
    assert_eq!(twice, NAMES_OF_SEVERAL, "{paths:?}");
}

#[test]
fn the_public_items_of_common_are_those_of_the_list() {
    let file = document();
    let json = fs::read_to_string(&file).expect("rustdoc wrote it");
    let document: serde_json::Value = serde_json::from_str(&json).expect("it is JSON");
    if document["format_version"] != FORMAT {
        println!("left out: this Rust describes an API in another format; use Rust 1.95");
        return;
    }
    let api = public_api::Builder::from_rustdoc_json(&file)
        .omit_blanket_impls(true)
        .omit_auto_trait_impls(true)
        .omit_auto_derived_impls(true)
        .build()
        .expect("its format is known");
    let items: BTreeSet<_> = api.items().map(|item| format!("{item}\n")).collect();

    let list = Path::new(ROOT).join("common/public-api.txt");
    if env::var_os("UPDATE_PUBLIC_API").is_some() {
        let items: Vec<_> = items.into_iter().collect();
        fs::write(list, items.concat()).expect("it can be written");
        return;
    }
    let known = fs::read_to_string(list).expect("there is a list");
    let known: BTreeSet<_> = known.split_inclusive('\n').map(str::to_owned).collect();
    let changes = items.symmetric_difference(&known).map(|item| {
        let sign = if known.contains(item) { '-' } else { '+' };
        format!("{sign} {item}")
    });
    let changes = changes.collect::<Vec<_>>().concat();
    assert!(
        changes.is_empty(),
        "the public API of common has changed; if that is right, run `make public-api`:\n{changes}"
    );
}

/// Documents `common` as JSON, from what `make lint` has compiled. Returns the file.
fn document() -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    // JSON is an unstable output of the stable rustdoc. A build script that saw the variable would run
    // again, and so would the builds of all that needs its crate.
    let rustdoc = directory.join("rustdoc");
    let script = "#!/bin/sh\nRUSTC_BOOTSTRAP=1 exec rustdoc \"$@\"\n";
    fs::write(&rustdoc, script).expect("it can be written");
    fs::set_permissions(&rustdoc, Permissions::from_mode(0o755)).expect("it is ours");
    let mut document = Command::new(env!("CARGO"));
    document
        .args(["doc", "--quiet", "--no-deps", "--lib", "--all-features"])
        // The others give the dependencies the features that they have in the whole workspace.
        .args(["common", "plain", "test-features"].map(|package| format!("--package={package}")))
        .current_dir(ROOT)
        .env("RUSTDOC", &rustdoc)
        .env("RUSTDOCFLAGS", "-Z unstable-options --output-format json");
    // What cargo sets for a test, some build scripts read as well.
    let of_this_package = |(name, _): &(OsString, OsString)| {
        let name = name.to_string_lossy();
        name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")
    };
    for (name, _) in env::vars_os().filter(of_this_package) {
        document.env_remove(name);
    }
    assert!(document.status().expect("cargo runs").success());
    directory.with_file_name("doc/common.json")
}
