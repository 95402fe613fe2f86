//! Holds the tree to its own rules: which room may import which, nothing half-done left behind, and every rule of the
//! replication protocol that is spoken of written down, with what shows it.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a failed unwrap here is a failed test"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
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
    files(dir, &["rs"])
}

/// The files with one of these endings, but for what is hidden or built.
fn files(dir: &Path, endings: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(dir) else { return found };
    for entry in entries {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if name.starts_with('.') || name == "target" {
            continue;
        }
        if path.is_dir() {
            found.extend(files(&path, endings));
        } else if endings.iter().any(|ending| path.extension().is_some_and(|of| of == *ending)) {
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

/// The text of the replication protocol, wherever it stands.
fn protocol() -> String {
    let texts = files(&root(), &["md"]);
    let path = texts.iter().find(|path| path.ends_with("register/protocol.md"));
    fs::read_to_string(path.unwrap()).unwrap()
}

/// The rules of the protocol: their numbers, and what their sections say.
fn rules(protocol: &str) -> Vec<(u32, &str)> {
    let sections = protocol.split("\n#").filter_map(|section| section.strip_prefix("## Rule "));
    sections.map(|section| (section.split(':').next().unwrap().parse().unwrap(), section)).collect()
}

/// What a text names in code marks.
fn named_in(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// The numbers of the rules that a text speaks of, as in "rules 2, 4 to 6 and 9", however its comments are wrapped.
fn spoken_of(text: &str) -> BTreeSet<u32> {
    let lines = text.lines().map(|line| line.trim_start().trim_start_matches(['/', '!']));
    let text = lines.collect::<Vec<_>>().join(" ");
    let mut words = text.split_whitespace().peekable();
    let mut numbers = BTreeSet::new();
    while let Some(word) = words.next() {
        let word = word.trim_start_matches(|c: char| !c.is_alphabetic());
        if !matches!(word, "rule" | "rules" | "Rule" | "Rules") {
            continue;
        }
        while let Some(word) = words.peek() {
            let digits = word.trim_end_matches(|c: char| !c.is_ascii_digit());
            match digits.parse() {
                Ok(number) => numbers.insert(number),
                Err(_) if matches!(*word, "and" | "or" | "to") => false,
                Err(_) => break,
            };
            if word.contains([')', '.', ':', ';']) {
                break;
            }
            words.next();
        }
    }
    numbers
}

#[test]
fn rules_are_found_in_comments_however_they_are_wrapped() {
    let text = "//! (rules 2, 4 to\n//! 6 and 9), 7 of them\n/// See rule\n    /// 12. 3 more\n// no rule of 8\n";
    assert_eq!(spoken_of(text), [2, 4, 6, 9, 12].into());
}

#[test]
fn every_rule_that_is_spoken_of_stands_in_the_protocol() {
    let protocol = protocol();
    let numbers: Vec<_> = rules(&protocol).into_iter().map(|(number, _)| number).collect();
    assert_eq!(numbers, (1..=numbers.len() as u32).collect::<Vec<_>>());
    let mut wrong = Vec::new();
    for path in files(&root(), &["rs", "md"]) {
        for number in spoken_of(&fs::read_to_string(&path).unwrap()) {
            if !numbers.contains(&number) {
                wrong.push(format!("{} speaks of rule {number}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A rule names tests as "`the_test` in `its/file.rs`", and switches as `Faults::field` or, of another room, as
/// `room::Faults::field`.
#[test]
fn every_rule_names_a_test_and_what_it_names_is_there() {
    let read = |path: PathBuf| (fs::read_to_string(&path).unwrap(), path);
    let tree: Vec<_> = sources(&root()).into_iter().map(read).collect();
    let protocol = protocol();
    let named = named_in(&protocol);
    let is_file = |name: &&str| name.ends_with(".rs");
    let is_switch = |name: &&str| name.contains("Faults::") || name.contains("Mistakes::");

    let mut wrong = Vec::new();
    for (number, section) in rules(&protocol) {
        if !named_in(section).iter().any(is_file) {
            wrong.push(format!("rule {number} names no test"));
        }
    }
    for pair in named.windows(2).filter(|pair| is_file(&pair[1])) {
        // Some are rows of a macro.
        let [as_fn, as_row] = ["(", ":"].map(|end| format!("fn {}{end}", pair[0]));
        let is_it = |(text, path): &(String, PathBuf)| {
            path.ends_with(pair[1]) && (text.contains(&as_fn) || text.contains(&as_row))
        };
        if !tree.iter().any(is_it) {
            wrong.push(format!("there is no test {} in {}", pair[0], pair[1]));
        }
    }
    for name in named.iter().copied().filter(is_switch) {
        let mut parts = name.rsplit("::");
        let (field, set) = (parts.next().unwrap(), parts.next().unwrap());
        let room = parts.next();
        let is_it = |(text, path): &(String, PathBuf)| {
            switches(text, set).contains(&field)
                && room.is_none_or(|room| path.iter().any(|part| part == room))
        };
        if !tree.iter().any(is_it) {
            wrong.push(format!("there is no switch {name}"));
        }
    }
    let (options, _) = tree.iter().find(|(_, path)| path.ends_with("register/options.rs")).unwrap();
    for field in switches(options, "Faults") {
        if !named.contains(&format!("Faults::{field}").as_str()) {
            wrong.push(format!("the protocol does not name the switch Faults::{field}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The fields of a set of switches, if this text declares it.
fn switches<'a>(text: &'a str, set: &str) -> Vec<&'a str> {
    let (_, declared) = text.split_once(&format!("pub struct {set} {{")).unwrap_or_default();
    let lines = declared.split('}').next().unwrap_or_default().lines();
    lines.filter_map(|line| line.trim().strip_prefix("pub ")?.strip_suffix(": bool,")).collect()
}
