//! Decides how nodes learn who holds what: what this node reports, what it accepts from others, and which members it asks
//! again because a notice may be lost.
//!
//! A member numbers its notices. A node that has all notices up to a number has the same digest as the member had then. So a
//! comparison finds what was lost and nothing else, also while objects change all the time. A node reads what it holds itself
//! from its store once, and then follows the changes of its registers.

mod answering;
mod correcting;
mod own;

use std::collections::{BTreeMap, BTreeSet};

pub use self::answering::Word;
use self::{correcting::Correction, own::Scan};
use super::{
    HeldObject, LIMIT_ENTRIES, Ledger, LedgerAnswer, LedgerChange, LedgerRequest, LedgerTotals,
    Notice,
};
use crate::{
    group::view::{Liveness, View},
    machine::{Core, NoAnswer, Now, Ticket},
    model::{
        node_id::NodeId,
        object::{ObjectId, Version},
        time::{MonotonicUs, UnixSecs},
    },
    repair::digest::BUCKETS,
};

/// How long a change may wait for others to go with it in one notice.
const NOTICE_PAUSE_US: u64 = 200_000;
/// The most objects of one member that are kept; more of a single one would be more than a node holds.
const HELD_MAX: u64 = 10_000_000;
/// How many buckets a chore takes at a time.
const CHORE_BUCKETS: u16 = 32;
/// How often the objects are counted, when something has changed.
const CENSUS_US: u64 = 2_000_000;
/// A write is on its way to its replicas for so long before it counts as missing there.
const SETTLED_MS: u64 = 5_000;
/// Expired entries are not shown. They are removed when the members say so, and in any case after this time.
const EXPIRED_KEPT_S: u64 = 600;
/// The most objects that are named as under-replicated.
const NAMED_MAX: usize = 16;

/// A node's group, as its view says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerScope {
    /// Its name.
    pub group: String,
    /// Its members, this node included.
    pub members: BTreeSet<NodeId>,
    /// Those that keep a ledger of all: the super-peer, and the redundant ones.
    pub keepers: BTreeSet<NodeId>,
    /// The super-peer.
    pub super_peer: Option<NodeId>,
    /// The members that answer.
    pub alive: BTreeSet<NodeId>,
    /// How many members hold each object.
    pub replicas: usize,
}

impl LedgerScope {
    /// Reads it from a view; `None` without a group.
    pub fn of(view: &View) -> Option<Self> {
        let table = view.group()?;
        let members: BTreeSet<_> = table.seats.keys().copied().collect();
        let super_peer = view.super_peer.filter(|node| members.contains(node));
        let keepers = view.voters.iter().copied().chain(super_peer);
        let alive = |node: &&NodeId| view.sighting(node).liveness == Liveness::Alive;
        Some(Self {
            group: table.name.clone(),
            keepers: keepers.filter(|node| members.contains(node)).collect(),
            super_peer,
            alive: members.iter().filter(alive).copied().collect(),
            replicas: (view.settings().replication_factor as usize).min(members.len()),
            members,
        })
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum LedgerEvent {
    /// The view has changed.
    Viewed(Option<LedgerScope>),
    /// What this node holds has changed, durably; oldest first.
    Changed(Vec<LedgerChange>),
    /// What this node holds is to be read from its store again.
    Recount,
    /// A part of the store was read, as [`LedgerEffect::Scan`] wanted it.
    Scanned {
        /// Names the effect.
        ticket: Ticket,
        /// The live objects, sorted by id, and up to which id they were read; `None` = to the end of the shard. Or it failed.
        part: Result<(Vec<HeldObject>, Option<ObjectId>), NoAnswer>,
    },
    /// Another member says something.
    Noticed {
        /// Who.
        from: NodeId,
        /// What.
        notice: Notice,
    },
    /// What a question has brought.
    Answered {
        /// Names the question.
        ticket: Ticket,
        /// The answer.
        answer: Result<LedgerAnswer, NoAnswer>,
    },
    /// A member has said that it holds an object, when asked because a caller says so.
    Referred {
        /// The member.
        member: NodeId,
        /// What it holds.
        held: HeldObject,
    },
    /// Time has passed.
    Tick,
}

/// What is to be done, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LedgerEffect {
    /// Tell another member.
    Tell {
        /// Whom.
        to: NodeId,
        /// What.
        notice: Notice,
    },
    /// Ask another member; then say [`LedgerEvent::Answered`].
    Ask {
        /// Names the question.
        ticket: Ticket,
        /// Whom.
        to: NodeId,
        /// What.
        question: LedgerRequest,
    },
    /// Read the store, from a thread that may wait; then say [`LedgerEvent::Scanned`].
    Scan {
        /// Names it.
        ticket: Ticket,
        /// The shard.
        shard: u8,
        /// Behind which object.
        after: Option<ObjectId>,
    },
}

/// Where a part of the ledger is to be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reference {
    /// Here.
    Here,
    /// At another member, over a link.
    At(NodeId),
    /// Nowhere at the moment: the group elects a super-peer.
    Nowhere,
}

