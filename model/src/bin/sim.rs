use nomad_model::{lin, proto::*, scen};
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
const POOL: usize = 9;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
static NSK: AtomicU8 = AtomicU8::new(4); // strict keys; two fast keys follow
fn sk() -> u8 { NSK.load(Relaxed) }
fn keys() -> u8 { sk() + 2 }
#[derive(Default, Clone, Debug)]
struct Stats { ops: u64, ok: u64, refused: u64, unknown: u64, reconf: u64, drops: u64, crashes: u64, msgs: u64, fast: u64, stuck: u64, gaveup: u64, piggy: u64, rejoin: u64, bulk: u64, forces: u64, back: u64, forced: u64, broken: u64 }
struct Sim<'a> {
    rng: Rng, r: &'a Rules, name: &'a str, hist: Vec<Cfg>, nodes: Vec<Node>, down: Vec<u64>, slow: Vec<u64>, dead: Set,
    net: Vec<Msg>, recs: Vec<Vec<lin::Rec>>, ops: Vec<(Key, usize)>, acks: Set, t: u64, st: Stats,
    vers: Vec<u32>, outbox: Vec<Vec<(u32, Key, bool)>>, done_fast: Vec<(usize, u32)>, hlc: Vec<u32>, wm: Vec<u32>, fastmax: Vec<(u32, bool)>, skew: Vec<u32>,
    trace: bool, lossless: bool, fast_on: bool, ever: Set, force: bool, broken: Vec<bool>,
}
impl<'a> Sim<'a> {
    fn cur(&self) -> Cfg { *self.hist.last().unwrap() }
    fn run_out(&mut self, n: usize, out: Vec<Out>) {
        for o in out {
            if self.trace { match &o { Out::Send(m) => println!("   {:?}", m), x => println!("   n{n} {:?}", x) } }
            match o {
                Out::Send(m) => self.net.push(m),
                Out::Bulk => self.st.bulk += 1,
                Out::Done { opid, op, ret, .. } => {
                    if let Op::Lww(v, _) = op { self.done_fast.push((n, v)); continue; }
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
                Out::ScanAck { epoch } => if epoch as usize == self.hist.len() { self.acks |= 1 << n },
                Out::DropReady { key, b, val } => {
                    let go = key < sk() || self.name == "fast-nowm" || (0..POOL).all(|i| self.wm[i] >= val.ver());
                    if go {
                        self.st.drops += 1;
                        let mut o2 = vec![];
                        self.nodes[n].send_drop(key, b, &Env { r: self.r, hist: &self.hist }, &mut o2);
                        for o in o2 { if let Out::Send(m) = o { self.net.push(m) } }
                    }
                }
            }
        }
    }
    fn act<F: FnOnce(&mut Node, &Env, &mut Vec<Out>)>(&mut self, n: usize, f: F) {
        self.t += 1;
        let mut out = vec![];
        f(&mut self.nodes[n], &Env { r: self.r, hist: &self.hist }, &mut out);
        self.run_out(n, out);
    }
    fn deliver(&mut self, i: usize, keep: bool) {
        let m = if keep { self.net[i] } else { self.net.swap_remove(i) };
        self.st.msgs += 1;
        if self.trace { println!("{} deliver {:?}", self.t, m); }
        self.act(m.to as usize, |nd, e, o| nd.on_msg(&m, e, o));
    }
    fn client(&mut self, n: usize, k: Key, op: Op) {
        let id = self.ops.len() as u32;
        self.t += 1;
        self.recs[k as usize].push(lin::Rec { op, node: n as u8, inv: self.t, ret: None });
        self.ops.push((k, self.recs[k as usize].len() - 1));
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
        self.done_fast.retain(|x| x.0 != n);
    }
    fn up(&self, n: usize) -> bool { self.dead >> n & 1 == 0 && self.down[n] <= self.t && self.slow[n] <= self.t }
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
            if self.dead >> self.net[i].to & 1 == 1 { self.net.swap_remove(i); continue; }
            self.deliver(i, false); }
    }
    fn poll_all(&mut self) { for n in 0..POOL { if self.dead >> n & 1 == 0 { let h = self.hist.len() as u16; self.act(n, |nd, e, o| nd.adopt(h, e, o)); } } }
    fn settle(&mut self) -> bool {
        for _ in 0..60 {
            self.poll_all();
            self.drain();
            match self.cur() { Cfg::Stable(a) => if self.force && a & self.dead != 0 { self.source() }, _ => self.source() }
            let mut busy = false;
            for n in 0..POOL {
                if self.dead >> n & 1 == 1 { continue; }
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
        let now = self.t as u32 + self.skew[n];
        let h = (self.hlc[n] >> 4).max(now) + 1;
        self.hlc[n] = h << 4 | n as u32;
        self.hlc[n]
    }
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
    let force = name.contains("force");
    let mut s = Sim { rng, r, name, hist: vec![Cfg::Stable(m0)], nodes: (0..POOL).map(|i| Node::new(i as u8, 1)).collect(), down: vec![0; POOL], slow: vec![0; POOL], dead: 0, net: vec![], recs: vec![vec![]; sk() as usize], ops: vec![(0, 0)], acks: 0, t: 0, st: Stats::default(), vers: vec![], outbox: vec![vec![]; POOL], done_fast: vec![], hlc: vec![0; POOL], wm: vec![0; POOL], fastmax: vec![(0, true); keys() as usize], skew: (0..POOL).map(|i| (i as u32 * 37) % 100).collect(), trace, lossless: false, force, broken: vec![false; sk() as usize], fast_on: !perm && !force && name != "amnesia" && name != "nodurable", ever: m0 };
    let _ = (&s.vers, s.lossless);
    let mut burst = true; let mut next = 0usize;
    for step in 0..steps {
        if step >= next { burst = !burst; next = step + if burst { 20 + s.rng.below(60) } else { s.rng.below(steps / 12 + 1) }; }
        let x = s.rng.below(1000);
        if x < 640 {
            if s.net.is_empty() { continue; }
            let i = s.rng.below(s.net.len());
            let m = s.net[i];
            let (f, t) = (m.from as usize, m.to as usize);
            if s.dead >> t & 1 == 1 { s.net.swap_remove(i); continue; }
            if s.rng.pct(loss) { s.net.swap_remove(i); continue; }
            if s.down[t] > s.t { if s.rng.pct(50.0) { s.net.swap_remove(i); } s.t += 1; continue; }
            if (s.slow[t] > s.t || s.slow[f] > s.t) && !s.rng.pct(3.0) { s.t += 1; continue; }
            let keep = s.rng.pct(dup);
            s.deliver(i, keep);
        } else if x < 740 {
            let n = s.rng.below(POOL);
            if !burst { continue; }
            let k = if hot && s.rng.pct(70.0) { 0 } else { s.rng.below(sk() as usize) as u8 };
            let mut n = n; let mut force = false;
            if bulk && s.rng.pct(60.0) { if let Cfg::Stable(m) = s.cur() { n = s.r.rset(k, m)[0] as usize; force = s.rng.pct(70.0) && s.nodes[n].ent(k).is_none(); } }
            if !s.up(n) || s.nodes[n].round(k).is_some() || s.recs[k as usize].len() >= maxops { continue; }
            if s.rng.pct(50.0) && s.cur() != Cfg::Stable(0) { let m = match s.cur() { Cfg::Stable(a) => a, Cfg::Joint(a, b) => a | b, Cfg::Forced(a, b, lost) => (a | b) & !lost }; if m >> n & 1 == 0 { continue; } }
            let v = s.ops.len() as u32;
            let op = if force { Op::Create(v) } else { match s.rng.below(13) { 0 | 1 => Op::Create(v), 12 => Op::Delete(v), 2 => Op::Put(v), 3 => Op::Update(v), 4 | 5 => Op::Delete(v), 6 | 7 => {
                let known: Vec<u32> = s.recs[k as usize].iter().filter_map(|r| match r.ret { Some((_, Ret::Value(Some(x)))) | Some((_, Ret::Refused(Some(x)))) => Some(x), Some((_, Ret::Ok(_))) => match r.op { Op::Create(x) | Op::Put(x) | Op::Update(x) | Op::Cas(_, x) => Some(x), _ => None }, _ => None }).collect();
                if known.is_empty() { Op::Create(v) } else { Op::Cas(known[known.len() - 1 - s.rng.below(known.len().min(3))], v) } }, _ => Op::Read } };
            s.client(n, k, op);
            // sometimes a burst on the same node to exercise the piggyback path happens naturally with hot keys
        } else if x < 800 {
            // timeout
            let n = s.rng.below(POOL);
            if !s.up(n) || s.nodes[n].rounds.is_empty() { continue; }
            let i = s.rng.below(s.nodes[n].rounds.len());
            let (k, r2) = s.nodes[n].rounds[i].clone();
            let parked = r2.phase == Phase::Parked;
            if parked || s.rng.pct(15.0) { s.act(n, |nd, e, o| { nd.abort_scrub(k); nd.retry(k, e, o); nd.kick(e, o) }); }
        } else if x < 830 {
            let n = s.rng.below(POOL);
            if s.up(n) { let h = s.hist.len() as u16; if s.rng.pct(30.0) { s.act(n, |nd, e, o| { nd.adopt(h, e, o); nd.kick(e, o); nd.pull_start(e, o) }); } }
        } else if x < 870 {
            if burst && s.rng.pct(70.0) { continue; }
            if s.r.drop == DropRule::Off { continue; }
            let mut el = vec![];
            for n in 0..POOL { if s.up(n) && matches!(s.hist[s.nodes[n].epoch as usize - 1], Cfg::Stable(_)) { for k in 0..keys() { if s.nodes[n].round(k).is_none() && s.nodes[n].ent(k).map(|e| e.acc > ZERO && !matches!(e.val, Val::Live(_))).unwrap_or(false) { el.push((n, k)) } } } }
            if el.is_empty() { continue; }
            let (n, k) = el[s.rng.below(el.len())];
            s.act(n, |nd, e, o| nd.start(0, k, Op::Scrub, e, o));
        } else if x < 900 {
            if !s.fast_on { continue; }
            let n = s.rng.below(POOL);
            let k = sk() + s.rng.below((keys() - sk()) as usize) as u8;
            if !s.up(n) || s.st.fast > 40 { continue; }
            match s.rng.below(2) {
                0 => { let v = s.newver(n); let del = s.rng.pct(45.0); s.outbox[n].push((v, k, del)); s.st.fast += 1; if v > s.fastmax[k as usize].0 { s.fastmax[k as usize] = (v, del) } }
                _ => { let v = s.newver(n); s.wm[n] = s.outbox[n].iter().map(|x| x.0 - 1).min().unwrap_or(v).min(v).max(s.wm[n]); }
            }
        } else if x < 940 {
            let n = s.rng.below(POOL);
            if s.up(n) { s.flush(n); }
        } else if x < 960 {
            if !s.done_fast.is_empty() { let i = s.rng.below(s.done_fast.len()); let (n, v) = s.done_fast.remove(i); if s.rng.pct(80.0) { s.outbox[n].retain(|x| x.0 != v) } }
        } else if x < 980 {
            if s.rng.pct(pcrash * 20.0) { let n = s.rng.below(POOL); if s.dead >> n & 1 == 0 { s.crash(n); let d = s.rng.below(120) as u64; s.down[n] = s.t + d; } }
            if s.rng.pct(pslow * 20.0) { let n = s.rng.below(POOL); s.slow[n] = s.t + s.rng.below(900) as u64; }
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
                if let Cfg::Stable(a) = s.cur() { if a & s.dead == 0 && s.dead.count_ones() < 4 { let n = s.rng.below(POOL); if a >> n & 1 == 1 { s.dead |= 1 << n; s.nodes[n].rounds.clear(); } } }
            }
        }
    }
    // heal
    let t = s.t; for i in 0..POOL { s.down[i] = t; s.slow[i] = t; }
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
                let (v, del) = s.fastmax[k as usize];
                let want = if v == 0 || del { None } else { Some(v) };
                if vals.iter().any(|x| *x != want) { return (Err(format!("fast key {k}: want {:?} have {:?}", want, states)), s.st); }
            }
        }
    }
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
        add!(ops, ok, refused, unknown, reconf, drops, crashes, msgs, fast, stuck, gaveup, piggy, rejoin, bulk, forces, back, forced, broken);
        if let Err(e) = res {
            bad += 1;
            firsts.push(seed);
            if bad == 1 { println!("[{name} rf{rf}] seed {seed}: {e}"); }
            if bad >= stop { break; }
        }
    }
    println!("SIM {name} rf{rf} seeds {ran} violations {bad} first {:?} {:.0}s {:?}", firsts.iter().take(3).collect::<Vec<_>>(), t0.elapsed().as_secs_f64(), tot);
}
