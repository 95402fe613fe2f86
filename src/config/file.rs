//! Reads the configuration file: finds it, parses it, and hands on each key with the line it stands on.

use std::{
    fs,
    io::{self, Read as _},
    path::Path,
};

use config::{File, FileFormat, Map, Source as _, Value, ValueKind};

use super::{
    keys::{self, Key},
    lines,
    load::Layers,
    nearest,
    problem::{Advice, Origin, Problem, Setting},
    raw::RawConfig,
};

/// Most bytes of a configuration file.
const MAX_BYTES: u64 = 1 << 20;

/// Reads the file into `layers`; whether it was there.
pub(super) fn read(path: &Path, must_exist: bool, layers: &mut Layers) -> bool {
    let text = match read_text(path) {
        Ok(text) => text,
        Err(Problem::FileUnreadable { kind: io::ErrorKind::NotFound, .. }) if !must_exist => {
            return false;
        }
        Err(problem) => {
            layers.problems.push(problem);
            return true;
        }
    };
    match parse(&text) {
        Ok(table) => Walk { path, lines: lines::keys_by_line(&text), layers }.section("", table),
        Err(cause) => {
            layers.problems.push(Problem::FileSyntax { path: path.to_owned(), cause });
        }
    }
    true
}

fn read_text(path: &Path) -> Result<String, Problem> {
    let unreadable =
        |error: io::Error| Problem::FileUnreadable { path: path.to_owned(), kind: error.kind() };
    let file = fs::File::open(path).map_err(unreadable)?;
    let size_bytes = file.metadata().map_err(unreadable)?.len();
    let mut bytes = Vec::new();
    // The size alone is no bound: a pipe has none.
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_BYTES {
        let size_bytes = size_bytes.max(bytes.len() as u64);
        let path = path.to_owned();
        return Err(Problem::FileTooLarge { path, size_bytes, max_bytes: MAX_BYTES });
    }
    String::from_utf8(bytes).map_err(|error| Problem::FileSyntax {
        path: path.to_owned(),
        cause: format!("not UTF-8 at byte {}", error.utf8_error().valid_up_to()),
    })
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
        let join =
            |name: String| if section.is_empty() { name } else { format!("{section}.{name}") };
        let mut entries: Vec<_> =
            table.into_iter().map(|(name, value)| (join(name), value.kind)).collect();
        // The parser's map has no order; a reader goes from top to bottom.
        entries.sort_by_cached_key(|(path, _)| (lines::line_of(&self.lines, path), path.clone()));
        for (path, value) in entries {
            self.entry(section, &path, value);
        }
    }

    fn entry(&mut self, section: &str, path: &str, value: ValueKind) {
        let is_nested =
            path.matches('.').count() == section.split('.').filter(|part| !part.is_empty()).count();
        match (keys::find(path).filter(|_| is_nested), value) {
            // A key or section with nothing after its colon, as when all below it is commented out.
            (Some(_), ValueKind::Nil) => {}
            (Some(key), value) => {
                let origin = self.origin(path);
                self.layers.offer(key, &value, origin);
            }
            (None, ValueKind::Nil) if is_nested && keys::is_section(path) => {}
            (None, ValueKind::Table(table)) if is_nested && keys::is_section(path) => {
                self.section(path, table);
            }
            (None, value) => {
                let setting = Setting::new(path, &value, self.origin(path));
                self.layers.problems.push(misplaced(setting, is_nested));
            }
        }
    }

    fn origin(&self, path: &str) -> Origin {
        Origin::File { path: self.path.to_owned(), line: lines::line_of(&self.lines, path) }
    }
}

fn misplaced(setting: Setting, is_nested: bool) -> Problem {
    let example =
        |key: &&Key| key.path.strip_prefix(&setting.key).is_some_and(|rest| rest.starts_with('.'));
    match RawConfig::keys().iter().find(example) {
        Some(key) if is_nested => Problem::SectionNeeded { setting, example: key.path },
        _ => {
            let advice = advice(&setting.key, is_nested);
            Problem::UnknownKey { setting, advice }
        }
    }
}

fn advice(path: &str, is_nested: bool) -> Advice {
    if path == "node.type" {
        return Advice::Elsewhere("the role is chosen with the flag `--type peer|super-peer`");
    }
    if !is_nested && (keys::find(path).is_some() || keys::is_section(path)) {
        return Advice::Nest;
    }
    Advice::Nearest(nearest::key_or_section(path))
}