/// How the group's objects stand, as the ledger has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LedgerStanding {
    /// Whether this node keeps the ledger of its group. If not, the rest is of this node alone.
    pub keeps: bool,
    /// Whether it has heard of all members what they hold.
    pub complete: bool,
    /// The members that it is kept of.
    pub members: usize,
    /// How many objects there are.
    pub objects: u64,
    /// How many replicas of them.
    pub holdings: u64,
    /// The last count, on a node that keeps the ledger of the group.
    pub census: Option<LedgerTotals>,
    /// Some of the objects that were under-replicated then.
    pub under_replicated: Vec<ObjectId>,
    /// Notices that were taken.
    pub notices: u64,
    /// Times that a notice was missing.
    pub gaps: u64,
    /// Objects of other members that a comparison of digests has corrected.
    pub corrected: u64,
}

/// What is known of another member's notices.
#[derive(Debug, Default)]
struct LedgerPeer {
    life: Option<u64>,
    seq: u64,
    /// When its digest is to be compared.
    due: MonotonicUs,
    /// How often a comparison came at the wrong moment.
    tries: u32,
    /// By how much the pause between comparisons is longer, because they go on finding differences.
    patience: u32,
    /// Whether all that it holds was taken once.
    complete: bool,
}

/// A pass over all buckets that is under way.
struct BucketPass {
    next: u16,
    begun: MonotonicUs,
    sweeps: bool,
    census: LedgerTotals,
    found: Vec<ObjectId>,
}

/// The bookkeeper of one node.
pub struct Bookkeeper {
    this: NodeId,
    life: u64,
    cleanup_us: u64,
    site: Option<LedgerScope>,
    ledger: Ledger,
    scan: Scan,
    pending: Vec<LedgerChange>,
    flush_due: Option<MonotonicUs>,
    seq: u64,
    peers: BTreeMap<NodeId, LedgerPeer>,
    correction: Option<Correction>,
    last_ticket: Ticket,
    round: Option<BucketPass>,
    changed_at: MonotonicUs,
    counted_at: MonotonicUs,
    sweep_due: MonotonicUs,
    purges: bool,
    standing: LedgerStanding,
    out: Vec<LedgerEffect>,
}

impl Core for Bookkeeper {
    type Event = LedgerEvent;
    type Effect = LedgerEffect;
    type Shelf<'a> = ();

    fn step(&mut self, now: Now, event: LedgerEvent, (): &()) -> Vec<LedgerEffect> {
        match event {
            LedgerEvent::Viewed(site) => self.on_view(now, site),
            LedgerEvent::Changed(changes) => self.on_changed(now, changes),
            LedgerEvent::Recount => self.scan.again(now.monotonic),
            LedgerEvent::Scanned { ticket, part } => self.on_scanned(now, ticket, part),
            LedgerEvent::Noticed { from, notice } => self.on_notice(now, from, notice),
            LedgerEvent::Answered { ticket, answer } => {
                self.on_answered(now, ticket, answer);
            }
            LedgerEvent::Referred { member, held } => {
                if self.keeps() {
                    self.ledger.add(member, held);
                    self.changed_at = now.monotonic;
                }
            }
            LedgerEvent::Tick => {}
        }
        self.on_time(now);
        self.take_effects()
    }

