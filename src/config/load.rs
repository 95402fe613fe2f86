//! Merges the sources: defaults < file < environment < flags.
//!
//! Each value is read by its key's kind as soon as it is seen, so that every source reports all its problems, also in
//! a value that a later source overrides.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use config::{Value, ValueKind};

use super::{
    Config, WorldConfig,
    env::{self, Env},
    file,
    keys::{self, ConfigKey},
    kind::Kind,
    nearest,
    problem::{Advice, ConfigErrors, ConfigProblem, Origin, Origins, Setting},
};

/// The file that is read when the user names none, relative to the working directory.
pub const DEFAULT_FILE: &str = "configs/config.yaml";

/// Where configuration comes from.
pub struct Sources<'a> {
    /// The file that the user named. It must exist.
    pub file: Option<PathBuf>,
    /// The file that is read when the user named none. It may be absent.
    pub default_file: PathBuf,
    /// The environment.
    pub env: &'a dyn Env,
    /// Flags: dotted key, value, the flag as the user writes it. Of a key given twice the last counts; lists add up.
    pub flags: Vec<(String, String, &'static str)>,
}

impl<'a> Sources<'a> {
    /// This environment over `DEFAULT_FILE`, no flags.
    pub fn new(env: &'a dyn Env) -> Self {
        Self { file: None, default_file: DEFAULT_FILE.into(), env, flags: Vec::new() }
    }
}

/// What the sources amount to.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// The effective configuration.
    pub config: Config,
    /// What works, but is probably not what was meant; for the log.
    pub warnings: Vec<String>,
    /// Where each value came from.
    pub origins: Origins,
    /// The file that was read.
    pub file: Option<PathBuf>,
}

/// Reads all sources and validates the result.
///
/// # Errors
/// Every problem of every source at once.
pub fn load(sources: Sources<'_>) -> Result<Loaded, ConfigErrors> {
    let mut layers = Layers::default();
    let named = sources.file.is_some();
    let path = sources.file.unwrap_or(sources.default_file);
    let file = file::read(&path, named, &mut layers).then_some(path);
    env::read(sources.env, &mut layers);
    read_flags(sources.flags, &mut layers);

    let Layers { values, origins, refused, mut problems, mut warnings } = layers;
    let config = match deserialise(values) {
        Ok(config) => config,
        Err(error) => {
            problems.push(ConfigProblem::Mismatch { cause: error.to_string() });
            Config::default()
        }
    };
    let findings = config.check(&origins, &refused);
    problems.extend(findings.problems);
    warnings.extend(findings.warnings);
    ConfigErrors::check(problems)?;
    Ok(Loaded { config, warnings, origins, file })
}

fn deserialise(mut values: BTreeMap<&str, ValueKind>) -> Result<Config, config::ConfigError> {
    // A node stands in the middle of its world, where nothing else is said.
    let centre = WorldConfig::default().centre();
    for (place, side, middle) in [
        ("node.position.x", "node.world.width", centre.x),
        ("node.position.y", "node.world.height", centre.y),
    ] {
        let middle = match values.get(side) {
            Some(ValueKind::Float(side)) => side / 2.0,
            _ => middle,
        };
        values.entry(place).or_insert(ValueKind::Float(middle));
    }
    let mut builder = config::Config::builder();
    for (path, value) in values {
        builder = builder.set_override(path, Value::new(None, value))?;
    }
    builder.build()?.try_deserialize()
}

fn read_flags(flags: Vec<(String, String, &'static str)>, layers: &mut Layers) {
    // Items of a list add up before they are read, so that a bad one is reported once.
    let mut lists: Vec<(&'static ConfigKey, String, Origin)> = Vec::new();
    for (path, text, name) in flags {
        let origin = Origin::Flag { name };
        let Some(key) = keys::find(&path) else {
            let setting = Setting::new(&path, &ValueKind::String(text), origin);
            let advice = Advice::Nearest(nearest::key_or_section(&path));
            layers.problems.push(ConfigProblem::UnknownKey { setting, advice });
            continue;
        };
        let begun = lists.iter_mut().find(|(list, ..)| list.path == key.path);
        match (key.kind, begun) {
            (Kind::List(_), Some((_, items, _))) => *items = format!("{items},{text}"),
            (Kind::List(_), None) => lists.push((key, text, origin)),
            _ => layers.offer(key, &ValueKind::String(text), origin),
        }
    }
    for (key, items, origin) in lists {
        layers.offer(key, &ValueKind::String(items), origin);
    }
}

/// What the sources said so far.
#[derive(Debug, Default)]
pub(super) struct Layers {
    /// The value of each key that was set, in the shape of its kind.
    values: BTreeMap<&'static str, ValueKind>,
    origins: Origins,
    /// Keys with a problem, which no rule about combinations should judge.
    refused: BTreeSet<&'static str>,
    pub(super) problems: Vec<ConfigProblem>,
    pub(super) warnings: Vec<String>,
}

impl Layers {
    /// Sets a key over what earlier sources said, or notes why not.
    pub(super) fn offer(&mut self, key: &'static ConfigKey, value: &ValueKind, origin: Origin) {
        match key.kind.read(value) {
            Ok(read) => {
                self.values.insert(key.path, read);
                self.origins.0.insert(key.path, origin);
            }
            Err(misread) => {
                let setting = Setting::new(key.path, value, origin);
                let allowed = key.kind.allowed();
                self.refuse(key, ConfigProblem::NotAllowed { setting, misread, allowed });
            }
        }
    }

    /// Notes a problem with the value of a key.
    pub(super) fn refuse(&mut self, key: &'static ConfigKey, problem: ConfigProblem) {
        self.refused.insert(key.path);
        self.problems.push(problem);
    }
}
