//! What goes wrong: members are killed, stand still, stop, lose their disks, join and leave, alone and together. One thing
//! at a time, chosen by a seed; after each the members are all started again, in time.

use std::{sync::Arc, time::Duration};

use rand::{Rng as _, rngs::SmallRng, seq::IndexedRandom as _};
use serde_json::json;
use tokio::{task::JoinHandle, time::sleep};

use crate::{
    clients::Field,
    support::{
        cli,
        cluster::{Cluster, View, short},
        load::holders,
        objects::{Answer, Client, Edge, Mode, When},
        say,
    },
};

/// How long a group may take until it is whole again.
const WHOLE: Duration = Duration::from_secs(60);

/// Objects by which it is seen whether the group is whole.
const PROBES: usize = 20;

/// Something that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// One is killed, and comes back.
    Kill,
    /// The super-peer is killed, and comes back.
    KillLead,
    /// Two are killed at once, and come back.
    KillTwo,
    /// All are killed at once, and come back.
    KillAll,
    /// One stands still, and goes on.
    Pause,
    /// Two stand still, and go on.
    PauseTwo,
    /// One is stopped in order, and comes back.
    Stop,
    /// One loses its disk, and comes back as somebody else.
    Wipe,
    /// The member that comes and goes comes, or goes.
    Move,
    /// The number of replicas changes.
    Factor,
}

/// All faults, each as often as it is to come.
pub const FAULTS: [Fault; 16] = [
    Fault::Kill,
    Fault::Kill,
    Fault::Kill,
    Fault::KillLead,
    Fault::KillLead,
    Fault::KillTwo,
    Fault::KillTwo,
    Fault::KillAll,
    Fault::Pause,
    Fault::Pause,
    Fault::PauseTwo,
    Fault::Stop,
    Fault::Wipe,
    Fault::Move,
    Fault::Move,
    Fault::Factor,
];

/// Who does it.
pub struct Nemesis {
    /// The members: those that stay, and behind them the one that comes and goes.
    pub cluster: Cluster,
    /// How many stay.
    pub staying: usize,
    /// How many replicas each object has.
    pub factor: usize,
    field: Arc<Field>,
    rng: SmallRng,
    tasks: Vec<JoinHandle<()>>,
    done: Vec<Fault>,
}

impl Nemesis {
    /// Over a group that is whole.
    pub fn new(
        cluster: Cluster,
        field: Arc<Field>,
        rng: SmallRng,
        tasks: Vec<JoinHandle<()>>,
    ) -> Self {
        let staying = cluster.running().len();
        field.addresses.note(&cluster);
        Self { cluster, staying, factor: 3, field, rng, tasks, done: Vec::new() }
    }

    /// Puts the objects by which it is seen whether the group is whole.
    pub async fn probes(&self) {
        let mut client = Client::of(&self.cluster.member(0));
        for id in probes() {
            let put = client.write(Edge::Grpc, Mode::Safe, &id, "probe".into(), &When::Absent);
            assert_eq!(put.await.unwrap().answer, Answer::Created, "{id}");
        }
    }

    /// A moment between one thousandth and one of these seconds.
    async fn moment(&mut self, seconds: u64) {
        let span = Duration::from_millis(self.rng.random_range(1..=seconds * 1_000));
        sleep(span).await;
    }

    /// One of the members that stay.
    fn one(&mut self) -> usize {
        self.rng.random_range(0..self.staying)
    }

    /// Does something from the list.
    pub async fn strike(&mut self, faults: &[Fault]) {
        let fault = *faults.choose(&mut self.rng).expect("no faults");
        self.done.push(fault);
        match fault {
            Fault::Kill => {
                let victim = self.one();
                self.kill(&[victim], 2).await;
            }
            Fault::KillLead => {
                let views = self.cluster.views(self.cluster.running()).await;
                let lead = views.into_iter().flatten().find(View::leads);
                let lead = lead.map(|view| self.cluster.number(&view.id));
                let victim = lead.unwrap_or_else(|| self.one());
                self.kill(&[victim], 3).await;
            }
            Fault::KillTwo => {
                let victims = self.two();
                self.kill(&victims, 2).await;
            }
            Fault::KillAll => {
                let all = self.cluster.running();
                self.kill(&all, 1).await;
            }
            Fault::Pause => {
                let victim = self.one();
                self.pause(&[victim]).await;
            }
            Fault::PauseTwo => {
                let victims = self.two();
                self.pause(&victims).await;
            }
            Fault::Stop => {
                let victim = self.one();
                self.log(fault, &[victim]);
                self.field.addresses.forget(victim);
                self.cluster.stop(victim).await;
                self.moment(2).await;
                self.back(&[victim]).await;
            }
            Fault::Wipe => self.wipe().await,
            Fault::Move => self.come_or_go().await,
            Fault::Factor => self.refactor().await,
        }
        self.watch();
    }

    fn two(&mut self) -> [usize; 2] {
        let one = self.one();
        [one, (one + self.rng.random_range(1..self.staying)) % self.staying]
    }

    fn log(&self, fault: impl std::fmt::Debug, victims: &[usize]) {
        let at = Duration::from_nanos(self.field.book.now());
        let names: Vec<_> = victims
            .iter()
            .map(|number| format!("node {number} ({})", short(self.cluster.id(*number))))
            .collect();
        eprintln!("{:8.3} s  {fault:?} {}", at.as_secs_f64(), names.join(", "));
    }