    fn next_due(&self) -> Option<MonotonicUs> {
        let peers = self.peers.values().map(|peer| peer.due).min();
        let chore = self.round.as_ref().map(|round| round.begun);
        let purge = self.purges.then_some(MonotonicUs(0));
        let due = [
            self.flush_due,
            peers.filter(|_| self.correction.is_none()),
            self.scan.due(),
            chore.or(purge),
            self.census_due(),
            Some(self.sweep_due),
        ];
        due.into_iter().flatten().min()
    }
}

impl Bookkeeper {
    /// Starts the ledger of a node, which begins with reading its store. `life` is drawn anew each time; digests are compared
    /// and expired entries removed every `cleanup_us`.
    pub fn new(this: NodeId, life: u64, cleanup_us: u64, now: MonotonicUs) -> Self {
        let mut ledger = Ledger::default();
        ledger.keep(&BTreeSet::from([this]));
        Self {
            this,
            life,
            cleanup_us,
            site: None,
            ledger,
            scan: Scan::new(now),
            pending: Vec::new(),
            flush_due: None,
            seq: 0,
            peers: BTreeMap::new(),
            correction: None,
            last_ticket: Ticket::default(),
            round: None,
            changed_at: now,
            counted_at: MonotonicUs(0),
            sweep_due: now.plus_us(cleanup_us),
            purges: false,
            standing: LedgerStanding::default(),
            out: Vec::new(),
        }
    }

    /// Returns what else is to be done after an answer, in order.
    pub fn take_effects(&mut self) -> Vec<LedgerEffect> {
        std::mem::take(&mut self.out)
    }

    /// Returns the group.
    pub fn site(&self) -> Option<&LedgerScope> {
        self.site.as_ref()
    }

    /// Returns how the objects stand.
    pub fn standing(&self) -> LedgerStanding {
        LedgerStanding {
            keeps: self.keeps(),
            complete: self.is_complete(),
            members: self.ledger.members().count(),
            objects: self.ledger.objects(),
            holdings: self.ledger.holdings(),
            ..self.standing.clone()
        }
    }

    /// Tells whether this node keeps the ledger of its group.
    pub fn keeps(&self) -> bool {
        self.site.as_ref().is_some_and(|site| site.keepers.contains(&self.this))
    }

    fn is_complete(&self) -> bool {
        self.scan.is_complete() && self.peers.values().all(|peer| peer.complete)
    }

    fn ticket(&mut self) -> Ticket {
        self.last_ticket.draw()
    }

    fn on_view(&mut self, now: Now, site: Option<LedgerScope>) {
        if site == self.site {
            return;
        }
        let group = |site: &Option<LedgerScope>| site.as_ref().map(|site| site.group.clone());
        if group(&site) != group(&self.site) {
            // What members of another group held is nothing to this one.
            self.ledger.keep(&BTreeSet::from([self.this]));
            self.peers.clear();
            self.correction = None;
        }
        self.site = site;
        self.changed_at = now.monotonic;
        self.purges = true;
        let mut kept = BTreeSet::from([self.this]);
        if let Some(site) = self.site.as_ref().filter(|site| site.keepers.contains(&self.this)) {
            kept.extend(&site.members);
        } else {
            self.standing.census = None;
            self.standing.under_replicated.clear();
        }
        self.ledger.keep(&kept);
        self.peers.retain(|node, _| kept.contains(node));
        for node in kept.into_iter().filter(|node| *node != self.this) {
            let new = || LedgerPeer { due: now.monotonic, patience: 1, ..LedgerPeer::default() };
            self.peers.entry(node).or_insert_with(new);
        }
        if self
            .correction
            .as_ref()
            .is_some_and(|under_way| !self.peers.contains_key(&under_way.member))
        {
            self.correction = None;
        }
    }

