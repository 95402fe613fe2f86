//! Ballots: the numbers under which rounds are run. Never used twice for one object.

use serde::{Deserialize, Serialize};

/// A round's number. Compared by the epoch first (rule 1), so that what a minority took before a change of the members never
/// wins over what was decided after it.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Ballot {
    /// The epoch in which the round runs; both of its phases do.
    pub epoch: u64,
    /// The proposer's counter, durable before its first use.
    pub counter: u64,
    /// The proposer's tag.
    pub node: u64,
}

impl Ballot {
    /// Below all ballots: nothing promised, nothing accepted.
    pub const NONE: Self = Self { epoch: 0, counter: 0, node: 0 };

    /// Returns the ballot that its own acceptance promises to the same proposer's next operation (rule 11).
    #[must_use]
    pub fn piggyback(self) -> Self {
        Self { counter: self.counter.saturating_add(1), ..self }
    }
}
