//! `common` has floors: each room stands on the rooms below it.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
};

use crate::sources;

/// The rooms of `common`, the lowest floor first. A room imports from itself and from lower floors.
const ROOMS: &[&[&str]] = &[
    &[
        "backoff",
        "endpoints",
        "environment",
        "headers",
        "limits",
        "ports",
        "sync",
        "transport",
    ],
    &["pages"],
    &["rate_limit", "request"],
    &["body", "telemetry/metrics"],
    &["telemetry/logging"],
    &["telemetry/traces"],
    &["calls", "telemetry/start", "tls"],
    &["config", "problem"],
    &["dialect"],
    &["client", "server"],
    &["fuzzing", "openapi"],
];

/// The same for the rooms of the client.
const CLIENT: &[&[&str]] = &[
    &["network", "target"],
    &["retry_policy"],
    &["config"],
    &["method"],
    &["ending"],
    &["ejection", "wire"],
    &["choice"],
    &["replicas"],
    &["discovery"],
    &["retry"],
    &["call"],
    &["stack"],
    &["channel", "serving"],
];

/// The same for the rooms of the server.
const SERVER: &[&[&str]] = &[
    &["capacity", "routes"],
    &["connection"],
    &["layers"],
    &["mesh_layer", "service"],
    &["stack"],
    &["worker"],
    &["in_memory", "process"],
    &["testing"],
];

/// The text without comments and without the modules for tests at its end.
fn code(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    let is_tests = |two: &[&str]| {
        let is_for_tests = two[0].starts_with("#[cfg(") && two[0].contains("test");
        is_for_tests && two[1].contains("mod ") && two[1].ends_with('{')
    };
    let end = lines.windows(2).position(is_tests).unwrap_or(lines.len());
    let is_comment = |line: &str| line.trim_start().starts_with("//");
    let code = lines[..end].iter();
    let code = code.map(|line| if is_comment(line) { "" } else { line });
    code.collect::<Vec<_>>().join("\n")
}

/// The paths in the code that begin with `crate` or `super`, each with its line. Those of
/// `use crate::{a, b::{c, d}}` are three.
fn paths(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let roots = code
        .match_indices("crate::")
        .chain(code.match_indices("super::"));
    for (start, _) in roots.filter(|(at, _)| !code[..*at].ends_with(|c| "$:_".contains(c))) {
        let line = code[..start].lines().count();
        let (mut path, mut prefixes) = (String::new(), Vec::<String>::new());
        for letter in code[start..].chars().chain([';']) {
            match letter {
                '{' => prefixes.push(path.clone()),
                ',' | '}' if !prefixes.is_empty() => {
                    found.push((line, mem::take(&mut path)));
                    if letter == '}' {
                        prefixes.pop();
                    }
                    path = prefixes.last().cloned().unwrap_or_default();
                }
                ':' | '_' | 'a'..='z' | 'A'..='Z' | '0'..='9' => path.push(letter),
                _ if prefixes.is_empty() => break,
                _ => {}
            }
        }
        found.push((line, path));
    }
    found.retain(|(_, path)| !path.is_empty() && !path.ends_with("::"));
    found
}

/// The file that a path in `file` leads to.
fn target(file: &str, path: &str, files: &BTreeMap<String, String>) -> String {
    let module = file.trim_end_matches(".rs").trim_end_matches("/mod");
    let mut place: Vec<_> = module.split('/').collect();
    for name in path.split("::") {
        match name {
            "crate" => place.clear(),
            "super" => drop(place.pop()),
            name => place.push(name),
        }
    }
    let files_of = |length: usize| {
        let path = place[..length].join("/");
        [format!("{path}.rs"), format!("{path}/mod.rs")]
    };
    let mut candidates = (1..=place.len()).rev().flat_map(files_of);
    let found = candidates.find(|file| files.contains_key(file));
    found.unwrap_or_else(|| "lib.rs".to_owned())
}

/// The rooms of all, and of each stack by the directory that they are in.
const STACKS: [(&str, &[&[&str]]); 3] = [("", ROOMS), ("client/", CLIENT), ("server/", SERVER)];

/// The floor of a file, counted from below, and its room.
fn floor(rooms: &[&'static [&'static str]], file: &str) -> Option<(usize, &'static str)> {
    let is_in = |room: &str| {
        let rest = file.strip_prefix(room);
        rest.is_some_and(|rest| rest.starts_with(['/', '.']))
    };
    let all = rooms.iter().enumerate();
    let mut all = all.flat_map(|(floor, rooms)| rooms.iter().map(move |room| (floor, *room)));
    all.find(|(_, room)| is_in(room))
}

/// Whether the file has a floor among all rooms and within its stack. A `mod.rs` needs none.
fn has_floor(file: &str) -> bool {
    let is_placed = |(stack, rooms): (&str, _)| {
        let within = file.strip_prefix(stack);
        within.is_none_or(|file| floor(rooms, file).is_some())
    };
    file.ends_with("mod.rs") || STACKS.into_iter().all(is_placed)
}

/// Whether `file` may import from `target`, by their floors.
fn is_down(file: &str, target: &str) -> bool {
    STACKS.into_iter().all(|(stack, rooms)| {
        let floor_in = |file: &str| floor(rooms, file.strip_prefix(stack)?);
        match (floor_in(file), floor_in(target)) {
            (Some((from, room)), Some((to, other))) => room == other || to < from,
            _ => true,
        }
    })
}

#[test]
fn each_room_of_common_stands_on_those_below() {
    let mut files = sources::of_common();
    files.retain(|file, _| file != "lib.rs");
    for text in files.values_mut() {
        *text = code(text);
    }
    let mut wrong = Vec::new();
    let mut imports = BTreeMap::<_, BTreeSet<_>>::new();
    for (file, code) in &files {
        if !has_floor(file) {
            wrong.push(format!("common/src/{file} is on no floor"));
        }
        for (line, path) in paths(code) {
            let target = target(file, &path, &files);
            let door = target
                .strip_suffix("mod.rs")
                .or(target.strip_suffix("lib.rs"));
            let is_above = door.is_some_and(|room| file.starts_with(room));
            if is_above || !is_down(file, &target) {
                wrong.push(format!("common/src/{file}:{line}: {path}"));
            }
            if target != *file {
                imports.entry(file.clone()).or_default().insert(target);
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "imports that do not lead down:\n{}",
        wrong.join("\n")
    );
    // A file in a circle imports one in a circle, and is imported by one.
    loop {
        let before = imports.len();
        let imported: BTreeSet<_> = imports.values().flatten().cloned().collect();
        let rest: BTreeSet<_> = imports.keys().cloned().collect();
        imports.retain(|file, targets| imported.contains(file) && !targets.is_disjoint(&rest));
        if imports.len() == before {
            break;
        }
    }
    let circles: Vec<_> = imports.keys().collect();
    assert!(circles.is_empty(), "these import in circles: {circles:?}");
}