    fn on_notice(&mut self, now: Now, from: NodeId, notice: Notice) {
        let Some(site) = self.site.as_ref().filter(|_| self.keeps()) else { return };
        match notice {
            Notice::Forget { group, member } => {
                let says_so = site.super_peer == Some(from) && site.group == group;
                if says_so && member != self.this && !site.alive.contains(&member) {
                    self.forget(now, member);
                }
            }
            Notice::Changed { group, life, seq, changes } => {
                let Some(peer) = self.peers.get_mut(&from) else { return };
                let is_late = peer.life == Some(life) && seq <= peer.seq;
                if group != site.group || changes.len() > LIMIT_ENTRIES || is_late {
                    return;
                }
                if peer.life != Some(life) || seq != peer.seq.saturating_add(1) {
                    self.standing.gaps += u64::from(peer.life.is_some());
                    peer.due = peer.due.min(now.monotonic.plus_us(NOTICE_PAUSE_US));
                    peer.patience = 1;
                }
                (peer.life, peer.seq) = (Some(life), seq);
                self.standing.notices += 1;
                self.changed_at = now.monotonic;
                for change in changes {
                    self.take(from, change);
                }
            }
        }
    }

    /// Takes what a member says of itself.
    fn take(&mut self, node: NodeId, change: LedgerChange) {
        match change {
            LedgerChange::Held(held) => {
                let count = self.ledger.digest(&node).map_or(0, |digest| digest.root().count);
                if count < HELD_MAX || self.ledger.held(node, &held.id).is_some() {
                    self.ledger.set(node, held);
                }
            }
            LedgerChange::Dropped(id) => {
                self.ledger.remove(node, id.as_str());
            }
        }
    }

    /// Forgets what a member holds, until it says something again.
    fn forget(&mut self, now: Now, member: NodeId) -> bool {
        let there_was = self.ledger.forget(member);
        self.purges |= there_was;
        self.changed_at = now.monotonic;
        if let Some(peer) = self.peers.get_mut(&member) {
            peer.due = peer.due.max(now.monotonic.plus_us(self.cleanup_us));
        }
        there_was
    }

    // ---- what time brings ----

    fn on_time(&mut self, now: Now) {
        if self.flush_due.is_some_and(|due| now.monotonic >= due) {
            self.flush();
        }
        self.scan_on(now.monotonic);
        self.correct_on(now.monotonic);
        self.do_chores(now);
    }

    fn census_due(&self) -> Option<MonotonicUs> {
        let settled = self.changed_at.plus_us(SETTLED_MS * 1_000);
        let wants = self.keeps() && self.round.is_none() && self.counted_at <= settled;
        wants.then(|| self.counted_at.plus_us(CENSUS_US))
    }

    /// Does a part of what has to be done with all entries now and then.
    fn do_chores(&mut self, now: Now) {
        if self.purges {
            self.purges = self.ledger.purge(CHORE_BUCKETS);
            return;
        }
        let sweeps = now.monotonic >= self.sweep_due;
        if self.round.is_none()
            && (sweeps || self.census_due().is_some_and(|due| now.monotonic >= due))
        {
            if sweeps {
                self.sweep_due = now.monotonic.plus_us(self.cleanup_us);
            }
            let (begun, census, found) = (now.monotonic, LedgerTotals::default(), Vec::new());
            self.round = Some(BucketPass { next: 0, begun, sweeps, census, found });
        }
        let Some(mut round) = self.round.take() else { return };
        let part = round.next..round.next.saturating_add(CHORE_BUCKETS).min(BUCKETS);
        if round.sweeps {
            let long_ago = UnixSecs(now.wall.secs().0.saturating_sub(EXPIRED_KEPT_S));
            self.ledger.sweep(part.clone(), long_ago);
        }
        if self.keeps() {
            let replicas = self.site.as_ref().map_or(0, |site| site.replicas);
            let settled_ms = now.wall.0.saturating_sub(SETTLED_MS);
            let settled = Version { time: settled_ms.saturating_mul(1 << 16), node: u64::MAX };
            let counted = (replicas, settled, now.wall.secs());
            let part = self.ledger.census(part.clone(), counted, &mut round.found, NAMED_MAX);
            round.census.objects += part.objects;
            round.census.under_replicated += part.under_replicated;
        }
        round.next = part.end;
        if round.next < BUCKETS {
            self.round = Some(round);
            return;
        }
        self.counted_at = round.begun;
        if self.keeps() {
            self.standing.census = Some(round.census);
            self.standing.under_replicated = round.found;
        }
    }
}

#[cfg(test)]
mod tests;
