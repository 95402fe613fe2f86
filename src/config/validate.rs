//! Checks a `Config`: every value in its range, and the rules between keys.

use std::collections::BTreeSet;

use config::ValueKind;
use serde_yaml_ng::Value;

use super::{
    Config, keys,
    problem::{ConfigErrors, ConfigProblem, Origins, Setting},
    unit::KIB,
};

/// What a request may have beside the value of its object.
const BESIDE_VALUE_BYTES: u64 = 64 * KIB;
/// What an entry of the outbox may have beside the value of its object.
const BESIDE_ENTRY_BYTES: u64 = 4 * KIB;

/// What a check found.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub problems: Vec<ConfigProblem>,
    pub warnings: Vec<String>,
}

impl Config {
    /// Checks every value and every rule; `origins` says where each value came from. Returns warnings for
    /// the log.
    ///
    /// # Errors
    /// Every problem at once.
    pub fn validate(&self, origins: &Origins) -> Result<Vec<String>, ConfigErrors> {
        let Findings { problems, warnings } = self.check(origins, &BTreeSet::new());
        ConfigErrors::check(problems)?;
        Ok(warnings)
    }

    /// Checks all but the keys in `refused`, which have been reported already.
    pub(super) fn check(&self, origins: &Origins, refused: &BTreeSet<&'static str>) -> Findings {
        let tree = serde_yaml_ng::to_value(self).expect("a configuration always serialises");
        let refused = refused.clone();
        let mut check =
            Check { config: self, tree, origins, refused, findings: Findings::default() };
        check.ranges();
        check.object_fits_in_requests();
        check.object_fits_in_outbox();
        check.ports_are_distinct();
        check.position_is_inside();
        check.replicas_find_members();
        check.voters_are_odd();
        check.findings
    }
}

struct Check<'a> {
    config: &'a Config,
    /// `config` as it would be written.
    tree: Value,
    origins: &'a Origins,
    refused: BTreeSet<&'static str>,
    findings: Findings,
}

impl Check<'_> {
    fn ranges(&mut self) {
        for key in Config::keys() {
            let value = self.value(key.path);
            if let Err(misread) = key.kind.read(&value) {
                let (setting, allowed) = (self.setting(key.path), key.kind.allowed());
                self.findings.problems.push(ConfigProblem::NotAllowed {
                    setting,
                    misread,
                    allowed,
                });
                self.refused.insert(key.path);
            }
        }
    }

    fn object_fits_in_requests(&mut self) {
        let paths = ["limits.requestBytes", "node.storage.maxObjectBytes"];
        if !self.may_judge(&paths) {
            return;
        }
        // The greatest request has the value in base64, and room for its other fields.
        let needed_bytes =
            self.config.node.storage.max_object_bytes.div_ceil(3) * 4 + BESIDE_VALUE_BYTES;
        if self.config.limits.request_bytes < needed_bytes {
            let [requests, object] = paths.map(|path| self.setting(path));
            let problem = ConfigProblem::ObjectExceedsRequests { requests, object, needed_bytes };
            self.findings.problems.push(problem);
        }
    }

    fn object_fits_in_outbox(&mut self) {
        let paths = ["limits.outboxBytes", "node.storage.maxObjectBytes"];
        if !self.may_judge(&paths) {
            return;
        }
        let needed_bytes = self.config.node.storage.max_object_bytes + BESIDE_ENTRY_BYTES;
        if self.config.limits.outbox_bytes < needed_bytes {
            let [outbox, object] = paths.map(|path| self.setting(path));
            let problem = ConfigProblem::ObjectExceedsOutbox { outbox, object, needed_bytes };
            self.findings.problems.push(problem);
        }
    }

    fn ports_are_distinct(&mut self) {
        let ports = &self.config.node.ports;
        let ports = [
            ("node.ports.rest", ports.rest),
            ("node.ports.peer", ports.peer),
            ("node.ports.storage", ports.storage),
            ("node.ports.overlay", ports.overlay),
        ];
        for (index, (second, port)) in ports.iter().enumerate() {
            let same = ports.iter().take(index).find(|(_, other)| other == port && *port != 0);
            if let Some((first, _)) = same
                && self.may_judge(&[first, second])
            {
                let (first, second) = (self.setting(first), self.setting(second));
                self.findings.problems.push(ConfigProblem::SamePort { first, second });
            }
        }
    }

    fn position_is_inside(&mut self) {
        let (position, world) = (self.config.node.position, &self.config.node.world);
        for (place, at, side, extent) in [
            ("node.position.x", position.x, "node.world.width", world.width),
            ("node.position.y", position.y, "node.world.height", world.height),
        ] {
            if at > extent && self.may_judge(&[place, side]) {
                let (place, side) = (self.setting(place), self.setting(side));
                self.findings.problems.push(ConfigProblem::OutsideWorld { place, side });
            }
        }
    }

    fn replicas_find_members(&mut self) {
        let paths = ["node.storage.replicationFactor", "node.maxPeers"];
        if self.may_judge(&paths)
            && self.config.node.storage.replication_factor > self.config.node.max_peers
        {
            let [replicas, members] = paths.map(|path| self.setting(path));
            let text = format!("{replicas}: more replicas than a group has members, {members}");
            self.findings.warnings.push(text);
        }
    }

    fn voters_are_odd(&mut self) {
        let voters = self.config.group.voters;
        if self.may_judge(&["group.voters"]) && voters.is_multiple_of(2) {
            let setting = self.setting("group.voters");
            let text =
                format!("{setting}: an even number of voters is no safer than {}", voters - 1);
            self.findings.warnings.push(text);
        }
    }

    /// Whether none of these keys has a problem of its own.
    fn may_judge(&self, paths: &[&str]) -> bool {
        !paths.iter().any(|path| self.refused.contains(path))
    }

    fn value(&self, path: &str) -> ValueKind {
        keys::leaf(&self.tree, path).map_or(ValueKind::Nil, value_kind)
    }

    fn setting(&self, path: &str) -> Setting {
        Setting::new(path, &self.value(path), self.origins.of(path))
    }
}

fn value_kind(value: &Value) -> ValueKind {
    match value {
        Value::Bool(on) => ValueKind::Boolean(*on),
        Value::Number(number) => match (number.as_u64(), number.as_i64()) {
            (Some(number), _) => ValueKind::U64(number),
            (None, Some(number)) => ValueKind::I64(number),
            (None, None) => ValueKind::from(number.as_f64()),
        },
        Value::String(text) => ValueKind::String(text.clone()),
        Value::Sequence(items) => {
            ValueKind::Array(items.iter().map(|item| value_kind(item).into()).collect())
        }
        Value::Null | Value::Mapping(_) | Value::Tagged(_) => ValueKind::Nil,
    }
}
