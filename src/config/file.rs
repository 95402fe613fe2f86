//! Reads the configuration file: finds it, parses it, and hands on each key with the line it stands on.

use std::{
    fs,
    io::{self, Read as _},
    path::Path,
};

use config::{File, FileFormat, Map, Source as _, Value, ValueKind};

use super::{
    keys, lines,
    load::Layers,
    nearest,
    problem::{Advice, ConfigProblem, Origin, Setting},
};

/// Most bytes of a configuration file.
const MAX_BYTES: u64 = 1 << 20;

/// Reads the file into `layers`; whether it was there.
pub(super) fn read(path: &Path, must_exist: bool, layers: &mut Layers) -> bool {
    let unreadable = |error: io::Error| ConfigProblem::FileUnreadable {
        path: path.to_owned(),
        kind: error.kind(),
    };
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound && !must_exist => return false,
        Err(error) => {
            layers.problems.push(unreadable(error));
            return true;
        }
    };
    let mut bytes = Vec::new();
    if let Err(error) = file.take(MAX_BYTES + 1).read_to_end(&mut bytes) {
        layers.problems.push(unreadable(error));
    } else if bytes.len() as u64 > MAX_BYTES {
        let problem = ConfigProblem::FileTooLarge { path: path.to_owned(), max_bytes: MAX_BYTES };
        layers.problems.push(problem);
    } else {
        read_yaml(path, bytes, layers);
    }
    true
}

fn read_yaml(path: &Path, bytes: Vec<u8>, layers: &mut Layers) {
    let parsed = String::from_utf8(bytes)
        .map_err(|error| format!("not UTF-8 at byte {}", error.utf8_error().valid_up_to()))
        .and_then(|text| parse(&text).map(|table| (lines::keys_by_line(&text), table)));
    match parsed {
        Ok((lines, table)) => Walk { path, lines, layers }.section("", table),
        Err(cause) => {
            layers.problems.push(ConfigProblem::FileSyntax { path: path.to_owned(), cause });
        }
    }
}

fn parse(text: &str) -> Result<Map<String, Value>, String> {
    let text = text.trim_start_matches('\u{feff}');
    let says_nothing =
        |line: &str| matches!(line.trim(), "" | "---") || line.trim().starts_with('#');
    if text.lines().all(says_nothing) {
        return Ok(Map::new());
    }
    File::from_str(text, FileFormat::Yaml).collect().map_err(|error| error.to_string())
}

/// Goes through the sections of a parsed file.
struct Walk<'a> {
    path: &'a Path,
    lines: Vec<(usize, String)>,
    layers: &'a mut Layers,
}

impl Walk<'_> {
    fn section(&mut self, section: &str, table: Map<String, Value>) {
        let join = |name: &str| match section {
            "" => name.to_owned(),
            _ => format!("{section}.{name}"),
        };
        let mut entries: Vec<_> =
            table.into_iter().map(|(name, value)| (join(&name), name, value.kind)).collect();
        // The parser's map has no order; a reader goes from top to bottom.
        entries.sort_by_cached_key(|(path, ..)| (lines::line_of(&self.lines, path), path.clone()));
        for (path, name, value) in entries {
            if name.contains('.') {
                self.unknown(&path, &value, Advice::Nest);
            } else {
                self.entry(&path, value);
            }
        }
    }

    fn entry(&mut self, path: &str, value: ValueKind) {
        match (keys::find(path), keys::first_in(path), value) {
            // Nothing after the colon, as when all below it is commented out.
            (Some(_), _, ValueKind::Nil) | (_, Some(_), ValueKind::Nil) => {}
            (Some(key), _, value) => {
                let origin = self.origin(path);
                self.layers.offer(key, &value, origin);
            }
            (None, Some(_), ValueKind::Table(table)) => self.section(path, table),
            (None, Some(example), value) => {
                let setting = Setting::new(path, &value, self.origin(path));
                let problem = ConfigProblem::SectionNeeded { setting, example: example.path };
                self.layers.problems.push(problem);
            }
            (None, None, value) => self.unknown(path, &value, advice(path)),
        }
    }

    fn unknown(&mut self, path: &str, value: &ValueKind, advice: Advice) {
        let setting = Setting::new(path, value, self.origin(path));
        self.layers.problems.push(ConfigProblem::UnknownKey { setting, advice });
    }

    fn origin(&self, path: &str) -> Origin {
        Origin::File { path: self.path.to_owned(), line: lines::line_of(&self.lines, path) }
    }
}

fn advice(path: &str) -> Advice {
    match path {
        "node.type" => Advice::Role,
        _ => Advice::Nearest(nearest::key_or_section(path)),
    }
}
