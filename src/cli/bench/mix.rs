//! The operations of a load run and how often each is sent.

use std::{fmt, str::FromStr};

use serde::Serialize;

use super::problem::PlanProblem;

const MAX_WEIGHT: u32 = 1_000_000;

/// What a request does to its object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OpKind {
    /// Reads a key of the preloaded key space.
    Get,
    /// Creates an object under a key that was never used before.
    Put,
    /// Replaces the value of a key of the preloaded key space.
    Update,
    /// Removes an object that this run has put.
    Delete,
}

impl OpKind {
    /// Every operation, in the order of reports.
    pub const ALL: [OpKind; 4] = [OpKind::Get, OpKind::Put, OpKind::Update, OpKind::Delete];

    /// The operation's name in a mix and in a report.
    pub fn name(self) -> &'static str {
        match self {
            OpKind::Get => "get",
            OpKind::Put => "put",
            OpKind::Update => "update",
            OpKind::Delete => "delete",
        }
    }
}

/// How often each operation is sent, as weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Mix {
    /// Weight of get.
    pub get: u32,
    /// Weight of put.
    pub put: u32,
    /// Weight of update.
    pub update: u32,
    /// Weight of delete.
    pub delete: u32,
}

impl Mix {
    /// Reads only.
    pub const GETS: Mix = Mix { get: 1, put: 0, update: 0, delete: 0 };
    /// Creates only.
    pub const PUTS: Mix = Mix { get: 0, put: 1, update: 0, delete: 0 };

    /// Weight of one operation.
    pub fn weight(&self, kind: OpKind) -> u32 {
        match kind {
            OpKind::Get => self.get,
            OpKind::Put => self.put,
            OpKind::Update => self.update,
            OpKind::Delete => self.delete,
        }
    }

    /// Sum of all weights.
    pub fn total(&self) -> u32 {
        // Each weight is at most MAX_WEIGHT in a valid mix; saturation keeps an invalid one from a panic.
        OpKind::ALL.iter().fold(0, |sum: u32, kind| sum.saturating_add(self.weight(*kind)))
    }

    /// The operation that owns `ticket`, a number below [`Mix::total`].
    pub fn pick(&self, ticket: u32) -> OpKind {
        let mut left = ticket;
        for kind in OpKind::ALL {
            let weight = self.weight(kind);
            if left < weight {
                return kind;
            }
            left -= weight;
        }
        OpKind::Get
    }

    fn set(&mut self, kind: OpKind, weight: u32) {
        match kind {
            OpKind::Get => self.get = weight,
            OpKind::Put => self.put = weight,
            OpKind::Update => self.update = weight,
            OpKind::Delete => self.delete = weight,
        }
    }

    /// The first thing that is wrong with the mix, if any.
    pub(super) fn problem(&self) -> Option<PlanProblem> {
        let too_heavy = OpKind::ALL.iter().map(|kind| self.weight(*kind)).find(|w| *w > MAX_WEIGHT);
        if let Some(weight) = too_heavy {
            return Some(PlanProblem::MixWeight(weight.to_string()));
        }
        if self.total() == 0 {
            return Some(PlanProblem::MixEmpty);
        }
        (self.delete > self.put)
            .then_some(PlanProblem::MixDeletesTooMuch { delete: self.delete, put: self.put })
    }
}

impl FromStr for Mix {
    type Err = PlanProblem;

    fn from_str(text: &str) -> Result<Mix, PlanProblem> {
        let mut mix = Mix { get: 0, put: 0, update: 0, delete: 0 };
        let mut seen = Vec::new();
        for entry in text.split(',') {
            let bad_entry = || PlanProblem::MixEntry(entry.to_owned());
            let (name, weight) = entry.split_once('=').ok_or_else(bad_entry)?;
            let name = name.trim();
            let kind = OpKind::ALL
                .into_iter()
                .find(|kind| kind.name() == name)
                .ok_or_else(|| PlanProblem::MixOperation(name.to_owned()))?;
            if seen.contains(&kind) {
                return Err(PlanProblem::MixRepeated(name.to_owned()));
            }
            seen.push(kind);
            let weight = weight.trim();
            let parsed = weight.parse().ok().filter(|w| *w <= MAX_WEIGHT);
            mix.set(kind, parsed.ok_or_else(|| PlanProblem::MixWeight(weight.to_owned()))?);
        }
        mix.problem().map_or(Ok(mix), Err)
    }
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = OpKind::ALL.iter().filter(|kind| self.weight(**kind) > 0);
        let entries: Vec<_> =
            named.map(|kind| format!("{}={}", kind.name(), self.weight(*kind))).collect();
        f.write_str(&entries.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mix_reads_back_as_it_prints() {
        for text in ["get=90,put=10", "put=1", "get=7,put=2,update=3,delete=1"] {
            assert_eq!(text.parse::<Mix>().unwrap().to_string(), text);
        }
        assert_eq!(" put = 1 , get = 2 ".parse::<Mix>().unwrap().to_string(), "get=2,put=1");
    }

    #[test]
    fn a_bad_mix_is_refused_with_the_part_that_is_bad() {
        let cases = [
            ("", PlanProblem::MixEntry(String::new())),
            ("get", PlanProblem::MixEntry("get".to_owned())),
            ("read=1", PlanProblem::MixOperation("read".to_owned())),
            ("get=1,get=2", PlanProblem::MixRepeated("get".to_owned())),
            ("get=-1", PlanProblem::MixWeight("-1".to_owned())),
            ("get=1000001", PlanProblem::MixWeight("1000001".to_owned())),
            ("get=0", PlanProblem::MixEmpty),
            ("put=1,delete=2", PlanProblem::MixDeletesTooMuch { delete: 2, put: 1 }),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse::<Mix>(), Err(expected), "mix {text:?}");
        }
    }

    #[test]
    fn every_ticket_of_a_mix_belongs_to_the_operation_of_its_weight() {
        let mix: Mix = "get=2,put=3,delete=1".parse().unwrap();
        let picked: Vec<_> = (0..mix.total()).map(|ticket| mix.pick(ticket).name()).collect();
        assert_eq!(picked, ["get", "get", "put", "put", "put", "delete"]);
    }
}
