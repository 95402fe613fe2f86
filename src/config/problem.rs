//! Where a value came from, and what can be wrong with it. Every problem names key, value, origin and what is allowed.

use std::{collections::BTreeMap, fmt, io, path::PathBuf};

use config::ValueKind;
use nomad_core::model::text::shorten;

use super::kind::Misread;

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Origin {
    /// Nobody set it.
    #[default]
    Default,
    /// The configuration file.
    File {
        /// As it was named, relative to the working directory or absolute.
        path: PathBuf,
        /// Counted from 1; absent when the key could not be located.
        line: Option<usize>,
    },
    /// An environment variable.
    Env {
        /// Its name as it was spelt.
        name: String,
    },
    /// A flag of the command line.
    Flag {
        /// As the user writes it: `--data-dir`.
        name: &'static str,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line: Some(line) } => write!(f, "{}:{line}", path.display()),
            Self::File { path, line: None } => write!(f, "{}", path.display()),
            Self::Env { name } => write!(f, "environment variable {name}"),
            Self::Flag { name } => write!(f, "flag {name}"),
        }
    }
}

/// Where the value of each key came from; what is not in it has its default.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Origins(pub(super) BTreeMap<&'static str, Origin>);

impl Origins {
    /// The origin of the key with this dotted path.
    pub fn of(&self, path: &str) -> Origin {
        self.0.get(path).cloned().unwrap_or_default()
    }
}

/// One key with its value, as a problem shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Dotted path.
    pub key: String,
    /// The value as it was written, shortened.
    pub value: String,
    /// Where it came from.
    pub origin: Origin,
}

impl Setting {
    pub(super) fn new(key: &str, value: &ValueKind, origin: Origin) -> Self {
        Self { key: key.to_owned(), value: shown(value), origin }
    }
}

/// A value as a reader would write it, in at most one line's length.
fn shown(value: &ValueKind) -> String {
    const MOST_CHARS: usize = 80;
    let text = match value {
        ValueKind::Nil => "nothing".to_owned(),
        ValueKind::Float(number) => format!("{number:?}"),
        ValueKind::String(text) if is_plain(text) => text.clone(),
        ValueKind::String(text) => format!("{text:?}"),
        ValueKind::Array(items) => {
            let items: Vec<_> = items.iter().map(|item| shown(&item.kind)).collect();
            format!("[{}]", items.join(", "))
        }
        ValueKind::Table(table) => {
            let mut names: Vec<&str> = table.keys().map(String::as_str).collect();
            names.sort_unstable();
            format!("{{{}}}", names.join(", "))
        }
        other => other.to_string(),
    };
    shorten(&text, MOST_CHARS).into_owned()
}

fn is_plain(text: &str) -> bool {
    !text.is_empty() && !text.chars().any(|letter| letter.is_whitespace() || letter.is_control())
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {} ({})", self.key, self.value, self.origin)
    }
}

