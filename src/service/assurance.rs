//! How durable what an answer tells is.

use std::{borrow::Cow, fmt};

use nomad_core::model::durability::Durability;

/// Whose disks have what an answer tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// This node's.
    Local,
    /// Those of a quorum of the object's replicas. In a group of one that is this node's.
    Quorum,
}

/// How durable what an answer tells is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Assurance {
    /// Whose disks have it.
    pub reach: Reach,
    /// When it reaches them.
    pub fsync: Durability,
}

impl Assurance {
    /// Says it in the words of the wire contract (`Nomad-Durability`).
    pub fn text(self) -> Cow<'static, str> {
        let reach = match self.reach {
            Reach::Local => "local",
            Reach::Quorum => "quorum",
        };
        match self.fsync {
            Durability::Always => reach.into(),
            Durability::Interval(every) => {
                format!("{reach};fsync=interval:{}", humantime::format_duration(every)).into()
            }
        }
    }
}

impl fmt::Display for Assurance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}
