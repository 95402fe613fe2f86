//! Checks rules of the source tree: which room may import which, nothing half-done left behind, one name for each type, and
//! every rule of the replication protocol that comments name is written down, with the test that shows it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use crate::root;

/// What each room may import. Each is a crate, so that the compiler holds it to what its `Cargo.toml` says; this table is what
/// those may say. Tests of a room may use more.
const ALLOWED_IMPORTS: [(&str, &[&str]); 13] = [
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
    ("service", &["core", "ports", "actors", "telemetry"]),
    ("api", &["core", "ports", "config", "actors", "service", "proto"]),
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
            "service",
            "api",
            "telemetry",
        ],
    ),
    ("cli", &["core", "ports", "config", "actors", "api", "node", "proto", "telemetry"]),
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

/// The part of a file before its tests: tests may use anything.
fn without_tests(text: &str) -> &str {
    text.split("#[cfg(test)]").next().unwrap_or(text)
}

#[test]
fn no_room_imports_one_that_it_may_not() {
    for (room, allowed) in ALLOWED_IMPORTS {
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
    let rooms: Vec<_> = ALLOWED_IMPORTS.iter().map(|(room, _)| *room).collect();
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
        // A generator is made from a seed that comes in as an argument.
        "rand::rng",
        "rand::random",
        "thread_rng",
        "from_os_rng",
        "OsRng",
    ];
    let mut wrong = Vec::new();
    for path in sources(&root().join("src/core")) {
        // Files of tests alone are declared under `cfg(test)`, as the end of other files is.
        if path.ends_with("tests.rs") || path.iter().any(|part| part == "sim") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        for (number, line) in without_tests(&text).lines().enumerate() {
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
fn code_marks_in(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// The numbers of the rules that a text speaks of, as in "rules 2, 4 to 6 and 9", however its comments are wrapped.
fn rule_numbers_in(text: &str) -> BTreeSet<u32> {
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
    assert_eq!(rule_numbers_in(text), [2, 4, 6, 9, 12].into());
}

#[test]
fn every_rule_that_is_spoken_of_stands_in_the_protocol() {
    let protocol = protocol();
    let numbers: Vec<_> = rules(&protocol).into_iter().map(|(number, _)| number).collect();
    assert_eq!(numbers, (1..=numbers.len() as u32).collect::<Vec<_>>());
    let mut wrong = Vec::new();
    for path in files(&root(), &["rs", "md"]) {
        for number in rule_numbers_in(&fs::read_to_string(&path).unwrap()) {
            if !numbers.contains(&number) {
                wrong.push(format!("{} speaks of rule {number}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A rule names tests as "`the_test` in `its/file.rs`", and switches as `RegisterFaults::field`.
#[test]
fn every_rule_names_a_test_and_what_it_names_is_there() {
    let read = |path: PathBuf| (fs::read_to_string(&path).unwrap(), path);
    let tree: Vec<_> = sources(&root()).into_iter().map(read).collect();
    let protocol = protocol();
    let named = code_marks_in(&protocol);
    let is_file = |name: &&str| name.ends_with(".rs");
    let is_switch = |name: &&str| name.contains("Faults::") || name.contains("Mistakes::");

    let mut wrong = Vec::new();
    for (number, section) in rules(&protocol) {
        if !code_marks_in(section).iter().any(is_file) {
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
    for field in switches(options, "RegisterFaults") {
        if !named.contains(&format!("RegisterFaults::{field}").as_str()) {
            wrong.push(format!("the protocol does not name the switch RegisterFaults::{field}"));
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

/// The name of the type that a line defines. Indented types belong to an `impl`, a function or a `mod tests`: they do not count.
fn defined_type(line: &str) -> Option<&str> {
    let line = line
        .strip_prefix("pub")
        .map_or(line, |rest| rest.split_once(' ').map_or("", |(_, item)| item));
    let (kind, rest) = line.strip_prefix("unsafe ").unwrap_or(line).split_once(' ')?;
    let is_type = ["struct", "enum", "trait", "type", "union"].contains(&kind);
    rest.split(|c: char| !c.is_alphanumeric()).next().filter(|_| is_type)
}

/// The names of types that a file takes from other files of the project: by a `use`, or by a path. The first word of either is
/// `crate`, `super`, `self`, one of our crates, a module that the file declares, or (of a path) one that such a `use` names.
fn imported_types(text: &str) -> BTreeSet<&str> {
    let is_upper = |word: &str| word.starts_with(|c: char| c.is_ascii_uppercase());
    let part_of_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut ours = BTreeSet::from(["crate", "super", "self"]);
    ours.extend(
        text.lines()
            .filter_map(|line| line.strip_suffix(';')?.split_once("mod "))
            .map(|(_, name)| name),
    );
    let mut names = BTreeSet::new();
    for path in text.split(';').filter_map(|statement| Some(statement.rsplit_once("use ")?.1)) {
        let first = path.split("::").next().unwrap_or("");
        if !ours.contains(first) && !first.starts_with("nomad") {
            continue;
        }
        let mut before = "";
        for word in path.split(|c| !part_of_word(c)).filter(|word| !word.is_empty()) {
            if is_upper(word) && before != "as" {
                names.insert(word);
            } else {
                ours.insert(word);
            }
            before = word;
        }
    }
    for (at, _) in text.match_indices("::") {
        let (front, back) = (&text[..at], &text[at + 2..]);
        let path =
            &front[front.rfind(|c| !part_of_word(c) && c != ':').map_or(0, |last| last + 1)..];
        let name = &back[..back.find(|c| !part_of_word(c)).unwrap_or(back.len())];
        let (first, last) =
            (path.split("::").next().unwrap_or(""), path.rsplit("::").next().unwrap_or(""));
        // Behind a type stands a variant or a function, not a type.
        if is_upper(name) && !is_upper(last) && (ours.contains(first) || first.starts_with("nomad"))
        {
            names.insert(name);
        }
    }
    names
}

/// The text of a file without comments and without its `mod tests { .. }`.
fn code_of(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let shipped = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or("");
    shipped
        .lines()
        .map(|line| line.split("//").next().unwrap_or("").trim_end().to_owned() + "\n")
        .collect()
}

#[test]
fn what_a_file_defines_and_takes_is_found() {
    let lines = [
        "pub(super) struct A<T>(T);",
        "type B = u8;",
        "    type C = u8;",
        "pub fn D() {}",
        "pub trait E: X {",
    ];
    assert_eq!(lines.map(defined_type), [Some("A"), Some("B"), None, None, Some("E")]);
    let text = "mod child;\npub use child::{A, deep::B as C};\nuse http::D;\nuse super::near;\n\
                fn f(x: near::E, y: http::F) { Self::G; A::H; crate::i::J::K }\n";
    assert_eq!(imported_types(text), BTreeSet::from(["A", "B", "E", "J"]));
}

/// A type that other files use has one name in the whole project. Types that only their own files name may share theirs. Which of
/// two types of a name is meant need not be found out: neither may be taken from elsewhere. Generated code is in no file.
#[test]
fn no_type_name_that_other_files_use_is_defined_twice() {
    // Files named `tests.rs` or `test_*`, and folders named `tests`, are compiled for tests alone.
    let named =
        |path: PathBuf| (path.strip_prefix(root()).unwrap().display().to_string(), code_of(&path));
    let of_tests = |path: &str| {
        path.ends_with("/tests.rs")
            || ["/test_", "/tests/", "/sim/"].iter().any(|part| path.contains(part))
    };
    let files = sources(&root().join("src")).into_iter().map(named);
    let files: Vec<_> = files.filter(|(path, _)| !of_tests(path)).collect();
    let mut types: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let mut users: BTreeMap<&str, &str> = BTreeMap::new();
    for (path, code) in &files {
        for (at, name) in
            code.lines().enumerate().filter_map(|(at, line)| Some((at, defined_type(line)?)))
        {
            types.entry(name).or_default().push(format!("{path}:{}", at + 1));
        }
        users.extend(imported_types(code).into_iter().map(|name| (name, path.as_str())));
    }
    types.retain(|name, places| places.len() > 1 && users.contains_key(name));
    let line = |(name, places): (&&str, &Vec<String>)| {
        format!(
            "{name}, which {} takes from elsewhere, is {} types: {}",
            users[name],
            places.len(),
            places.join(", ")
        )
    };
    assert!(types.is_empty(), "{}", types.iter().map(line).collect::<Vec<_>>().join("\n"));
}
