//! Holds the tree to its own rules: which room may import which, and nothing half-done left behind.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::root;

/// What each room may import. Each is a crate, so that the compiler holds it to what its `Cargo.toml` says; this table is what
/// those may say. Tests of a room may use more.
const ARROWS: [(&str, &[&str]); 12] = [
    ("core", &[]),
    ("ports", &["core"]),
    ("config", &["core"]),
    ("telemetry", &["core", "config"]),
    ("proto", &[]),
    ("storage", &["core", "ports"]),
    // Of the store only how it opens the engine: both keep what may not get lost, with the same care.
    ("consensus", &["core", "ports", "storage"]),
    ("network", &["core", "ports", "proto"]),
    ("actors", &["core", "ports", "telemetry"]),
    ("api", &["core", "ports", "config", "actors", "proto", "telemetry"]),
    (
        "node",
        &[
            "core",
            "ports",
            "config",
            "actors",
            "storage",
            "consensus",
            "network",
            "api",
            "telemetry",
        ],
    ),
    ("cli", &["core", "ports", "config", "actors", "api", "node", "proto", "telemetry"]),
];

fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(dir) else { return found };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The part of a file before its tests: tests may use anything.
fn shipped(text: &str) -> &str {
    text.split("#[cfg(test)]").next().unwrap_or(text)
}

#[test]
fn no_room_imports_one_that_it_may_not() {
    for (room, allowed) in ARROWS {
        let path = root().join("src").join(room).join("Cargo.toml");
        let text = fs::read_to_string(&path).unwrap();
        let (_, shipped) = text.split_once("[dependencies]").unwrap();
        let shipped = shipped.split("\n[").next().unwrap();
        let imports = shipped.lines().filter_map(|line| {
            let (name, _) = line.strip_prefix("nomad-")?.split_once('.')?;
            Some(name)
        });
        let wrong: Vec<_> = imports.filter(|import| !allowed.contains(import)).collect();
        assert!(wrong.is_empty(), "{} imports {wrong:?}", path.display());
    }
}

#[test]
fn every_folder_of_the_source_is_a_room() {
    let rooms: Vec<_> = ARROWS.iter().map(|(room, _)| *room).collect();
    for entry in fs::read_dir(root().join("src")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(
            rooms.contains(&name) || ["lib.rs", "main.rs"].contains(&name),
            "{name} is no room"
        );
    }
}

#[test]
fn the_core_is_pure() {
    let banned = [
        "async ",
        ".await",
        "std::fs",
        "std::net",
        "SystemTime",
        "Instant",
        "tokio::",
        "tracing::",
        "rand::",
    ];
    let mut wrong = Vec::new();
    for path in sources(&root().join("src/core")) {
        // Files of tests alone are declared under `cfg(test)`, as the end of other files is.
        if path.ends_with("tests.rs") || path.iter().any(|part| part == "sim") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        for (number, line) in shipped(&text).lines().enumerate() {
            let code = line.split("//").next().unwrap_or("");
            if banned.iter().any(|word| code.contains(word)) {
                wrong.push(format!("{}:{}: {line}", path.display(), number + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn nothing_half_done_is_left_in_the_tree() {
    let banned = [
        concat!("dbg", "!("),
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
        concat!("#[", "ignore"),
    ];
    let mut wrong = Vec::new();
    for dir in ["src", "tests", "benches", "examples"] {
        for path in sources(&root().join(dir)) {
            let text = fs::read_to_string(&path).unwrap();
            for (number, line) in text.lines().enumerate() {
                if banned.iter().any(|word| line.contains(word)) {
                    wrong.push(format!("{}:{}: {line}", path.display(), number + 1));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn main_only_starts_the_command_line() {
    let text = fs::read_to_string(root().join("src/main.rs")).unwrap();
    assert!(text.lines().count() <= 60);
}
