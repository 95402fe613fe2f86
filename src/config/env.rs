//! The environment, behind a trait so that tests need no process-wide state.

use std::{collections::BTreeMap, ffi::OsString};

use config::ValueKind;

use super::{
    Config,
    keys::{self, ConfigKey},
    load::Layers,
    nearest,
    problem::{ConfigProblem, Origin, Setting},
};

/// Sections with names so common that their variables are mostly other people's.
const COMMON: [&str; 7] = ["node", "network", "group", "log", "trace", "debug", "otlp"];
/// With at most so many wrong letters, a variable of a section with a common name counts as a typing mistake, and not as a variable of another program.
const SLIP_LETTERS_MAX: usize = 2;

/// The variables that configuration may come from.
pub trait Env {
    /// Every variable with its value, in any order. A name that is no UTF-8 is left out.
    fn vars(&self) -> Vec<(String, OsString)>;
}

/// The environment of this process.
#[derive(Debug, Clone, Copy, Default)]
pub struct ProcessEnv;

impl Env for ProcessEnv {
    fn vars(&self) -> Vec<(String, OsString)> {
        std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
            .collect()
    }
}

impl Env for BTreeMap<String, String> {
    fn vars(&self) -> Vec<(String, OsString)> {
        self.iter().map(|(name, value)| (name.clone(), value.into())).collect()
    }
}

/// Takes every variable that names a key, in any case; the upper-case one wins. Warns of those that miss a key.
pub(super) fn read(env: &dyn Env, layers: &mut Layers) {
    let mut vars = env.vars();
    // What comes later wins: other spellings first, in a fixed order.
    vars.sort_by_cached_key(|(name, _)| (name.to_ascii_uppercase() == *name, name.clone()));
    for (name, value) in vars {
        match key_of(&name) {
            Some(key) => match value.into_string() {
                Ok(text) => layers.offer(key, &ValueKind::String(text), Origin::Env { name }),
                Err(raw) => {
                    let text = ValueKind::String(raw.to_string_lossy().into_owned());
                    let setting = Setting::new(key.path, &text, Origin::Env { name });
                    let allowed = key.kind.allowed();
                    layers.refuse(key, ConfigProblem::NotUtf8 { setting, allowed });
                }
            },
            None => layers.warnings.extend(warning(&name)),
        }
    }
}

fn key_of(name: &str) -> Option<&'static ConfigKey> {
    Config::keys().iter().find(|key| key.env_name().eq_ignore_ascii_case(name))
}

/// A warning when the name looks meant for us: it lies in a section of ours, or misses a key by a slip.
fn warning(name: &str) -> Option<String> {
    let upper = name.to_ascii_uppercase();
    let is_in = |section: &str| {
        let section = section.replace('.', "_").to_ascii_uppercase();
        upper.strip_prefix(&section).is_some_and(|rest| rest.starts_with('_'))
    };
    let section = keys::sections().into_iter().rfind(|section| is_in(section))?;
    let (letters, key) = nearest::variable(name, section);
    if COMMON.contains(&section) && letters > SLIP_LETTERS_MAX {
        return None;
    }
    Some(format!(
        "environment variable {name} is ignored: it names no key; the nearest is {}, for {}",
        key.env_name(),
        key.path
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_peoples_variables_are_left_alone() {
        for name in [
            "NODE_ENV",
            "NODE_FOO",
            "NODE_OPTIONS",
            "NODE",
            "PATH",
            "LOG_DIR",
            "DEBUG",
            "GROUP_ID",
            "TRACE_X",
            "SCHEDULER_X",
            "NETWORK_INTERFACE",
            "STORAGE_REPLICATIONFACTOR",
        ] {
            assert_eq!(warning(name), None, "{name}");
        }
    }

    #[test]
    fn a_variable_in_our_section_that_names_no_key_is_warned_of() {
        for (name, meant) in [
            ("NODE_STORAGE_REPLICATION_FACTOR", "NODE_STORAGE_REPLICATIONFACTOR"),
            ("NODE_STORAGE_FOO", "NODE_STORAGE_"),
            ("NODE_PORTS_RESTS", "NODE_PORTS_REST"),
            ("NODE_MAX_PEERS", "NODE_MAXPEERS"),
            ("NODE_GROUP_X", "NODE_"),
            ("SCHEDULE_REPAIRS", "SCHEDULE_REPAIR"),
            ("BOOTSTRAP_SEEDS", "BOOTSTRAP_"),
            ("limits_drains", "LIMITS_DRAIN"),
            ("LOG_LEVELS", "LOG_LEVEL"),
        ] {
            let text = warning(name).unwrap_or_else(|| panic!("no warning of {name}"));
            assert!(text.contains(&format!("the nearest is {meant}")), "{text}");
        }
    }
}