/// One thing that is wrong with the configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigProblem {
    /// The value is of the wrong type, form or range.
    #[error("{setting}: {misread}; write {allowed}")]
    NotAllowed {
        /// The value.
        setting: Setting,
        /// Why.
        misread: Misread,
        /// What would do, in words.
        allowed: String,
    },
    /// A variable or file that is no UTF-8.
    #[error("{setting}: not UTF-8; write {allowed}")]
    NotUtf8 {
        /// The value, with what is no UTF-8 replaced.
        setting: Setting,
        /// What would do, in words.
        allowed: String,
    },
    /// There is no such key.
    #[error("{setting}: unknown key; {advice}")]
    UnknownKey {
        /// What was written.
        setting: Setting,
        /// What may have been meant.
        advice: Advice,
    },
    /// A value where a section is wanted.
    #[error("{setting}: this is a section; write its keys below it, such as {example}")]
    SectionNeeded {
        /// What was written.
        setting: Setting,
        /// The path of one key in the section.
        example: &'static str,
    },
    /// More bytes for a request with one object than for all requests.
    #[error(
        "{requests}: less than the {needed_bytes} bytes of a request with one object of \
         {object} in base64; raise the first or lower the second"
    )]
    ObjectExceedsRequests {
        /// `limits.requestBytes`.
        requests: Setting,
        /// `node.storage.maxObjectBytes`.
        object: Setting,
        /// The least that the first must be.
        needed_bytes: u64,
    },
    /// Fewer bytes for all fast writes that wait than for one.
    #[error(
        "{outbox}: less than the {needed_bytes} bytes of one object of {object}; raise the first or lower the second"
    )]
    ObjectExceedsOutbox {
        /// `limits.outboxBytes`.
        outbox: Setting,
        /// `node.storage.maxObjectBytes`.
        object: Setting,
        /// The least that the first must be.
        needed_bytes: u64,
    },
    /// Two listeners on one port.
    #[error("{first}: the same port as {second}; give each listener its own, or 0")]
    SamePort {
        /// The earlier key.
        first: Setting,
        /// The later key.
        second: Setting,
    },
    /// The node stands outside the world.
    #[error("{place}: outside the world, {side}; write a number from 0 to that side")]
    OutsideWorld {
        /// `node.position.x` or `.y`.
        place: Setting,
        /// `node.world.width` or `.height`.
        side: Setting,
    },
    /// The file cannot be read.
    #[error("{}: cannot read the configuration file: {kind}{}", .path.display(), way_out(*.kind))]
    FileUnreadable {
        /// As it was named.
        path: PathBuf,
        /// What the system said.
        kind: io::ErrorKind,
    },
    /// The file is larger than any configuration.
    #[error("{}: too large for a configuration file, {max_bytes} bytes are allowed", .path.display())]
    FileTooLarge {
        /// As it was named.
        path: PathBuf,
        /// Most bytes allowed.
        max_bytes: u64,
    },
    /// The file is no YAML mapping.
    #[error("{}: not a YAML mapping: {cause}", .path.display())]
    FileSyntax {
        /// As it was named.
        path: PathBuf,
        /// What the parser said, with line and column.
        cause: String,
    },
    /// The table of keys and the types disagree: a defect of ours, shown rather than hidden.
    #[error("configuration values of the right form do not fit their types: {cause}")]
    Mismatch {
        /// What the deserialiser said.
        cause: String,
    },
}

fn way_out(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::NotFound => "; create it, or leave the name out to use the defaults",
        io::ErrorKind::PermissionDenied => "; let this user read it",
        _ => "",
    }
}

/// What may have been meant by an unknown key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Advice {
    /// The nearest key or section.
    #[error("the nearest is {0}")]
    Nearest(&'static str),
    /// A key written as one dotted name.
    #[error("write it nested, one name per level, with a colon after each")]
    Nest,
    /// The role is no key.
    #[error("the role is chosen with the flag --type, peer or super-peer")]
    Role,
}

/// Everything that is wrong with the configuration; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(Vec<ConfigProblem>);

impl ConfigErrors {
    /// `Ok` when there is no problem.
    pub(super) fn check(problems: Vec<ConfigProblem>) -> Result<(), Self> {
        if problems.is_empty() { Ok(()) } else { Err(Self(problems)) }
    }

    /// The problems: file first, then environment, flags, and combinations.
    pub fn problems(&self) -> &[ConfigProblem] {
        &self.0
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [only] => write!(f, "the configuration has a problem: {only}"),
            all => {
                write!(f, "the configuration has {} problems:", all.len())?;
                all.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
            }
        }
    }
}

impl std::error::Error for ConfigErrors {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_shown_as_they_would_be_written() {
        let table = config::Map::from([("b".to_owned(), 1), ("a".to_owned(), 2)]);
        for (value, text) in [
            (ValueKind::from("safe"), "safe"),
            (ValueKind::from(""), "\"\""),
            (ValueKind::from("a\nb"), "\"a\\nb\""),
            (ValueKind::Float(10.0), "10.0"),
            (ValueKind::from(vec!["a", "b c"]), "[a, \"b c\"]"),
            (ValueKind::from(table), "{a, b}"),
            (ValueKind::Nil, "nothing"),
        ] {
            assert_eq!(shown(&value), text);
        }
        let long = shown(&ValueKind::from("é".repeat(100)));
        assert_eq!(long.chars().count(), 83);
    }

    #[test]
    fn one_problem_is_one_line_and_more_are_a_list() {
        let problem = || ConfigProblem::FileUnreadable {
            path: "my.yaml".into(),
            kind: io::ErrorKind::NotFound,
        };
        let text = "my.yaml: cannot read the configuration file: entity not found; create it, or leave the name out to use the defaults";
        let errors = |problems| ConfigErrors::check(problems).unwrap_err().to_string();
        assert_eq!(errors(vec![problem()]), format!("the configuration has a problem: {text}"));
        let two = format!("the configuration has 2 problems:\n  {text}\n  {text}");
        assert_eq!(errors(vec![problem(), problem()]), two);
        assert_eq!(ConfigErrors::check(Vec::new()), Ok(()));
    }
}
