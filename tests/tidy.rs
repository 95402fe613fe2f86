//! Holds the tree to its own rules: which room may import which, and nothing half-done left behind.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a failed unwrap here is a failed test"
)]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// What each room may import; itself always. `proto`, `telemetry` and `core` stand below all others.
const ARROWS: [(&str, &[&str]); 12] = [
    ("core", &[]),
    ("telemetry", &["core", "config"]),
    ("ports", &["core"]),
    ("config", &["core"]),
    ("actors", &["core", "ports", "telemetry"]),
    ("storage", &["core", "ports"]),
    // Of the store only how it opens the engine: both keep what may not get lost, with the same care.
    ("consensus", &["core", "ports", "storage"]),
    ("network", &["core", "ports", "proto"]),
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
    ("main", &["cli"]),
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

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The part of a file before its tests: tests may use anything.
fn shipped(text: &str) -> &str {
    text.split("#[cfg(test)]").next().unwrap_or(text)
}

/// The rooms that a file names after `crate::`, also inside braces.
fn imports(text: &str) -> Vec<String> {
    let mut rooms = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        let line_start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
        if text[line_start..at].trim_start().starts_with("//") {
            continue;
        }
        let rest = &text[at + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            let (mut depth, mut word) = (0, String::new());
            for c in group.chars() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => rooms.push(std::mem::take(&mut word)),
                    c if depth == 0 => word.push(c),
                    _ => {}
                }
            }
            rooms.push(word);
        } else {
            rooms.push(rest.to_owned());
        }
    }
    let first = |path: String| {
        let path = path.trim();
        path.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or("").to_owned()
    };
    rooms.into_iter().map(first).filter(|room| !room.is_empty()).collect()
}

#[test]
fn imports_of_a_file_are_found_alone_and_in_groups() {
    let text = "use crate::core::time;\nuse crate::{\n    actors::{a, b},\n    ports::Clock,\n};\n// crate::no\n";
    assert_eq!(imports(text), ["core", "actors", "ports"]);
}

#[test]
fn no_room_imports_one_that_it_may_not() {
    let arrows: BTreeMap<_, _> = ARROWS.into_iter().collect();
    let source_dir = root().join("src");
    let mut wrong = Vec::new();
    for path in sources(&source_dir) {
        let relative = path.strip_prefix(&source_dir).unwrap();
        let room = relative.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs");
        // Files named `test_*` are compiled for tests alone.
        let name = relative.file_name().unwrap().to_str().unwrap();
        if matches!(room, "lib" | "proto") || name.starts_with("test_") {
            continue;
        }
        let Some(allowed) = arrows.get(room) else {
            wrong.push(format!("{} is in no room", relative.display()));
            continue;
        };
        let text = fs::read_to_string(&path).unwrap();
        for import in imports(shipped(&text)) {
            if import != room && !allowed.contains(&import.as_str()) {
                wrong.push(format!("{} imports {import}", relative.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
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
        // A file of tests alone is declared under `cfg(test)`, as the end of other files is.
        if path.ends_with("tests.rs") {
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
