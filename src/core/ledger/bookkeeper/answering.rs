//! What a node answers about the ledger: to other members, and to its own clients.

use super::{Bookkeeper, LedgerEffect, Now, Reference};
use crate::{
    ledger::{LIMIT_ENTRIES, LedgerAnswer, LedgerPage, LedgerRequest, Notice},
    model::{node_id::NodeId, object::ObjectId},
};

/// The longest cursor that another node may name: that of the longest id.
const AFTER_BYTES_MAX: usize = ObjectId::BYTES_MAX;

/// What to do when a caller says that a member holds an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// The ledger has it already.
    Known,
    /// It is not so.
    Untrue,
    /// The member itself knows.
    AskMember,
    /// It is this node, which is still reading its store.
    NotYet,
}

impl Bookkeeper {
    /// Answers another member, at once. A [`LedgerRequest::Refer`] whose answer only the named member knows is not answered here:
    /// see [`refer`](Self::refer).
    pub fn answer(&mut self, now: Now, from: NodeId, question: &LedgerRequest) -> LedgerAnswer {
        let is_ours = |site: &super::LedgerScope| {
            site.group == question.group() && site.members.contains(&from)
        };
        if !self.site.as_ref().is_some_and(is_ours) {
            return LedgerAnswer::Elsewhere;
        }
        match question {
            LedgerRequest::Root { .. }
            | LedgerRequest::Buckets { .. }
            | LedgerRequest::Inventory { .. }
                if !self.scan.is_complete() =>
            {
                LedgerAnswer::NotYet
            }
            LedgerRequest::Root { .. } => {
                // What the asker has taken of this node's notices is then all there is.
                self.flush();
                let digest = self.ledger.digest(&self.this);
                let root = digest.map(|digest| digest.root()).unwrap_or_default();
                LedgerAnswer::Root { life: self.life, seq: self.seq, root }
            }
            LedgerRequest::Buckets { .. } => {
                self.flush();
                let digest = self.ledger.digest(&self.this);
                let buckets = digest.map(|digest| digest.buckets().to_vec()).unwrap_or_default();
                LedgerAnswer::Buckets { life: self.life, seq: self.seq, buckets }
            }
            LedgerRequest::Inventory { buckets, after, .. } => LedgerAnswer::Inventory(
                self.ledger.inventory(self.this, buckets, after.as_ref(), LIMIT_ENTRIES),
            ),
            LedgerRequest::Holds { id, .. } => match self.ledger.held(self.this, id) {
                None if !self.scan.is_complete() => LedgerAnswer::NotYet,
                held => LedgerAnswer::Holds(held),
            },
            LedgerRequest::Pages { .. }
            | LedgerRequest::Refer { .. }
            | LedgerRequest::Forget { .. }
                if !self.keeps() =>
            {
                LedgerAnswer::Elsewhere
            }
            LedgerRequest::Pages { after, limit, .. } => {
                if after.as_ref().is_some_and(|after| after.len() > AFTER_BYTES_MAX) {
                    return LedgerAnswer::Elsewhere;
                }
                LedgerAnswer::Page(self.page(now, after.as_deref(), *limit as usize))
            }
            LedgerRequest::Refer { id, member, .. } => match self.refer(*member, id) {
                Word::Known => LedgerAnswer::Done(false),
                Word::NotYet => LedgerAnswer::NotYet,
                Word::Untrue | Word::AskMember => LedgerAnswer::NotHeld,
            },
            LedgerRequest::Forget { member, .. } => {
                // The others take the word of the super-peer alone.
                let leads = self.site.as_ref().and_then(|site| site.super_peer) == Some(self.this);
                match leads {
                    true => self.forget_if_gone(now, *member),
                    false => LedgerAnswer::Elsewhere,
                }
            }
        }
    }

    /// Says where the ledger of the group is to be had for a client of this node.
    pub fn look(&self) -> Reference {
        let Some(site) = &self.site else { return Reference::Nowhere };
        let other = site.super_peer.filter(|node| *node != self.this);
        match (self.keeps(), other) {
            (true, None) => Reference::Here,
            (true, Some(_)) if self.is_complete() => Reference::Here,
            (_, Some(node)) => Reference::At(node),
            (false, None) => {
                let alive = site.keepers.iter().find(|node| site.alive.contains(node));
                alive.map_or(Reference::Nowhere, |node| Reference::At(*node))
            }
        }
    }

    /// Returns a part of the ledger.
    pub fn page(&self, now: Now, after: Option<&str>, limit: usize) -> LedgerPage {
        self.ledger.page(after, limit.clamp(1, LIMIT_ENTRIES), now.wall.secs())
    }

    /// Decides what to do when a caller says that a member holds an object. The ledger believes only the member itself.
    pub fn refer(&self, member: NodeId, id: &ObjectId) -> Word {
        match (self.ledger.held(member, id), member == self.this) {
            (Some(_), _) => Word::Known,
            (None, true) if !self.scan.is_complete() => Word::NotYet,
            (None, true) => Word::Untrue,
            (None, false) => Word::AskMember,
        }
    }

    /// Forgets what a member holds, if the member does not answer, and tells the other ledgers of the group. A member that was
    /// removed has left the ledger already.
    pub fn forget_if_gone(&mut self, now: Now, member: NodeId) -> LedgerAnswer {
        let Some(site) = self.site.clone() else { return LedgerAnswer::Elsewhere };
        if member == self.this || site.alive.contains(&member) {
            return LedgerAnswer::Alive;
        }
        let there_was = self.forget(now, member);
        let notice = Notice::Forget { group: site.group, member };
        let others = site.keepers.iter().filter(|node| **node != self.this);
        self.out.extend(others.map(|to| LedgerEffect::Tell { to: *to, notice: notice.clone() }));
        LedgerAnswer::Done(there_was)
    }
}