    async fn kill(&mut self, victims: &[usize], seconds: u64) {
        self.log("kill -9", victims);
        // Clients go on asking those that are gone until they are told of others, as clients do.
        for victim in victims {
            self.cluster.kill_9(*victim);
        }
        self.moment(seconds).await;
        self.back(victims).await;
    }

    /// Starts them again. The first one's overlay address is the one that all start from, and stays.
    async fn back(&mut self, victims: &[usize]) {
        self.cluster.start(victims.iter().copied()).await;
        self.field.addresses.note(&self.cluster);
        self.log("back", victims);
    }

    async fn pause(&mut self, victims: &[usize]) {
        self.log("stands still", victims);
        for victim in victims {
            self.cluster.pause(*victim);
        }
        self.moment(4).await;
        for victim in victims {
            self.cluster.resume(*victim);
        }
        self.log("goes on", victims);
    }

    /// Waits until all members agree, and every probe is where it belongs: then a disk may be lost without that being the
    /// loss of a majority of anything.
    pub async fn whole(&self) {
        let running = self.cluster.running();
        self.cluster.agree(running.iter().copied(), WHOLE).await;
        let (http, ids) = (self.cluster.node(running[0]).http(), probes());
        let (members, factor) = (self.cluster.ids(running.iter().copied()), self.factor);
        self.cluster
            .eventually("every probe has its replicas", WHOLE, async || {
                let held = holders(&http, &ids).await;
                let right = |by: &std::collections::BTreeSet<String>| {
                    by.len() == factor.min(members.len()) && by.is_subset(&members)
                };
                held.values().all(right).then_some(())
            })
            .await;
        self.cluster.agree(running, WHOLE).await;
    }

    async fn wipe(&mut self) {
        self.whole().await;
        let victim = self.one();
        self.log("loses its disk", &[victim]);
        self.field.addresses.forget(victim);
        self.cluster.kill_9(victim);
        self.cluster.wipe(victim);
        self.field.loose.lost(victim);
        self.moment(2).await;
        self.back(&[victim]).await;
        self.whole().await;
    }

    async fn come_or_go(&mut self) {
        let guest = self.staying;
        if self.cluster.len() == self.staying {
            let builder = self.cluster.loner();
            let first = self.cluster.node(0).overlay();
            let builder = builder.arg("--bootstrap").arg(&first);
            self.cluster.add_all([builder]).await;
            self.field.addresses.note(&self.cluster);
            self.log("joins", &[guest]);
        } else if self.cluster.running().contains(&guest) {
            self.log("leaves", &[guest]);
            let ran = cli::nomad(["leave"]).on(self.cluster.node(guest)).run().await;
            self.field.addresses.forget(guest);
            eprintln!("            nomad leave: {} {}", ran.code, ran.everything().trim());
            self.cluster.kill_9(guest);
        } else {
            self.back(&[guest]).await;
        }
    }

    async fn refactor(&mut self) {
        let others: Vec<_> =
            [3, 4, 5].into_iter().filter(|factor| *factor != self.factor).collect();
        let factor = *others.choose(&mut self.rng).unwrap();
        self.whole().await;
        let asked = self.one();
        self.log(format!("{factor} replicas"), &[asked]);
        let http = self.cluster.node(asked).http();
        let body = json!({ "replicationFactor": factor });
        self.cluster
            .eventually("the factor is taken", WHOLE, async || {
                let path = "/nomad/config/groups/replication-factor";
                let answer = http.post(path, &body).await;
                (answer.status == 200).then_some(())
            })
            .await;
        self.factor = factor;
        self.whole().await;
    }

    /// Fails as soon as a client has: what comes later only hides it.
    fn watch(&self) {
        let ended = self.tasks.iter().filter(|task| task.is_finished()).count();
        assert_eq!(ended, 0, "{ended} clients met something that the contract does not allow");
    }

    /// Strikes again and again for so long, with a little peace in between.
    pub async fn rage(&mut self, faults: &[Fault], span: Duration) {
        let end = self.field.book.now() + u64::try_from(span.as_nanos()).unwrap();
        while self.field.book.now() < end {
            self.moment(2).await;
            self.strike(faults).await;
        }
        let counts =
            self.done.iter().fold(std::collections::BTreeMap::new(), |mut counts, fault| {
                *counts.entry(format!("{fault:?}")).or_insert(0) += 1;
                counts
            });
        say(&format!(
            "{} faults: {counts:?}, {} requests answered",
            self.done.len(),
            self.field.acks()
        ));
    }

    /// Ends the clients and gives the group back, whole.
    pub async fn peace(mut self) -> (Cluster, usize) {
        self.watch();
        self.field.stop();
        for task in std::mem::take(&mut self.tasks) {
            task.await.expect("a client met something that the contract does not allow");
        }
        let down: Vec<_> =
            (0..self.staying).filter(|n| !self.cluster.running().contains(n)).collect();
        self.back(&down).await;
        self.whole().await;
        (self.cluster, self.factor)
    }
}

fn probes() -> Vec<String> {
    (0..PROBES).map(|number| format!("probe/{number}")).collect()
}
