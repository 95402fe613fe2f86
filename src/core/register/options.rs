//! The options of a shard of registers: its node, its limits and its timing.

use crate::model::node_id::NodeId;

/// Whose registers they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    /// This node.
    pub node: NodeId,
    /// The group that it is a member of.
    pub group: String,
    /// The claim under which it is.
    pub claim: u64,
}

/// The limits and the pace of one shard. Times are microseconds.
#[derive(Debug, Clone)]
pub struct RegisterOptions {
    /// The most requests of this node at a time; more are refused as busy.
    pub in_hand_max: usize,
    /// The most requests that wait for their turn on one object; more are refused as busy.
    pub queue_max: usize,
    /// The most changes of one object that are decided in one round.
    pub batch_max: usize,
    /// The most bytes of values in such a round, unless one alone has more.
    pub batch_bytes_max: usize,
    /// The most objects with something that is not durable yet; requests of other nodes beyond that are dropped, and come
    /// again.
    pub unkept_max: usize,
    /// The most bytes of values that are not durable yet, as above.
    pub unkept_bytes_max: usize,
    /// The most objects whose next round needs no first phase (rule 11).
    pub ready_max: usize,
    /// The most bytes of their values.
    pub ready_bytes_max: usize,
    /// The most objects that are rescanned at a time.
    pub rescans_max: usize,
    /// The most messages that wait while a configuration is adopted; more are dropped, and come again.
    pub held_max: usize,
    /// The most bytes of values in them.
    pub held_bytes_max: usize,
    /// After how long a message without an answer is sent again for the first time.
    pub resend_us: u64,
    /// The longest time between two times of sending.
    pub resend_max_us: u64,
    /// How long a read waits for the last replicas when a quorum has answered and does not agree.
    pub patience_us: u64,
    /// How long what is for all replicas, such as a repair, waits for the last ones when a quorum has it.
    pub straggle_us: u64,
    /// The mean wait before a round that met another one begins again, the first time.
    pub back_off_us: u64,
    /// The longest such wait.
    pub back_off_max_us: u64,
    /// Mistakes put in on purpose.
    #[cfg(test)]
    pub faults: RegisterFaults,
}

impl Default for RegisterOptions {
    fn default() -> Self {
        const MIB: usize = 1 << 20;
        Self {
            in_hand_max: 16_384,
            queue_max: 1_024,
            batch_max: 128,
            batch_bytes_max: 4 * MIB,
            unkept_max: 16_384,
            unkept_bytes_max: 64 * MIB,
            ready_max: 4_096,
            ready_bytes_max: 16 * MIB,
            rescans_max: 64,
            held_max: 256,
            held_bytes_max: 8 * MIB,
            resend_us: 200_000,
            resend_max_us: 1_000_000,
            patience_us: 10_000,
            straggle_us: 2_000_000,
            back_off_us: 2_000,
            back_off_max_us: 1_000_000,
            #[cfg(test)]
            faults: RegisterFaults::NONE,
        }
    }
}

impl RegisterOptions {
    /// Returns the mistakes that a test has put in; elsewhere there are none.
    pub(super) const fn faults(&self) -> RegisterFaults {
        #[cfg(test)]
        return self.faults;
        #[cfg(not(test))]
        return RegisterFaults::NONE;
    }
}

/// Mistakes that the simulation must catch. Each breaks one rule. Only tests can switch them on: in other builds the compiler
/// sees that all are off, and leaves the wrong branches out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RegisterFaults {
    /// Rule 1: ballots do not carry the epoch.
    pub ballot_without_epoch: bool,
    /// Rule 1: the counter is not durable.
    pub volatile_counter: bool,
    /// Rule 2: replies leave before what they depend on is durable.
    pub reply_before_durable: bool,
    /// Rule 2: what was promised without a write is forgotten in a restart.
    pub volatile_promise: bool,
    /// Rule 3: the newest configuration is adopted, and those before it are skipped.
    pub skip_configurations: bool,
    /// Rule 4: messages of a lower epoch are taken part in.
    pub no_epoch_check: bool,
    /// Rule 4: whose store does not take a value may still accept another copy of it.
    pub declined_is_not_final: bool,
    /// Rule 4: what some replicas decline counts as not done, whatever the others do.
    pub declined_by_some: bool,
    /// Rule 4: with a write that the store has refused, the promise before it is forgotten.
    pub undone_promise_is_lost: bool,
    /// A joint quorum is one of the new set.
    pub joint_quorum_of_new: bool,
    /// A joint quorum is one of the old set.
    pub joint_quorum_of_old: bool,
    /// Rule 6: a change is evaluated again after its second phase began.
    pub evaluate_again: bool,
    /// Rule 6: ballots under which a value was offered are forgotten once it seems that none was taken.
    pub forget_offers: bool,
    /// Rule 6: where nothing is, nothing was in earlier epochs either.
    pub offers_of_any_epoch: bool,
    /// Rule 6: what a value does not remember is taken for never done.
    pub past_without_end: bool,
    /// Rule 6: the past of a value that others have written is not passed on.
    pub past_is_lost: bool,
    /// Rule 7: a refusal is not confirmed.
    pub unconfirmed_refusal: bool,
    /// Rule 7: the shortcut of a refusal is taken although an own value may be on its way.
    pub refuse_with_offers: bool,
    /// Rule 8: a read returns the highest of a quorum's answers.
    pub read_highest: bool,
    /// Rule 9: there is no rescan.
    pub no_rescan: bool,
    /// Rule 9: the rescan is reported when it begins.
    pub rescanned_at_once: bool,
    /// Rule 10: a tombstone is dropped when a majority has it.
    pub drop_by_majority: bool,
    /// Rule 10: dropping sets no floor.
    pub no_floor: bool,
    /// Rule 10: the floor is what was accepted, not what was promised.
    pub floor_is_accepted: bool,
    /// Rule 10: the floor is not durable.
    pub volatile_floor: bool,
    /// Rule 11: what is promised along with an acceptance is used in the next epoch.
    pub piggyback_across_epochs: bool,
    /// Rule 11: acceptors do not promise what the proposer counts on.
    pub piggyback_without_promise: bool,
    /// Rule 12: the tombstone of an expired object is newer than every write.
    pub expire_as_newest: bool,
    /// Rule 14: of an object that has lost its old majority, a majority of the new set is heard.
    pub forced_hears_majority: bool,
}

impl RegisterFaults {
    /// No mistake.
    pub const NONE: Self = Self {
        ballot_without_epoch: false,
        volatile_counter: false,
        reply_before_durable: false,
        volatile_promise: false,
        skip_configurations: false,
        no_epoch_check: false,
        declined_is_not_final: false,
        declined_by_some: false,
        undone_promise_is_lost: false,
        joint_quorum_of_new: false,
        joint_quorum_of_old: false,
        evaluate_again: false,
        forget_offers: false,
        offers_of_any_epoch: false,
        past_without_end: false,
        past_is_lost: false,
        unconfirmed_refusal: false,
        refuse_with_offers: false,
        read_highest: false,
        no_rescan: false,
        rescanned_at_once: false,
        drop_by_majority: false,
        no_floor: false,
        floor_is_accepted: false,
        volatile_floor: false,
        piggyback_across_epochs: false,
        piggyback_without_promise: false,
        expire_as_newest: false,
        forced_hears_majority: false,
    };
}
