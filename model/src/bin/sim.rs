use nomad_model::{life::*, lin, proto::*, scen};
struct Rng(u64);
impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E3779B97F4A7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58476D1CE4E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D049BB133111EB);
        z ^ (z >> 31)
    }
    fn below(&mut self, n: usize) -> usize { (self.next() % n as u64) as usize }
    fn pct(&mut self, p: f64) -> bool { (self.next() >> 11) as f64 / (1u64 << 53) as f64 * 100.0 < p }
}
const POOL: usize = 9; // one more place behind them is for a second copy of one of them
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
static NSK: AtomicU8 = AtomicU8::new(4); // strict keys; two fast keys follow
fn sk() -> u8 { NSK.load(Relaxed) }
fn keys() -> u8 { sk() + 2 }
#[derive(Default, Clone, Debug)]
struct Stats { ops: u64, ok: u64, refused: u64, unknown: u64, reconf: u64, drops: u64, crashes: u64, msgs: u64, fast: u64, stuck: u64, gaveup: u64, piggy: u64, rejoin: u64, bulk: u64, rolled: u64, twins: u64, outs: u64, taken: u64, unadm: u64, expired: u64, jumps: u64, forces: u64, back: u64, forced: u64, broken: u64 }
struct Sim<'a> {
    rng: Rng, r: &'a Rules, name: &'a str, hist: Vec<Cfg>, nodes: Vec<Node>, down: Vec<u64>, slow: Vec<u64>, dead: Set,
    net: Vec<Pkt>, recs: Vec<Vec<lin::Rec>>, ops: Vec<(Key, usize)>, acks: Set, t: u64, st: Stats,
    vers: Vec<u32>, outbox: Vec<Vec<(u32, Key, bool)>>, done_fast: Vec<(usize, u32)>, hlc: Vec<u32>, wm: Vec<u32>, fastmax: Vec<(u32, bool)>, skew: Vec<u32>,
    trace: bool, lossless: bool, fast_on: bool, ever: Set, force: bool, broken: Vec<bool>,
    // starts
    healed: bool, lives: bool, life: Vec<Life>, twin: Option<usize>, frozen: Vec<u64>, story: Option<(usize, u64, (Node, Kept))>, faulty: Set, snaps: Vec<Vec<(Node, Kept)>>, names: u32, side: Vec<u8>, parted: u64,
    // clocks
    clocks: bool, off: Vec<i64>, due: Vec<u32>, due_true: Vec<u64>, ended: Vec<u32>, err: Option<String>, fasts: Vec<(u32, Key, bool)>,
}
#[derive(Clone)]
struct Pkt { m: Msg, src: usize, stamp: Option<Stamp> }
/// What is durable of a node, apart from its start.
fn durable(n: &Node) -> (u16, u16, Ballot, Vec<(Key, Ent)>) { (n.epoch, n.ctr, n.floor, n.ents.clone()) }
impl<'a> Sim<'a> {
    fn cur(&self) -> Cfg { *self.hist.last().unwrap() }
    fn slot(&mut self) -> usize { let n = self.slots(); self.rng.below(n) }
    fn slots(&self) -> usize { POOL + usize::from(self.twin.is_some()) }
    fn id(&self, n: usize) -> usize { self.nodes[n].id as usize }
    fn admitted(&self, n: usize, k: Key) -> bool {
        !self.lives || !self.life[n].out && self.life[n].admitted(self.id(n) as Nid, k, self.hist[self.nodes[n].epoch as usize - 1], self.r, if self.healed { self.dead } else { 0 })
    }
    fn all_admitted(&self, n: usize) -> bool { (0..keys()).all(|k| self.admitted(n, k)) }
    fn apart(&self, a: usize, b: usize) -> bool { self.lives && self.parted > self.t && self.side[a] != self.side[b] }
    /// The member that it was meant for, or the second copy of it.
    fn place(&mut self, to: usize) -> usize { if self.twin == Some(to) && self.rng.pct(50.0) { POOL } else { to } }
    /// A node has been told that it is not the one that the others know.
    fn out(&mut self, n: usize) {
        if self.life[n].out { return; }
        let id = self.id(n);
        if self.trace { println!("{} OUT n{n} (node {id})", self.t); }
        self.st.outs += 1;
        self.life[n].out = true;
        self.nodes[n].rounds.clear();
        if n == POOL { self.twin = None; self.faulty &= !(1 << id); } else if self.twin == Some(id) { self.swap(); self.twin = None; } else { self.dead |= 1 << id; self.faulty &= !(1 << id); }
    }
    fn swap(&mut self) {
        let Some(id) = self.twin else { return };
        self.nodes.swap(id, POOL); self.life.swap(id, POOL); self.frozen.swap(id, POOL); self.down.swap(id, POOL); self.slow.swap(id, POOL); self.side.swap(id, POOL);
    }
    /// Looks at a link's other end: true = what it says counts.
    fn look(&mut self, t: usize, f: Nid, stamp: &Stamp, beat: bool) -> bool {
        let r = self.r.life;
        // the process that says so, if it still runs
        let src = (0..self.slots()).find(|&i| self.nodes[i].id == f && self.life[i].kept.name == stamp.name && !self.life[i].out);
        let mut v = self.life[t].judge(f, stamp, &r);
        if v == Verdict::Later {
            if src.is_none() { return false; }
            let m = self.life[t].heard[f as usize];
            let old = (0..self.slots()).find(|&i| m.name != 0 && self.nodes[i].id == f && self.life[i].kept.name == m.name && !self.life[i].out);
            if old.is_some_and(|i| r.runs && self.up(i) && !self.apart(t, i)) {
                v = Verdict::Refused;
            } else {
                if self.trace && m.name != 0 { println!("{} n{t} notes start {} of node {f}", self.t, stamp.name); }
                self.life[t].note(f, stamp, &r);
                self.abandon(t);
            }
        }
        if v == Verdict::Overtaken {
            return false;
        }
        if v == Verdict::Refused {
            if let Some(i) = src { if r.starts { self.out(i) } }
            return false;
        }
        let me = self.nodes[t].id;
        if self.life[t].hear(me, f, stamp, beat, &r) { self.abandon(t); }
        true
    }
    /// Somebody has another start: what was counted of rounds under way may be of the old one.
    fn abandon(&mut self, t: usize) {
        if !self.r.life.agree { return; }
        for k in 0..keys() { self.act(t, |nd, e, o| { nd.abort_scrub(k); nd.retry(k, e, o) }); }
        self.nodes[t].cache.clear();
    }
    /// Two processes make a link, or say over one how far they are.
    fn meet(&mut self, a: usize, b: usize) {
        if a == b || self.id(a) == self.id(b) || !self.up(a) || !self.up(b) || self.apart(a, b) { return; }
        for (x, y) in [(a, b), (b, a)] {
            if self.life[x].out || self.life[y].out { return; }
            let (stamp, name) = (self.life[x].stamp(), self.life[x].kept.name);
            let f = self.nodes[x].id;
            let ok = self.look(y, f, &stamp, true);
            if ok && self.life[x].kept.name == name && !self.life[x].out { let id = self.id(y); self.life[x].noted |= 1 << id; }
        }
    }
    fn restart(&mut self, n: usize, anew: bool) {
        let name = anew.then(|| { self.names += 1; self.names });
        self.life[n].restart(name);
        for o in 0..self.slots() { if self.rng.pct(60.0) && self.life[n].heard[self.id(o)].name != 0 { self.meet(n, o); } }
    }
    /// Would whoever is asked find out that this copy is old? At least one of any n - q + 1 other replicas knows better, durably.
    fn known_better(&self, id: usize, k: &Kept, epoch: u16) -> bool {
        let kb = (0..POOL).filter(|&j| j != id && (self.dead | self.faulty) >> j & 1 == 0).filter(|&j| {
            let m = self.life[j].ideal[id];
            m.name != 0 && if m.name == k.name { m.seq > k.seq } else { !k.past.iter().any(|x| x.0 == m.name) }
        }).fold(0, |a, j| a | 1u16 << j);
        self.hist[epoch as usize - 1..].iter().all(|c| {
            let sets = match *c { Cfg::Stable(m) => vec![m], Cfg::Joint(a, b) | Cfg::Forced(a, b, _) => vec![a, b] };
            sets.iter().all(|&m| (0..keys()).all(|key| {
                let set = self.r.rmask(key, m);
                let (n, q) = (set.count_ones(), set.count_ones() / 2 + 1);
                let others = set & !(1 << id);
                n == 1 || others.count_ones() - (kb & others).count_ones() < (n - q + 1).min(others.count_ones())
            }))
        })
    }
    fn quiet(&self) -> bool { !self.name.ends_with("backup") && matches!(self.cur(), Cfg::Stable(a) if a & (self.dead | self.faulty) == 0) && self.dead.count_ones() < 4 && self.twin.is_none() }
    /// The directory of a node is put back from an older copy.
    fn roll_back(&mut self, n: usize, node: Node, kept: Kept) {
        let is_now = durable(&node) == durable(&self.nodes[n]) && kept.seq == self.life[n].kept.seq && kept.name == self.life[n].kept.name;
        if is_now || self.name != "starts-any" && !self.known_better(n, &kept, node.epoch) { return; }
        if self.trace { println!("{} ROLLBACK n{n} seq {} to {}", self.t, self.life[n].kept.seq, kept.seq); }
        self.st.rolled += 1;
        self.faulty |= 1 << n;
        self.nodes[n] = node;
        self.life[n].kept = kept;
        self.act(n, |nd, e, _| nd.crash(e, 1));
        // it may be started some times before anybody is met
        let most = if self.rng.pct(30.0) { 60 } else { 3 };
        for _ in 0..self.rng.below(most) { self.names += 1; let name = self.names; self.life[n].restart(Some(name)); }
        self.restart(n, true);
    }
    /// Some members miss what the others decide; then a node that was with the others is put back, or copied, and those that know are away.
    fn story(&mut self) {
        let len = 60 + self.rng.below(500) as u64;
        match self.story.take() {
            None => {
                let n = self.rng.below(POOL);
                if !self.quiet() || !self.up(n) || self.life[n].out || self.faulty != 0 { return; }
                let c = (Node { rounds: vec![], cache: vec![], scan: None, seen: 0, ..self.nodes[n].clone() }, self.life[n].kept.clone());
                for i in 0..=POOL { self.side[i] = u8::from(i != n && self.rng.pct(35.0)); }
                self.parted = self.t + len;
                self.story = Some((n, self.t + len, c));
            }
            Some((_, until, _)) if self.t < until && !self.rng.pct(3.0) => {}
            Some((n, _, (node, kept))) => {
                if !self.quiet() || self.life[n].out { return; }
                if self.rng.pct(35.0) {
                    // a full stop
                    self.parted = 0;
                    for i in 0..POOL { if i != n && self.dead >> i & 1 == 0 { self.crash(i); } }
                } else {
                    for i in 0..=POOL { self.side[i] = u8::from(i != n && self.side[i] == 0 && self.rng.pct(55.0)); }
                    self.side[POOL] = 0;
                    self.parted = self.t + len;
                }
                if self.quiet() && !self.life[n].out { self.roll_back(n, node, kept); }
            }
        }
    }
    /// One of the faults and chores that starts have to do with.
    fn chance(&mut self) {
        let x = self.rng.below(1000);
        let n = self.rng.below(self.slots());
        if self.story.as_ref().is_some_and(|s| s.1 <= self.t) || x >= 990 { let s = self.story.take(); self.story = s; self.story(); }
        if x < 60 { let m = self.rng.below(self.slots()); self.meet(n, m); }
        else if x < 130 { if n < POOL && self.faulty >> n & 1 == 0 && !self.life[n].out {
            let c = (Node { rounds: vec![], cache: vec![], scan: None, seen: 0, ..self.nodes[n].clone() }, self.life[n].kept.clone());
            self.snaps[n].push(c); if self.snaps[n].len() > 4 { let i = self.rng.below(4); self.snaps[n].remove(i); } } }
        else if x < 134 { if self.parted <= self.t { for i in 0..=POOL { self.side[i] = self.rng.below(2) as u8; } self.parted = self.t + self.rng.below(400) as u64; } }
        else if x < 139 {
            if n >= POOL || !self.quiet() || self.life[n].out || self.snaps[n].is_empty() { return; }
            let i = self.rng.below(self.snaps[n].len());
            let (node, kept) = self.snaps[n][i].clone();
            self.roll_back(n, node, kept);
        } else if x < 143 {
            // a second copy is started
            if n >= POOL || !self.quiet() || self.life[n].out { return; }
            let now = (Node { rounds: vec![], cache: vec![], scan: None, seen: 0, ..self.nodes[n].clone() }, self.life[n].kept.clone());
            let old = self.rng.pct(40.0) && !self.snaps[n].is_empty();
            let (node, kept) = if old { let i = self.rng.below(self.snaps[n].len()); self.snaps[n][i].clone() } else { now };
            let is_now = kept.seq == self.life[n].kept.seq && kept.name == self.life[n].kept.name;
            let runs = self.up(n);
            if !is_now && !self.known_better(n, &kept, node.epoch) { return; }
            if self.trace { println!("{} TWIN of n{n} seq {} of {} runs {runs}", self.t, kept.seq, self.life[n].kept.seq); }
            self.st.twins += 1;
            let mut life = self.life[n].clone();
            life.kept = kept; life.noted = 0;
            self.twin = Some(n);
            self.faulty |= 1 << n;
            self.nodes[POOL] = node; self.life[POOL] = life; self.down[POOL] = 0; self.slow[POOL] = 0; self.frozen[POOL] = 0; self.side[POOL] = self.rng.below(2) as u8;
            self.act(POOL, |nd, e, _| nd.crash(e, 1));
            if !self.r.life.starts || !self.r.life.runs {
                self.names += 1;
                self.life[POOL].restart(Some(self.names));
            } else if runs && self.parted <= self.t && self.rng.pct(70.0) {
                // the first one runs, and says so to whoever the second one meets
                self.restart(POOL, true);
                for o in 0..POOL { if self.twin.is_some() { self.meet(POOL, o); } }
                if self.twin.is_some() { self.out(POOL); }
            } else {
                // the first one stands still until the second one's fate is settled: see README, "limits"
                self.frozen[n] = u64::MAX;
                self.restart(POOL, true);
            }
        } else if x < 160 {
            // a second copy that has come in takes the place; the first one wakes up some time
            if let Some(id) = self.twin {
                let taken = self.frozen[id] == u64::MAX && self.all_admitted(POOL);
                if taken { self.swap(); self.st.taken += 1; self.faulty &= !(1 << id); if self.trace { println!("{} TAKEN n{id}", self.t); } }
                if self.frozen[POOL] == u64::MAX && self.rng.pct(20.0) {
                    if self.trace { println!("{} WAKES first copy of n{id}", self.t); }
                    self.frozen[POOL] = 0; self.slow[POOL] = 0; self.down[POOL] = 0; self.parted = 0;
                    // those that have not heard of the second one go on with the first one
                    let name = self.life[POOL].kept.name;
                    for p in 0..POOL {
                        let k = self.rng.below(sk() as usize) as u8;
                        if self.life[p].heard[id].name == name && self.up(p) && self.admitted(p, k) && self.nodes[p].round(k).is_none() && self.recs[k as usize].len() < 40 && self.rng.pct(60.0) {
                            let v = self.ops.len() as u32;
                            let op = if self.rng.pct(50.0) { Op::Put(v) } else { Op::Create(v) };
                            self.client(p, k, op);
                        }
                    }
                }
            } else {
                for i in 0..POOL { if self.frozen[i] == u64::MAX { self.frozen[i] = 0 } }
            }
        }
    }
    fn is_wrong(&self, n: usize) -> bool { self.off[n].abs() > i64::from(scen::SKEW) / 2 }
    /// Sets a clock right. Fast writes that it had put into the future, which nobody has taken, get new versions.
    fn set_right(&mut self, n: usize) {
        self.off[n] = self.rng.below(20) as i64;
        let far = (self.t as u32 + 2 * scen::SKEW) << 4;
        let mut h = self.hlc[n].min(far);
        let mut moved = vec![];
        for x in &mut self.outbox[n] { if x.0 > far {
            h += 16; let v = (h & !15) | n as u32;
            moved.push((x.0, v));
            // it has made no offer: a quorum of clocks would not have let it
            self.nodes[n].rounds.retain(|r| !matches!(r.1.op, Op::Lww(w, _) if w == x.0));
            x.0 = v;
        } }
        for f in &mut self.fasts { if let Some(m) = moved.iter().find(|m| m.0 == f.0) { f.0 = m.1 } }
        self.hlc[n] = h;
    }
    /// A clock leaps or is set right, or a node looks for objects that have expired.
    fn leap(&mut self) {
        let x = self.rng.below(1000);
        let n = self.slot();
        if x < 8 {
            if self.is_wrong(n) { self.set_right(n); return; }
            if (0..POOL).any(|i| self.is_wrong(i)) { return; } // one at a time is a minority of every replica set
            let far = 100 + self.rng.below(3000) as i64;
            self.off[n] = if self.rng.pct(50.0) { far } else { -far };
            self.st.jumps += 1;
        } else if x < 120 && self.up(n) {
            let k = self.rng.below(sk() as usize) as u8;
            let now = (self.t as i64 + self.off[n]).max(0) as u32;
            let Some(v) = self.nodes[n].ent(k).map(|e| e.val) else { return };
            let due = v.cur().map_or(0, |v| self.due[v as usize]);
            if due != 0 && now >= due && self.nodes[n].round(k).is_none() { self.act(n, |nd, e, o| nd.start(0, k, Op::Expire, e, o)); }
        }
    }
    fn run_out(&mut self, n: usize, out: Vec<Out>) {
        for o in out {
            if self.trace { match &o { Out::Send(m) => println!("   {:?}", m), x => println!("   n{n} {:?}", x) } }
            match o {
                Out::Send(m) => self.send(n, m),
                Out::Bulk => self.st.bulk += 1,
                Out::Ended { key, ver } => if !self.ended.contains(&ver) {
                    self.ended.push(ver);
                    self.st.expired += 1;
                    let due = self.due_true[ver as usize];
                    if self.r.expire != Expire::Accept && self.t + u64::from(scen::SKEW) < due { self.err.get_or_insert(format!("key {key}: object {ver} ended at {}, {} too early", self.t, due - self.t)); }
                    self.recs[key as usize].push(lin::Rec { op: Op::End(ver), node: 99, inv: self.t, ret: None });
                },
                Out::Done { opid, op, ret, .. } => {
                    if let Op::Lww(v, _) = op {
                        if self.clocks && u64::from(v >> 4) > self.t + 3 * u64::from(scen::SKEW) { self.err.get_or_insert(format!("version {v} of {} is decided at {}", v >> 4, self.t)); }
                        self.done_fast.push((n, v)); continue;
                    }
                    if opid == 0 { continue; }
                    let (k, i) = self.ops[opid as usize];
                    match ret {
                        Ret::Unknown => self.st.unknown += 1,
                        x => {
                            if matches!(x, Ret::Refused(_)) { self.st.refused += 1 } else { self.st.ok += 1 }
                            self.recs[k as usize][i].ret = Some((self.t, x));
                        }
                    }
                }
                Out::ScanAck { epoch } => if epoch as usize == self.hist.len() && (!self.lives || self.all_admitted(n) && (n < POOL || !self.r.life.starts)) { self.acks |= 1 << self.id(n) },
                Out::DropReady { key, b, val } => {
                    let go = self.admitted(n, key) && (key < sk() || self.name == "fast-nowm" || (0..POOL).all(|i| self.wm[i] >= val.ver()));
                    if go {
                        self.st.drops += 1;
                        let mut o2 = vec![];
                        self.nodes[n].send_drop(key, b, &Env { r: self.r, hist: &self.hist, due: &self.due }, &mut o2);
                        for o in o2 { if let Out::Send(m) = o { self.send(n, m) } }
                    }
                }
            }
        }
    }
    fn act<F: FnOnce(&mut Node, &Env, &mut Vec<Out>)>(&mut self, n: usize, f: F) {
        self.t += 1;
        let mut out = vec![];
        let before = self.lives.then(|| durable(&self.nodes[n]));
        if self.clocks { self.nodes[n].clock = (self.t as i64 + self.off[n]).max(0) as u32; }
        f(&mut self.nodes[n], &Env { r: self.r, hist: &self.hist, due: &self.due }, &mut out);
        if before.is_some_and(|b| b != durable(&self.nodes[n])) { self.life[n].wrote(&self.r.life); }
        self.run_out(n, out);
    }
    fn send(&mut self, n: usize, m: Msg) {
        if !self.admitted(n, m.key) { self.st.unadm += 1; return; }
        let stamp = self.lives.then(|| self.life[n].stamp());
        self.net.push(Pkt { m, src: n, stamp });
    }
    fn deliver(&mut self, i: usize, keep: bool, t: usize) {
        let Pkt { m, src, stamp } = if keep { self.net[i].clone() } else { self.net.swap_remove(i) };
        self.st.msgs += 1;
        if self.trace { println!("{} deliver to {t} {:?}", self.t, m); }
        if let Some(stamp) = stamp {
            if self.life[t].out || self.apart(src.min(self.slots() - 1), t) { return; }
            if m.from == m.to { if stamp.name != self.life[t].kept.name && self.r.life.starts { return; } }
            else if !self.look(t, m.from, &stamp, false) || self.life[t].out { return; }
            let is_request = matches!(m.body, Body::Prepare { .. } | Body::Accept { .. } | Body::ReadQ { .. } | Body::Drop { .. });
            if is_request && !self.admitted(t, m.key) { self.st.unadm += 1; return; }
        }
        self.act(t, |nd, e, o| nd.on_msg(&m, e, o));
    }
    fn client(&mut self, n: usize, k: Key, op: Op) {
        let id = self.ops.len() as u32;
        self.t += 1;
        self.recs[k as usize].push(lin::Rec { op, node: n as u8, inv: self.t, ret: None });
        self.ops.push((k, self.recs[k as usize].len() - 1));
        let (mut due, mut due_true) = (0, 0);
        if self.clocks && matches!(op, Op::Create(_) | Op::Put(_) | Op::Update(_) | Op::Cas(..)) && self.rng.pct(60.0) && (!self.r.own_clock || !self.is_wrong(n)) {
            let ttl = 50 + self.rng.below(900) as u64;
            due_true = self.t + ttl;
            due = (due_true as i64 + self.off[n]).max(1) as u32;
        }
        self.due.push(due); self.due_true.push(due_true);
        self.st.ops += 1;
        if self.nodes[n].cache.iter().any(|c| c.0 == k) { self.st.piggy += 1 }
        if self.trace { println!("{} n{n} START op{id} k{k} {:?}", self.t, op); }
        self.act(n, |nd, e, o| nd.start(id, k, op, e, o));
    }
    fn crash(&mut self, n: usize) {
        self.st.crashes += 1;
        let lose = 1 + self.rng.below(2);
        if self.trace { println!("{} CRASH n{n}", self.t); }
        let am = self.name == "amnesia" && self.rng.pct(30.0);
        self.act(n, |nd, e, _| { if am { nd.amnesia() } else { nd.crash(e, lose) } });
        if self.lives { let anew = self.rng.pct(40.0); self.restart(n, anew); }
        self.done_fast.retain(|x| x.0 != n);
    }
    fn up(&self, n: usize) -> bool { self.frozen[n] <= self.t && self.dead >> n & 1 == 0 && self.down[n] <= self.t && self.slow[n] <= self.t }
    fn source(&mut self) {
        match self.cur() {
            Cfg::Joint(a, b) => if self.r.acked_enough(keys(), a, self.acks) {
                self.hist.push(Cfg::Stable(b)); self.acks = 0; self.st.reconf += 1;
                if self.trace { println!("{} SOURCE {:?}", self.t, self.cur()); }
            } else { self.force() },
            Cfg::Forced(a, b, lost) => if self.r.forced_enough(keys(), (a, b, lost), self.acks) {
                self.hist.push(Cfg::Stable(b)); self.acks = 0; self.st.reconf += 1;
                if self.trace { println!("{} SOURCE {:?}", self.t, self.cur()); }
            } else { self.force() },
            Cfg::Stable(a) => {
                let mut b = a;
                let outs: Vec<usize> = (0..POOL).filter(|i| a >> i & 1 == 0 && self.dead >> i & 1 == 0).collect();
                let ins: Vec<usize> = (0..POOL).filter(|i| a >> i & 1 == 1).collect();
                let deadin: Vec<usize> = ins.iter().copied().filter(|i| self.dead >> i & 1 == 1).collect();
                let kind = if !deadin.is_empty() { 0 } else { self.rng.below(4) };
                if kind != 1 && !outs.is_empty() && (ins.len() < 6 || kind == 0) { let x = outs[self.rng.below(outs.len())]; if self.ever >> x & 1 == 1 { self.st.rejoin += 1 } b |= 1 << x }
                if kind != 2 && (ins.len() > 3 || kind == 0) { let x = if deadin.is_empty() { ins[self.rng.below(ins.len())] } else { deadin[0] }; b &= !(1 << x) }
                if kind == 3 && self.rng.pct(30.0) && b.count_ones() > 3 { let x = ins[self.rng.below(ins.len())]; b &= !(1 << x) }
                if b != a && b.count_ones() >= 3 {
                    self.ever |= b | a;
                    self.hist.push(Cfg::Joint(a, b)); self.acks = 0;
                    if self.trace { println!("{} SOURCE {:?}", self.t, self.cur()); }
                }
            }
        }
    }
    /// The dead, and now and then somebody who is only silent, are taken for lost. Of a key that has lost its old majority, the
    /// last value may be lost with them: such a key is not checked any more. All others are.
    fn force(&mut self) {
        let (a, b, lost) = match self.cur() { Cfg::Joint(a, b) => (a, b, 0), Cfg::Forced(a, b, l) => (a, b, l), _ => return };
        if !self.force || !self.rng.pct(30.0) { return; }
        let mut gone = self.dead & (a | b) & !lost;
        if self.rng.pct(30.0) { let x = self.rng.below(POOL); if self.slow[x] > self.t { gone |= 1 << x & (a | b) & !lost } }
        // where nobody is left to go on to, the change is taken back
        let new = if b & !gone == 0 { a & !(lost | gone) } else { b & !gone };
        if !self.r.needs_force(self.cur(), gone) || new == 0 { return; }
        if b & !gone == 0 { self.st.back += 1 }
        let next = Cfg::Forced(a, new, lost | gone);
        for k in 0..sk() {
            if !self.r.is_forced(k, next) { continue; }
            self.st.forced += 1;
            // what a new replica has from before this change, it will yet delete
            let stable = self.hist.iter().rposition(|c| matches!(c, Cfg::Stable(_))).unwrap_or(0) as u16 + 1;
            let ra = self.r.rmask(k, a);
            let counts = |n: &usize, acc: Ballot| ra >> n & 1 == 1 || acc.era > stable;
            let best = |of: Set| (0..POOL).filter(|n| of >> n & 1 == 1).filter_map(|n| self.nodes[n].ent(k).map(|e| e.acc).filter(|acc| counts(&n, *acc))).max().unwrap_or(ZERO);
            // who is alive may go on deciding in its old epoch
            let lives = self.r.targets(k, self.cur()) & gone & !self.dead != 0;
            if lives || best(self.r.targets(k, next)) < best(a | b) { if !self.broken[k as usize] { self.st.broken += 1 } self.broken[k as usize] = true; }
        }
        self.hist.push(next); self.acks = 0; self.st.forces += 1;
        if self.trace { println!("{} SOURCE {:?}", self.t, self.cur()); }
    }
    fn drain(&mut self) {
        let mut g = 0;
        while !self.net.is_empty() && g < 20000 { g += 1; let i = self.rng.below(self.net.len()); 
            if self.dead >> self.net[i].m.to & 1 == 1 { self.net.swap_remove(i); continue; }
            let t = self.place(self.net[i].m.to as usize); self.deliver(i, false, t); }
    }
    fn poll_all(&mut self) { for n in 0..self.slots() { if n < self.slots() && self.dead >> n & 1 == 0 { let h = self.hist.len() as u16; self.act(n, |nd, e, o| nd.adopt(h, e, o)); } } }
    fn settle(&mut self) -> bool {
        for _ in 0..60 {
            if self.lives { for a in 0..self.slots() { if a < self.slots() { self.act(a, |nd, e, o| nd.kick(e, o)); } for b in 0..a { if a < self.slots() { self.meet(a, b) } } } if let Some(id) = self.twin { if self.frozen[id] == u64::MAX { if self.all_admitted(POOL) { self.swap(); self.st.taken += 1; self.frozen[POOL] = 0; } else { self.out(POOL); self.frozen[id] = 0; } } } for i in 0..POOL { if self.frozen[i] == u64::MAX && self.twin.is_none() { self.frozen[i] = 0 } } }
            self.poll_all();
            self.drain();
            match self.cur() { Cfg::Stable(a) => if self.force && a & self.dead != 0 { self.source() }, _ => self.source() }
            let mut busy = false;
            for n in 0..self.slots() {
                if n >= self.slots() || self.dead >> n & 1 == 1 { continue; }
                let ks: Vec<Key> = self.nodes[n].rounds.iter().map(|x| x.0).collect();
                for k in ks { busy = true; self.act(n, |nd, e, o| { nd.abort_scrub(k); nd.retry(k, e, o); nd.kick(e, o) }); self.drain(); }
    if self.nodes[n].scan.as_ref().map(|x| !x.is_empty()).unwrap_or(false) { self.act(n, |nd, e, o| nd.kick(e, o)); self.drain(); }
                self.flush(n); self.drain();
            }
            let d = std::mem::take(&mut self.done_fast);
            for (n, v) in d { self.outbox[n].retain(|x| x.0 != v) }
            if !busy && matches!(self.cur(), Cfg::Stable(_)) && (0..POOL).all(|n| self.dead >> n & 1 == 1 || (self.outbox[n].is_empty() && self.nodes[n].epoch as usize == self.hist.len())) { return true; }
        }
        false
    }
    fn flush(&mut self, n: usize) {
        for (v, k, del) in self.outbox[n].clone() {
            if self.nodes[n].round(k).is_none() && !self.done_fast.contains(&(n, v)) {
                self.act(n, |nd, e, o| nd.start(0, k, Op::Lww(v, del), e, o));
                return;
            }
        }
    }
    fn newver(&mut self, n: usize) -> u32 {
        let now = if self.clocks { (self.t as i64 + self.off[n]).max(100) as u32 } else { self.t as u32 + self.skew[n] };
        let h = (self.hlc[n] >> 4).max(now) + 1;
        self.hlc[n] = h << 4 | n as u32;
        self.hlc[n]
    }
}
impl Sim<'_> {
    /// Delivers what these places have to say to each other; the rest is lost.
    fn pump(&mut self, among: &[usize]) {
        while let Some((i, t)) = (0..self.net.len()).find_map(|i| {
            let p = &self.net[i];
            let t = among.iter().copied().find(|&t| self.nodes[t].id == p.m.to && (p.m.to != p.m.from || t == p.src))?;
            among.contains(&p.src).then_some((i, t))
        }) { self.deliver(i, false, t); }
        self.net.clear();
    }
    fn copy(&self, n: usize) -> (Node, Kept) { (Node { rounds: vec![], cache: vec![], scan: None, seen: 0, ..self.nodes[n].clone() }, self.life[n].kept.clone()) }
}
/// Directed traces of what random search does not find: node 0 acknowledges something together with node 1 and without node 2; then an
/// old state of node 0 and node 2 are asked. Three members, replication factor 3; node 3 is no replica.
fn script(s: &mut Sim<'_>, which: &str) -> Result<(), String> {
    s.hist = vec![Cfg::Stable(0b111)];
    let old = s.copy(0);
    let met = |s: &mut Sim<'_>| for a in 0..s.slots() { for b in 0..a { if a < s.slots() { s.meet(a, b); } } };
    match which {
        // all stop after node 1 has heard of it and has written something; then the old copy is put back
        "memory" => {
            s.client(0, 0, Op::Create(1)); s.pump(&[0, 1]);
            s.meet(0, 1);
            let r = s.r.life; s.life[1].wrote(&r);
            for n in 0..POOL { s.nodes[n].rounds.clear(); s.life[n].restart(None); }
            s.nodes[0] = old.0; s.life[0].kept = old.1;
            s.names += 1; s.life[0].restart(Some(s.names));
            met(s);
            s.client(2, 0, Op::Create(2)); s.pump(&[0, 2]);
        }
        // a copy is started while node 0 runs and has told a proposer alone
        "twin" => {
            s.client(3, 0, Op::Create(1)); s.pump(&[0, 1, 3]);
            s.twin = Some(0); s.nodes[POOL] = old.0; s.life[POOL] = s.life[0].clone(); s.life[POOL].kept = old.1;
            s.names += 1; s.life[POOL].restart(Some(s.names));
            for o in [1, 2] { if s.twin.is_some() { s.meet(POOL, o); } }
            let among: &[usize] = if s.twin.is_some() { &[POOL, 2] } else { &[0, 2] };
            s.client(2, 0, Op::Create(2)); s.pump(among);
        }
        // the limit: as before, but node 0 and the proposer have ended before they told anybody
        "limit" => {
            s.client(3, 0, Op::Create(1)); s.pump(&[0, 1, 3]);
            s.down[3] = u64::MAX;
            s.nodes[0] = old.0; s.life[0].kept = old.1;
            s.names += 1; s.life[0].restart(Some(s.names));
            met(s);
            s.client(2, 0, Op::Create(2)); s.pump(&[0, 2]);
        }
        // node 1 is away when the old copy comes, and node 2 was away before
        "away" => {
            s.client(0, 0, Op::Create(1)); s.pump(&[0, 1]);
            s.meet(0, 1);
            s.down[1] = u64::MAX;
            s.nodes[0] = old.0; s.life[0].kept = old.1;
            s.names += 1; s.life[0].restart(Some(s.names));
            met(s);
            s.client(2, 0, Op::Create(2)); s.pump(&[0, 2]);
        }
        _ => panic!("no script {which}"),
    }
    let made = s.recs[0].iter().filter(|r| matches!(r.ret, Some((_, Ret::Ok(_))))).count();
    if made > 1 { Err("two creates of one object".into()) } else { Ok(()) }
}
fn run(r: &Rules, name: &str, seed: u64, trace: bool, steps: usize) -> (Result<(), String>, Stats) {
    let mut rng = Rng(seed.wrapping_mul(0x1234567) ^ 0xABCDEF);
    let m0: Set = if r.rf == 2 { 0b111 } else { 0b1111 };
    let (loss, dup, pcrash, psrc) = (rng.below(15) as f64, rng.below(10) as f64, rng.below(10) as f64 / 10.0, 0.3 + rng.below(15) as f64 / 10.0);
    let maxops = if sk() > 4 { 3 + rng.below(6) } else { 14 + rng.below(14) };
    let pslow = rng.below(8) as f64 / 10.0;
    let hot = rng.pct(50.0);
    let bulk = name.starts_with("bulk");
    let perm = name == "perm-death";
    let (lives, clocks) = (name.contains("starts"), name.contains("clocks"));
    let force = name.contains("force");
    let mut s = Sim { rng, r, name, hist: vec![Cfg::Stable(m0)], nodes: (0..=POOL).map(|i| Node::new((i % POOL) as u8, 1)).collect(), down: vec![0; POOL + 1], slow: vec![0; POOL + 1], dead: 0, net: vec![], recs: vec![vec![]; sk() as usize], ops: vec![(0, 0)], acks: 0, t: 0, st: Stats::default(), vers: vec![], outbox: vec![vec![]; POOL + 1], done_fast: vec![], hlc: vec![0; POOL + 1], wm: vec![0; POOL + 1], fastmax: vec![(0, true); keys() as usize], skew: (0..=POOL).map(|i| (i as u32 * 37) % 100).collect(), trace, lossless: false, force, broken: vec![false; sk() as usize], fast_on: !perm && !force && !lives && name != "amnesia" && name != "nodurable", ever: m0,
        healed: false, lives, life: (0..=POOL).map(|i| Life::new(1 + i as u32, POOL)).collect(), twin: None, frozen: vec![0; POOL + 1], story: None, faulty: 0, snaps: vec![vec![]; POOL], names: 100, side: vec![0; POOL + 1], parted: 0,
        clocks, off: vec![0; POOL + 1], due: vec![0], due_true: vec![0], ended: vec![], err: None, fasts: vec![] };
    if lives { for _ in 0..2 { for a in 0..POOL { for b in 0..a { s.meet(a, b); } } } }
    let _ = (&s.vers, s.lossless);
    if s.clocks { s.t = 100 }
    if let Ok(which) = std::env::var("SCRIPT") { return (script(&mut s, &which), s.st); }
    let mut burst = true; let mut next = 0usize;
    let mut backup = None;
    for step in 0..steps {
        if name.ends_with("backup") && step == steps / 3 {
            // all have stopped, and are copied
            let lens: Vec<usize> = s.recs.iter().map(Vec::len).collect();
            backup = Some((s.nodes.clone(), s.life.clone(), s.hist.clone(), s.acks, lens, s.t));
        }
        if let (Some((nodes, life, hist, acks, lens, at)), true) = (&backup, step == steps * 2 / 3) {
            // all are put back: what was done since is gone, by intent
            s.nodes.clone_from(nodes); s.life.clone_from(life); s.hist.clone_from(hist); s.acks = *acks;
            s.net.clear();
            for (r, len) in s.recs.iter_mut().zip(lens) {
                r.truncate(*len);
                for x in r.iter_mut() { if x.ret.is_some_and(|y| y.0 > *at) { x.ret = None } }
            }
            for n in 0..POOL { s.crash(n); s.restart(n, true); }
            s.st.rolled += 1;
        }
        if step >= next { burst = !burst; next = step + if burst { 20 + s.rng.below(60) } else { s.rng.below(steps / 12 + 1) }; }
        if s.lives && s.rng.pct(25.0) { s.chance(); }
        if s.clocks && s.rng.pct(25.0) { s.leap(); }
        let x = s.rng.below(1000);
        if x < 640 {
            if s.net.is_empty() { continue; }
            let i = s.rng.below(s.net.len());
            let f = s.net[i].src.min(s.slots() - 1);
            let t = s.net[i].m.to as usize;
            let t = s.place(t);
            if s.dead >> t & 1 == 1 || s.frozen[t] > s.t { s.net.swap_remove(i); s.t += u64::from(s.lives); continue; }
            if s.rng.pct(loss) { s.net.swap_remove(i); continue; }
            if s.down[t] > s.t { if s.rng.pct(50.0) { s.net.swap_remove(i); } s.t += 1; continue; }
            if (s.slow[t] > s.t || s.slow[f] > s.t) && !s.rng.pct(3.0) { s.t += 1; continue; }
            let keep = s.rng.pct(dup);
            s.deliver(i, keep, t);
        } else if x < 740 {
            let mut n = s.slot();
            if let (Some(id), false) = (s.twin, s.r.life.runs) { if s.rng.pct(40.0) { n = id } }
            if s.lives { let p = if s.parted > s.t { 40.0 } else { 5.0 }; if !s.rng.pct(p) { continue; } } else if !burst { continue; }
            let k = if hot && s.rng.pct(70.0) { 0 } else { s.rng.below(sk() as usize) as u8 };
            let mut n = n; let mut force = false;
            if bulk && s.rng.pct(60.0) { if let Cfg::Stable(m) = s.cur() { n = s.r.rset(k, m)[0] as usize; force = s.rng.pct(70.0) && s.nodes[n].ent(k).is_none(); } }
            if !s.up(n) || !s.admitted(n, k) || s.nodes[n].round(k).is_some() || s.recs[k as usize].len() >= maxops { continue; }
            if s.rng.pct(50.0) && s.cur() != Cfg::Stable(0) { let m = match s.cur() { Cfg::Stable(a) => a, Cfg::Joint(a, b) => a | b, Cfg::Forced(a, b, lost) => (a | b) & !lost }; if m >> s.id(n) & 1 == 0 { continue; } }
            let v = s.ops.len() as u32;
            let op = if force { Op::Create(v) } else { match s.rng.below(13) { 0 | 1 => Op::Create(v), 12 => Op::Delete(v), 2 => Op::Put(v), 3 => Op::Update(v), 4 | 5 => Op::Delete(v), 6 | 7 => {
                let known: Vec<u32> = s.recs[k as usize].iter().filter_map(|r| match r.ret { Some((_, Ret::Value(Some(x)))) | Some((_, Ret::Refused(Some(x)))) => Some(x), Some((_, Ret::Ok(_))) => match r.op { Op::Create(x) | Op::Put(x) | Op::Update(x) | Op::Cas(_, x) => Some(x), _ => None }, _ => None }).collect();
                if known.is_empty() { Op::Create(v) } else { Op::Cas(known[known.len() - 1 - s.rng.below(known.len().min(3))], v) } }, _ => Op::Read } };
            s.client(n, k, op);
            // sometimes a burst on the same node to exercise the piggyback path happens naturally with hot keys
        } else if x < 800 {
            // timeout
            let n = s.slot();
            if !s.up(n) || s.nodes[n].rounds.is_empty() { continue; }
            let i = s.rng.below(s.nodes[n].rounds.len());
            let (k, r2) = s.nodes[n].rounds[i].clone();
            let parked = r2.phase == Phase::Parked;
            if parked || s.rng.pct(15.0) { s.act(n, |nd, e, o| { nd.abort_scrub(k); nd.retry(k, e, o); nd.kick(e, o) }); }
        } else if x < 830 {
            let n = s.slot();
            if s.up(n) { let h = s.hist.len() as u16; if s.rng.pct(30.0) { s.act(n, |nd, e, o| { nd.adopt(h, e, o); nd.kick(e, o); nd.pull_start(e, o) }); } }
        } else if x < 870 {
            if burst && s.rng.pct(70.0) { continue; }
            if s.r.drop == DropRule::Off { continue; }
            let mut el = vec![];
            for n in 0..s.slots() { if s.up(n) && matches!(s.hist[s.nodes[n].epoch as usize - 1], Cfg::Stable(_)) { for k in 0..keys() { if s.nodes[n].round(k).is_none() && s.nodes[n].ent(k).map(|e| e.acc > ZERO && !matches!(e.val, Val::Live(_))).unwrap_or(false) { el.push((n, k)) } } } }
            if el.is_empty() { continue; }
            let (n, k) = el[s.rng.below(el.len())];
            s.act(n, |nd, e, o| nd.start(0, k, Op::Scrub, e, o));
        } else if x < 900 {
            if !s.fast_on { continue; }
            let n = s.slot();
            let k = sk() + s.rng.below((keys() - sk()) as usize) as u8;
            if !s.up(n) || s.st.fast > 40 { continue; }
            match s.rng.below(2) {
                0 => { let v = s.newver(n); let del = s.rng.pct(45.0); s.outbox[n].push((v, k, del)); s.fasts.push((v, k, del)); s.st.fast += 1; if v > s.fastmax[k as usize].0 { s.fastmax[k as usize] = (v, del) } }
                _ => { let v = s.newver(n); s.wm[n] = s.outbox[n].iter().map(|x| x.0 - 1).min().unwrap_or(v).min(v).max(s.wm[n]); }
            }
        } else if x < 940 {
            let n = s.slot();
            if s.up(n) { s.flush(n); }
        } else if x < 960 {
            if !s.done_fast.is_empty() { let i = s.rng.below(s.done_fast.len()); let (n, v) = s.done_fast.remove(i); if s.rng.pct(80.0) { s.outbox[n].retain(|x| x.0 != v) } }
        } else if x < 980 {
            if s.rng.pct(pcrash * 20.0) { let n = s.slot(); if s.dead >> n & 1 == 0 && s.frozen[n] <= s.t { s.crash(n); let d = s.rng.below(120) as u64; s.down[n] = s.t + d; } }
            if s.rng.pct(pslow * 20.0) { let n = s.slot(); s.slow[n] = s.t + s.rng.below(900) as u64; }
        } else {
            if s.rng.pct(psrc * 30.0) || !matches!(s.cur(), Cfg::Stable(_)) { s.source(); }
            if force && s.rng.pct(10.0) {
                // one or two die for good; two stay, at least, of those who count
                let m = match s.cur() { Cfg::Stable(a) => a, Cfg::Joint(a, b) => a | b, Cfg::Forced(a, b, lost) => (a | b) & !lost };
                for _ in 0..2 {
                    let n = s.rng.below(POOL);
                    if m >> n & 1 == 1 && s.dead.count_ones() < 4 && (m & !s.dead & !(1 << n)).count_ones() >= 2 { s.dead |= 1 << n; s.nodes[n].rounds.clear(); }
                }
            }
            if perm && s.rng.pct(4.0) {
                if let Cfg::Stable(a) = s.cur() { if a & s.dead == 0 && s.dead.count_ones() < 4 { let n = s.slot(); if a >> n & 1 == 1 { s.dead |= 1 << n; s.nodes[n].rounds.clear(); } } }
            }
        }
    }
    // heal
    let t = s.t; for i in 0..=POOL { s.down[i] = t; s.slow[i] = t; if s.clocks && i < POOL && s.is_wrong(i) { s.set_right(i) } }
    s.parted = 0; s.healed = true;
    if !s.settle() { s.st.stuck += 1; if std::env::var("STUCK").is_ok() { println!("STUCK seed {seed} cur {:?} ep {} acks {:b} dead {:b} net {}", s.cur(), s.hist.len(), s.acks, s.dead, s.net.len()); for n in &s.nodes { println!("  n{} e{} rounds {:?} scan {:?} outbox {:?}", n.id, n.epoch, n.rounds, n.scan, s.outbox[n.id as usize]) } } }
    else {
        let m = match s.cur() { Cfg::Stable(m) => m, _ => 0 };
        for k in 0..sk() { for n in 0..POOL { if m >> n & 1 == 1 && s.dead >> n & 1 == 0 && s.nodes[n].round(k).is_none() { s.client(n, k, Op::Read); s.drain(); } } }
        s.settle();
        if s.fast_on {
            for k in sk()..keys() {
                let lead = s.r.rset(k, m)[0] as usize;
                for _ in 0..30 { s.act(lead, |nd, e, o| { nd.abort_scrub(k); if nd.round(k).is_none() { nd.start(0, k, Op::Scrub, e, o) } }); s.drain(); if s.nodes[lead].round(k).is_none() { break; } }
                let states: Vec<Option<(Ballot, Val)>> = s.r.rset(k, m).iter().map(|n| s.nodes[*n as usize].ent(k).map(|e| (e.acc, e.val))).collect();
                let vals: Vec<Option<u32>> = states.iter().map(|x| x.and_then(|y| y.1.cur())).collect();
                let (v, del) = if s.clocks { s.fasts.iter().filter(|f| f.1 == k).map(|f| (f.0, f.2)).max().unwrap_or((0, true)) } else { s.fastmax[k as usize] };
                let want = if v == 0 || del { None } else { Some(v) };
                if vals.iter().any(|x| *x != want) { return (Err(format!("fast key {k}: want {:?} have {:?}", want, states)), s.st); }
            }
        }
    }
    if let Some(e) = s.err { return (Err(e), s.st); }
    for k in 0..sk() {
        if s.broken[k as usize] { continue; }
        match lin::check(&s.recs[k as usize], 400_000) {
            Some(true) => {}
            None => s.st.gaveup += 1,
            Some(false) => {
                let mut e = format!("key {k} not linearizable:\n");
                for r in &s.recs[k as usize] { e += &format!("  n{} {:?} inv {} ret {:?}\n", r.node, r.op, r.inv, r.ret); }
                return (Err(e), s.st);
            }
        }
    }
    (Ok(()), s.st)
}
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let name = &a[1];
    let rf: usize = a[2].parse().unwrap();
    let from: u64 = a[3].parse().unwrap();
    let n: u64 = a[4].parse().unwrap();
    let stop: u64 = a.get(5).map(|x| x.parse().unwrap()).unwrap_or(1);
    let steps: usize = a.get(6).map(|x| x.parse().unwrap()).unwrap_or(5000);
    let trace = a.get(7).is_some();
    if let Ok(x) = std::env::var("NKEYS") { NSK.store(x.parse().unwrap(), Relaxed) }
    let r = scen::rules(name, rf);
    let mut tot = Stats::default();
    let mut bad = 0;
    let mut firsts = vec![];
    let t0 = std::time::Instant::now();
    let mut ran = 0;
    for seed in from..from + n {
        let (res, st) = run(&r, name, seed, trace, steps);
        ran += 1;
        macro_rules! add { ($($f:ident),*) => { $( tot.$f += st.$f; )* } }
        add!(ops, ok, refused, unknown, reconf, drops, crashes, msgs, fast, stuck, gaveup, piggy, rejoin, bulk, rolled, twins, outs, taken, unadm, expired, jumps, forces, back, forced, broken);
        if let Err(e) = res {
            bad += 1;
            firsts.push(seed);
            if bad == 1 { println!("[{name} rf{rf}] seed {seed}: {e}"); }
            if bad >= stop { break; }
        }
    }
    println!("SIM {name} rf{rf} seeds {ran} violations {bad} first {:?} {:.0}s {:?}", firsts.iter().take(3).collect::<Vec<_>>(), t0.elapsed().as_secs_f64(), tot);
}
