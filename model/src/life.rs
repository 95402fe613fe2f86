//! Starts of a node, and what others remember of them (R16 to R20). Stands between the links and `proto::Node`, as it does in
//! the program: a node does not know of it.
use crate::proto::{Cfg, Key, Nid, Rules, Set};
use std::rc::Rc;

/// Who must have taken note of a start before the node takes part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Admit {
    Off,
    /// Mistake: a majority of the replicas, with the node itself.
    Majority,
    /// n - q + 1 of the other replicas: at least one of any quorum that the node can have been in.
    Most,
}

/// The switches of R16 to R20.
#[derive(Clone, Copy, Debug)]
pub struct LifeRules {
    pub starts: bool,        // R16: a start has a name; messages of other starts than the one on record do not count
    pub past: bool,          // R16: a later start must have the one on record in its past; off = a greater number is enough
    pub marks: bool,         // R17: the past must be as long as what was heard of it
    pub marks_durable: bool, // R17: what was heard is kept (with what is written anyway)
    pub admit: Admit,        // R18
    pub agree: bool,         // R19: answers say which starts their sender knows
    pub hearsay: bool,       // mistake: what others say of a start takes the place of what is remembered
    pub runs: bool,          // R20: no later start is noted while the one on record answers
}
impl LifeRules {
    pub const GOOD: LifeRules = LifeRules { starts: true, past: true, marks: true, marks_durable: true, admit: Admit::Most, agree: true, hearsay: false, runs: true };
}

/// What a node remembers of another: its start, how many starts it had before, how far it has got.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Mem {
    pub name: u32, // 0 = nothing
    pub gen: u32,
    pub seq: u32,
}
/// What is durable, in one piece with the state that `seq` counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    pub name: u32,
    pub past: Rc<Vec<(u32, u32)>>, // earlier starts, oldest first, each with the sequence that it ended at
    pub seq: u32,
    pub known: Vec<Mem>,
}
#[derive(Clone, Debug)]
pub struct Life {
    pub kept: Kept,
    pub heard: Vec<Mem>, // ahead of `kept.known` until the next batch
    pub noted: Set,      // who has taken note of this start
    pub out: bool,
    pub beyond: Vec<u32>, // by hearsay: a node has a start with so many before it
    pub ideal: Vec<Mem>, // what `kept.known` would be with all rules: decides which faults are within what is promised
}
/// What travels with a message.
#[derive(Clone, Debug)]
pub struct Stamp {
    pub name: u32,
    pub past: Rc<Vec<(u32, u32)>>,
    pub seq: u32,
    pub rec: Rc<Vec<Mem>>,
}
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    Same,
    Later,
    Refused,
    Overtaken, // others have noted a later start: it does not count, until it is known which one is right
}

impl Life {
    pub fn new(name: u32, pool: usize) -> Life {
        let known = vec![Mem::default(); pool];
        Life { kept: Kept { name, past: Rc::new(vec![]), seq: 1, known: known.clone() }, heard: known.clone(), noted: 0, out: false, beyond: vec![0; pool], ideal: known }
    }
    pub fn stamp(&self) -> Stamp {
        Stamp { name: self.kept.name, past: self.kept.past.clone(), seq: self.kept.seq, rec: Rc::new(self.heard.clone()) }
    }
    /// Something was made durable: what was heard rides along.
    pub fn wrote(&mut self, r: &LifeRules) {
        self.kept.seq += 1;
        self.ideal.clone_from(&self.heard);
        if r.marks_durable {
            self.kept.known.clone_from(&self.heard);
        }
    }
    /// The process ended and another one has begun on what was durable. `anew` = nothing shows that this is the newest state.
    pub fn restart(&mut self, anew: Option<u32>) {
        self.heard.clone_from(&self.kept.known);
        if let Some(name) = anew {
            let mut past = (*self.kept.past).clone();
            past.push((self.kept.name, self.kept.seq));
            self.kept.past = Rc::new(past);
            self.kept.name = name;
            self.kept.seq += 1;
            self.noted = 0;
        }
    }
    pub fn judge(&self, from: Nid, s: &Stamp, r: &LifeRules) -> Verdict {
        let m = self.heard[from as usize];
        let gen = s.past.len() as u32;
        if !r.starts {
            return Verdict::Same;
        }
        if m.name == 0 {
            return Verdict::Later;
        }
        if s.name == m.name {
            return if self.beyond[from as usize] > m.gen { Verdict::Overtaken } else { Verdict::Same };
        }
        if !r.past {
            return if gen > m.gen && (!r.marks || s.seq >= m.seq) { Verdict::Later } else { Verdict::Refused };
        }
        match s.past.iter().find(|x| x.0 == m.name) {
            Some((_, end)) if !r.marks || *end >= m.seq => Verdict::Later,
            _ => Verdict::Refused,
        }
    }
    /// Takes note of a start, durably.
    pub fn note(&mut self, from: Nid, s: &Stamp, r: &LifeRules) {
        self.heard[from as usize] = Mem { name: s.name, gen: s.past.len() as u32, seq: s.seq };
        let m = self.heard[from as usize];
        self.kept.known[from as usize] = m;
        self.wrote(r);
    }
    /// Hears a mark, and which starts of others the sender knows; with a beat also how far they have got. True = somebody has a later start than was known here.
    pub fn hear(&mut self, me: Nid, from: Nid, s: &Stamp, beat: bool, r: &LifeRules) -> bool {
        let m = &mut self.heard[from as usize];
        if m.name == s.name {
            m.seq = m.seq.max(s.seq);
        }
        let mut news = false;
        if r.agree {
            for (j, x) in s.rec.iter().enumerate() {
                let h = &mut self.heard[j];
                if j == me as usize || x.name == 0 {
                    continue;
                }
                if x.name == h.name {
                    if beat {
                        h.seq = h.seq.max(x.seq);
                    }
                } else if h.name == 0 || r.hearsay && x.gen > h.gen {
                    *h = *x;
                    news = true;
                } else if x.gen > h.gen.max(self.beyond[j]) {
                    // it does not take the place of what is remembered: whoever said so may know less
                    self.beyond[j] = x.gen;
                    news = true;
                }
            }
        }
        news
    }
    pub fn admitted(&self, id: Nid, k: Key, cfg: Cfg, r: &Rules, given_up: Set) -> bool {
        let of = |m: Set| {
            let set = r.rmask(k, m);
            let others = set & !(1 << id);
            let (n, q) = (set.count_ones(), set.count_ones() / 2 + 1);
            let noted = (others & (self.noted | given_up)).count_ones();
            match r.life.admit {
                Admit::Off => true,
                Admit::Majority => noted + u32::from(others != set) >= q,
                Admit::Most => noted >= (n - q + 1).min(others.count_ones()),
            }
        };
        match cfg {
            Cfg::Stable(m) => of(m),
            Cfg::Joint(a, b) | Cfg::Forced(a, b, _) => of(a) && of(b),
        }
    }
}
