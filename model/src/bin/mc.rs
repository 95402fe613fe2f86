use nomad_model::{proto::*, scen};
use stateright::semantics::{ConsistencyTester, LinearizabilityTester, SequentialSpec};
use stateright::{Checker, Model, Property};
use std::sync::Arc;

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Reg(Option<u32>);
impl SequentialSpec for Reg {
    type Op = Op;
    type Ret = Ret;
    fn invoke(&mut self, op: &Op) -> Ret {
        let s = self.0.map(Val::Live).unwrap_or(Val::Absent);
        let (nv, ret) = apply(*op, s);
        if let Some(v) = nv { self.0 = v.cur(); }
        ret
    }
}
type Hist = LinearizabilityTester<u8, Reg>;
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct St {
    nodes: Vec<Arc<Node>>,
    net: Vec<Msg>,
    cur: u8,
    acks: Set,
    hist: Arc<Hist>,
    bad: bool,
    started: u16,
    done: u16,
    retries: Vec<u8>,
    crashes: u8,
    scrubs: u8,
    drops: u8,
}
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Act { Deliver(Msg), DeliverLost(Msg), Start(u8), Retry(Nid), Poll(Nid), Source, Crash(Nid), Amnesia(Nid), Scrub(Nid) }
struct M {
    r: Rules,
    hist: Vec<Cfg>,
    n: usize,
    ops: Vec<(Nid, Op, Option<u8>, u16)>, // node, op, only after that op returned, only when the source is at >= epoch
    retries: Vec<u8>, // per node
    crashes: u8,
    amnesia: bool,
    crash_nodes: Set,
    scrubs: u8,
    scrub_nodes: Set,
    eager: bool,
    gc: bool,
    unreach: bool,
}
impl M {
    fn env<'a>(&'a self, _s: &St) -> Env<'a> { Env { r: &self.r, hist: &self.hist, due: &[] } }
    fn run(&self, s: &mut St, n: Nid, first: Vec<Out>, lose: bool) {
        let mut q: Vec<(Nid, Out)> = first.into_iter().map(|o| (n, o)).collect();
        let mut lose = lose;
        let mut i = 0;
        while i < q.len() {
            let (n, o) = q[i].clone();
            i += 1;
            match o {
                Out::Send(m) => {
                    let reply = matches!(m.body, Body::Promise { .. } | Body::Accepted { .. } | Body::ReadR { .. } | Body::ListR { .. });
                    if matches!(m.body, Body::Conflict { .. } | Body::Stale) { continue; }
                    if self.eager && (m.to == m.from || reply) {
                        if reply && m.to != m.from && lose { lose = false; continue; }
                        let mut out = vec![];
                        let mut nd = (*s.nodes[m.to as usize]).clone();
                        nd.on_msg(&m, &self.env(s), &mut out);
                        s.nodes[m.to as usize] = Arc::new(nd);
                        q.extend(out.into_iter().map(|o| (m.to, o)));
                    } else if let Err(p) = s.net.binary_search(&m) { s.net.insert(p, m); }
                }
                Out::Done { opid, ret, .. } => {
                    if opid == 0 { continue; }
                    let i = (opid - 1) as u8;
                    if ret == Ret::Unknown { continue; }
                    s.done |= 1 << i;
                    let mut h = (*s.hist).clone();
                    let r = h.on_return(i, ret).is_ok();
                    assert!(r);
                    s.bad |= !h.is_consistent();
                    s.hist = Arc::new(h);
                }
                Out::Bulk | Out::Ended { .. } => {}
                Out::ScanAck { epoch } => if epoch == s.cur as u16 + 1 { s.acks |= 1 << n },
                Out::DropReady { key, b, .. } => {
                    s.drops += 1;
                    let mut o2 = vec![];
                    s.nodes[n as usize].send_drop(key, b, &self.env(s), &mut o2);
                    q.extend(o2.into_iter().map(|o| (n, o)));
                }
            }
        }
        if self.gc { self.collect(s); }
    }
    fn collect(&self, s: &mut St) {
        let nodes = s.nodes.clone();
        s.net.retain(|m| {
            let to = &nodes[m.to as usize];
            let fr = &nodes[m.from as usize];
            if m.epoch < to.epoch { return false; }
            match m.body {
                Body::Prepare { b } => b > to.promised(m.key),
                Body::Accept { b, .. } => b >= to.promised(m.key),
                Body::ReadQ { rid } => fr.round(m.key).map(|r| r.b == rid && matches!(r.phase, Phase::Rd(_))).unwrap_or(false),
                Body::Promise { b, .. } => to.round(m.key).map(|r| r.b == b && matches!(&r.phase, Phase::P1(p) if p.iter().all(|x| x.0 != m.from))).unwrap_or(false),
                Body::Accepted { b } => to.round(m.key).map(|r| r.b == b && matches!(&r.phase, Phase::P2{acks, ..} if acks >> m.from & 1 == 0)).unwrap_or(false),
                Body::ReadR { rid, .. } => to.round(m.key).map(|r| r.b == rid && matches!(&r.phase, Phase::Rd(p) if p.iter().all(|x| x.0 != m.from))).unwrap_or(false),
                _ => true,
            }
        });
    }
    fn on<F: FnOnce(&mut Node, &Env, &mut Vec<Out>)>(&self, s: &mut St, n: Nid, lose: bool, f: F) {
        let mut out = vec![];
        let mut nd = (*s.nodes[n as usize]).clone();
        f(&mut nd, &self.env(s), &mut out);
        s.nodes[n as usize] = Arc::new(nd);
        self.run(s, n, out, lose);
    }
}
impl Model for M {
    type State = St;
    type Action = Act;
    fn init_states(&self) -> Vec<St> {
        vec![St { nodes: (0..self.n).map(|i| Arc::new(Node::new(i as u8, 1))).collect(), net: vec![], cur: 0, acks: 0, hist: Arc::new(LinearizabilityTester::new(Reg(None))), bad: false, started: 0, done: 0, retries: vec![0; self.n], crashes: 0, scrubs: 0, drops: 0 }]
    }
    fn actions(&self, s: &St, a: &mut Vec<Act>) {
        if s.bad { return; }
        for (i, (n, _, after, ep)) in self.ops.iter().enumerate() {
            if s.started >> i & 1 == 0 && s.nodes[*n as usize].round(0).is_none() && after.map(|x| s.done >> x & 1 == 1).unwrap_or(true) && s.cur as u16 + 1 >= *ep { a.push(Act::Start(i as u8)) }
        }
        for m in &s.net {
            a.push(Act::Deliver(*m));
            if self.eager && !matches!(m.body, Body::Drop { .. }) { a.push(Act::DeliverLost(*m)); }
        }
        for n in 0..self.n as u8 {
            let nd = &s.nodes[n as usize];
            if s.retries[n as usize] < self.retries[n as usize] && nd.round(0).is_some() { a.push(Act::Retry(n)) }
            if (nd.epoch as u8) < s.cur + 1 { a.push(Act::Poll(n)) }
            if s.crashes < self.crashes && self.crash_nodes >> n & 1 == 1 { a.push(if self.amnesia { Act::Amnesia(n) } else { Act::Crash(n) }) }
            if s.scrubs < self.scrubs && self.scrub_nodes >> n & 1 == 1 && nd.round(0).is_none() && nd.ent(0).map(|e| e.acc > ZERO && !matches!(e.val, Val::Live(_))).unwrap_or(false) && matches!(self.hist[nd.epoch as usize - 1], Cfg::Stable(_)) { a.push(Act::Scrub(n)) }
        }
        if (s.cur as usize) + 1 < self.hist.len() {
            match self.hist[s.cur as usize] {
                Cfg::Joint(x, _) => if self.r.acked_enough(1, x, s.acks) { a.push(Act::Source) },
                _ => a.push(Act::Source),
            }
        }
    }
    fn next_state(&self, l: &St, a: Act) -> Option<St> {
        let mut s = l.clone();
        match a {
            Act::Deliver(m) => self.on(&mut s, m.to, false, |nd, e, o| nd.on_msg(&m, e, o)),
            Act::DeliverLost(m) => self.on(&mut s, m.to, true, |nd, e, o| nd.on_msg(&m, e, o)),
            Act::Start(i) => {
                let (n, op, _, _) = self.ops[i as usize];
                s.started |= 1 << i;
                let mut h = (*s.hist).clone();
                assert!(h.on_invoke(i, op).is_ok());
                s.hist = Arc::new(h);
                self.on(&mut s, n, false, |nd, e, o| nd.start(i as u32 + 1, 0, op, e, o));
            }
            Act::Retry(n) => { s.retries[n as usize] += 1; self.on(&mut s, n, false, |nd, e, o| { nd.abort_scrub(0); nd.retry(0, e, o) }) }
            Act::Poll(n) => { let e1 = if self.r.in_order { s.nodes[n as usize].epoch + 1 } else { s.cur as u16 + 1 }; self.on(&mut s, n, false, |nd, e, o| nd.adopt(e1, e, o)) }
            Act::Source => { s.cur += 1; s.acks = 0; }
            Act::Crash(n) => { s.crashes += 1; self.on(&mut s, n, false, |nd, e, o| { nd.crash(e, 1); nd.kick(e, o) }) }
            Act::Amnesia(n) => { s.crashes += 1; self.on(&mut s, n, false, |nd, _, _| nd.amnesia()) }
            Act::Scrub(n) => { s.scrubs += 1; self.on(&mut s, n, false, |nd, e, o| nd.start(0, 0, Op::Scrub, e, o)) }
        }
        if s == *l { None } else { Some(s) }
    }
    fn properties(&self) -> Vec<Property<Self>> {
        let mut v = vec![Property::<Self>::always("linearizable", |_, s: &St| !s.bad)];
        if self.unreach {
            v.push(Property::<Self>::sometimes("all ops returned in the last epoch", |m: &M, s: &St| s.done.count_ones() as usize == m.ops.len() && s.cur as usize + 1 == m.hist.len()));
        }
        v
    }
}
fn model(name: &str, rules: &str) -> M {
    let base = |rf: usize| { let mut r = scen::rules(rules, rf); r.rank = id_rank; r.silent = true; r };
    let mut m = M { r: base(3), hist: vec![Cfg::Stable(0b111)], n: 3, ops: vec![], retries: vec![1, 1, 1, 1], crashes: 0, amnesia: false, crash_nodes: 0xff, scrubs: 0, scrub_nodes: 0xff, eager: true, gc: true, unreach: true };
    let rc3 = vec![Cfg::Stable(0b0111), Cfg::Joint(0b0111, 0b1110), Cfg::Stable(0b1110)]; // 0 -> 3
    let rc3b = vec![Cfg::Stable(0b1110), Cfg::Joint(0b1110, 0b0111), Cfg::Stable(0b0111)];
    let rc2 = vec![Cfg::Stable(0b011), Cfg::Joint(0b011, 0b110), Cfg::Stable(0b110)];
    let _ = &rc3b;
    use Op::*;
    match name {
        // ---- no reconfiguration
        "cc" => m.ops = vec![(0, Create(1), None, 0), (1, Create(2), None, 0)],
        "ccr" => m.ops = vec![(0, Create(1), None, 0), (1, Create(2), None, 0), (2, Read, None, 0)],
        "ccr-full" => { m.ops = vec![(0, Create(1), None, 0), (1, Create(2), None, 0), (2, Read, None, 0)]; m.eager = false; m.retries = vec![0, 0, 0] }
        "cc-full" => { m.ops = vec![(0, Create(1), None, 0), (1, Create(2), None, 0)]; m.eager = false; m.retries = vec![1, 0, 0] }
        "casdel" => m.ops = vec![(0, Create(1), None, 0), (1, Cas(1, 2), None, 0), (2, Delete(3), None, 0)],
        "crr" => m.ops = vec![(0, Create(1), None, 0), (1, Read, None, 0), (2, Read, Some(1), 0)],
        "piggy" => { m.ops = vec![(0, Create(1), None, 0), (0, Cas(1, 2), Some(0), 0), (1, Put(3), None, 0), (2, Read, None, 0)]; m.retries = vec![1, 1, 0] }
        "crash" => { m.ops = vec![(0, Create(1), None, 0), (1, Create(2), None, 0), (0, Read, None, 0)]; m.crashes = 1; m.crash_nodes = 0b011; m.retries = vec![1, 1, 0] }
        "ctr" => { m.ops = vec![(0, Put(1), None, 0), (1, Read, None, 0), (0, Put(3), None, 0), (2, Read, Some(1), 0)]; m.crashes = 1; m.crash_nodes = 1; m.retries = vec![0, 1, 1]; m.eager = false; m.gc = false; m.r.fast_read = true }
        // ---- one reconfiguration
        "rc2" => { m.r = base(2); m.hist = rc2; m.ops = vec![(0, Create(1), None, 0), (2, Create(2), None, 0)]; m.retries = vec![0, 1, 1] }
        "rc2-r" => { m.r = base(2); m.hist = rc2; m.ops = vec![(0, Create(1), None, 0), (2, Read, None, 0), (1, Read, Some(1), 0)]; m.retries = vec![1, 0, 0] }
        "rc3" => { m.hist = rc3; m.n = 4; m.ops = vec![(0, Create(1), None, 0), (3, Create(2), None, 0)]; m.retries = vec![0, 0, 0, 0] }
        "rc3-r" => { m.hist = rc3; m.n = 4; m.ops = vec![(1, Create(1), None, 0), (3, Read, None, 0)]; m.retries = vec![0, 0, 0, 0] }
        "rc3-1" => { m.hist = rc3; m.n = 4; m.ops = vec![(1, Create(1), None, 0), (3, Create(2), None, 3)]; m.retries = vec![0, 0, 0, 0] }
        // stale minority with a high ballot that never acknowledged
        "minority" => { m.hist = rc3; m.n = 4; m.ops = vec![(2, Create(1), None, 0), (1, Create(2), None, 3), (3, Read, Some(1), 3)]; m.retries = vec![0, 0, 0, 1] }
        // piggyback across epochs (brief: same epoch only)
        "piggyrc" => { m.r = base(2); m.hist = rc2; m.ops = vec![(1, Put(1), None, 0), (2, Put(2), None, 3), (1, Cas(1, 3), Some(0), 0)]; m.retries = vec![0, 0, 1] }
        // ---- there and back again, with a delete and a removal
        "back" => { m.r = base(2); m.hist = vec![Cfg::Stable(0b011), Cfg::Joint(0b011, 0b110), Cfg::Stable(0b110), Cfg::Joint(0b110, 0b011), Cfg::Stable(0b011)]; m.ops = vec![(1, Create(1), None, 0), (1, Delete(2), Some(0), 3), (2, Read, Some(1), 5)]; m.retries = vec![0; 3]; m.scrubs = 1; m.scrub_nodes = 0b110; }
        // ---- removal inside one epoch
        "drop" => { m.ops = vec![(0, Create(1), None, 0), (0, Delete(2), Some(0), 0), (1, Create(3), None, 0), (2, Read, None, 0)]; m.retries = vec![0, 1, 1]; m.scrubs = 1; m.scrub_nodes = 1 }
        "drop2" => { m.ops = vec![(0, Create(1), None, 0), (0, Delete(2), Some(0), 0), (1, Create(3), Some(1), 0), (2, Create(4), Some(1), 0)]; m.retries = vec![0, 1, 1]; m.scrubs = 1; m.scrub_nodes = 1; m.r.piggy = false }
        // ---- bulk: key exists from an earlier epoch, primary 0 missed it (config change that does not touch R(K))
        "bulk" => { m.r = base(3); m.n = 4; m.hist = vec![Cfg::Stable(0b0111), Cfg::Joint(0b0111, 0b1111), Cfg::Stable(0b1111)]; m.ops = vec![(1, Create(1), None, 0), (0, Create(2), Some(0), 3), (2, Read, Some(0), 3)]; m.retries = vec![0, 0, 1, 0]; }
        "bulk1" => { m.ops = vec![(1, Create(1), None, 0), (0, Create(2), None, 0), (2, Read, None, 0)]; m.retries = vec![1, 1, 1]; }
        "bulkdrop" => { m.ops = vec![(0, Create(1), None, 0), (1, Delete(2), Some(0), 0), (0, Create(3), Some(1), 0), (2, Read, None, 0)]; m.retries = vec![0, 1, 1]; m.scrubs = 1; m.scrub_nodes = 2 }
        // two of three replicas replaced; node 2 keeps the undropped tombstone
        "ndrop5" => { m.n = 5; m.hist = vec![Cfg::Stable(0b00111), Cfg::Joint(0b00111, 0b11100), Cfg::Stable(0b11100)]; m.ops = vec![(0, Create(1), None, 0), (0, Delete(2), Some(0), 0), (3, Create(3), Some(1), 3), (3, Read, Some(2), 3)]; m.retries = vec![0, 0, 0, 2, 0]; m.scrubs = 1; m.scrub_nodes = 1; }
        "dead5" => { m.n = 5; m.hist = vec![Cfg::Stable(0b00111), Cfg::Joint(0b00111, 0b11100), Cfg::Stable(0b11100)]; m.ops = vec![(0, Create(1), None, 0), (1, Delete(2), None, 0), (3, Read, Some(1), 3)]; m.retries = vec![0; 5]; m.scrubs = 1; m.scrub_nodes = 2; }
        "ctr2" => { m.ops = vec![(0, Put(1), None, 0), (0, Put(3), Some(0), 0)]; m.crashes = 1; m.crash_nodes = 1; m.retries = vec![0, 0, 0]; m.eager = false; m.gc = false }
        "bulk5" => { fn rev(_k: Key, n: Nid) -> u64 { 100 - n as u64 } m.r.rank = rev; m.n = 5; m.hist = vec![Cfg::Stable(0b00111), Cfg::Joint(0b00111, 0b11100), Cfg::Stable(0b11100)]; m.ops = vec![(0, Create(1), None, 0), (0, Delete(2), Some(0), 0), (4, Create(3), Some(1), 3), (4, Read, Some(2), 3)]; m.retries = vec![0, 0, 0, 0, 2]; m.scrubs = 1; m.scrub_nodes = 1; }
        "piggy5" => { m.n = 5; m.hist = vec![Cfg::Stable(0b00111), Cfg::Joint(0b00111, 0b11100), Cfg::Stable(0b11100)]; m.ops = vec![(0, Create(1), None, 0), (0, Delete(2), Some(0), 0), (0, Create(3), Some(1), 3), (3, Create(4), Some(1), 3)]; m.retries = vec![0; 5]; m.scrubs = 1; m.scrub_nodes = 1; }
        "amnesia" => { m.ops = vec![(0, Create(1), None, 0), (2, Create(2), None, 0)]; m.retries = vec![0, 0, 0]; m.crashes = 1; m.amnesia = true; m.crash_nodes = 0b010 }
        _ => panic!("model {name}"),
    }
    if matches!(rules, "nodurable" | "nodurable-ctr" | "nodurable-epoch" | "noepoch" | "amnesia" | "drop-nofloor" | "drop-flooracc" | "drop-majority") || rules.starts_with("bulk") { m.gc = false }
    m
}
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let (name, rules) = (&a[1], &a[2]);
    let max: usize = a.get(3).map(|x| x.parse().unwrap()).unwrap_or(20_000_000);
    let mode = a.get(4).map(|x| x.as_str()).unwrap_or("bfs");
    let t0 = std::time::Instant::now();
    let mut m = model(name, rules);
    if mode == "find" { m.unreach = false }
    if std::env::var("FULL").is_ok() { m.eager = false }
        macro_rules! report { ($c:expr) => {{
        let c = $c;
        let full = c.state_count() < max;
        println!("MC {name} {rules} {mode}: unique {} generated {} depth {} {} {:.0}s {}", c.unique_state_count(), c.state_count(), c.max_depth(), if full { "COMPLETE" } else { "bounded" }, t0.elapsed().as_secs_f64(),
            c.discoveries().iter().map(|(n, p)| format!("[{n}: {} steps]", p.clone().into_actions().len())).collect::<String>());
        if let Some(p) = c.discovery("linearizable") {
            println!("  VIOLATION");
            for x in p.into_actions() { println!("    {:?}", x); }
        }
    }} }
    if mode == "script" {
        let mut s = m.init_states().remove(0);
        for tok in a[5].split_whitespace() {
            let c: Vec<char> = tok.chars().collect();
            let d = |i: usize| c[i].to_digit(10).unwrap() as u8;
            let mut acts = vec![];
            m.actions(&s, &mut acts);
            let f = acts.iter().rev().find(|x| match (c[0], x) {
                ('S', Act::Start(i)) => *i == d(1),
                ('N', Act::Source) => true,
                ('P', Act::Poll(n)) => *n == d(1),
                ('D', Act::Deliver(q)) if c[4] == 'K' => q.from == d(1) && q.to == d(3) && q.body == Body::ListQ,
                ('C', Act::Scrub(n)) => *n == d(1),
                ('R', Act::Retry(n)) => *n == d(1),
                ('D', Act::Deliver(q)) | ('L', Act::DeliverLost(q)) => q.from == d(1) && q.to == d(3) && match (c[4], q.body) { ('P', Body::Prepare { .. }) | ('A', Body::Accept { .. }) | ('Q', Body::ReadQ { .. }) | ('X', Body::Drop { .. }) => true, _ => false },
                _ => false,
            }).copied();
            match f { None => println!("    {tok}: not enabled"), Some(x) => { match m.next_state(&s, x) { Some(n) => s = n, None => println!("    {tok}: no effect") } println!("    {:?} done {:b} bad {}", x, s.done, s.bad); if s.bad { break } } }
        }
        println!("SCRIPT {name} {rules}: {}", if s.bad { "VIOLATION" } else { "ok" });
        return;
    }
    let b = m.checker().threads(1).target_state_count(max);
    match mode {
        "dfs" => report!(b.spawn_dfs().join()),
        "sim" => report!(b.spawn_simulation(7, stateright::UniformChooser).join()),
        _ => report!(b.spawn_bfs().join()),
    }
}
