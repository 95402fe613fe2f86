//! Injects faults: members are killed, paused, stopped, wiped, added and removed, one or several at once. The seed chooses
//! one fault at a time. After each fault all members run again.

use std::{sync::Arc, time::Duration};

use rand::{Rng as _, rngs::SmallRng, seq::IndexedRandom as _};
use serde_json::json;
use tokio::{task::JoinHandle, time::sleep};

use crate::{
    clients::Workload,
    support::{
        cli,
        cluster::{Cluster, View, short},
        load::holders,
        objects::{Answer, Client, Edge, Mode, When},
        say,
    },
};

/// How long a group may take until it is healthy again.
const HEALTHY_TIMEOUT: Duration = Duration::from_secs(60);

/// How many probe objects there are. Their replicas show whether the group is healthy.
const PROBES: usize = 20;

/// One kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// One is killed, and comes back.
    Kill,
    /// The super-peer is killed, and comes back.
    KillSuperPeer,
    /// Two are killed at once, and come back.
    KillTwo,
    /// All are killed at once, and come back.
    KillAll,
    /// One is paused (`SIGSTOP`), and resumed.
    Pause,
    /// Two are paused, and resumed.
    PauseTwo,
    /// One is shut down cleanly, and comes back.
    Stop,
    /// One loses its disk, and comes back with a new node id.
    Wipe,
    /// The guest member joins, or leaves.
    JoinOrLeave,
    /// The number of replicas changes.
    ReplicationFactor,
}

/// All faults. Some stand here twice or more, so that they are chosen more often.
pub const FAULTS: [Fault; 16] = [
    Fault::Kill,
    Fault::Kill,
    Fault::Kill,
    Fault::KillSuperPeer,
    Fault::KillSuperPeer,
    Fault::KillTwo,
    Fault::KillTwo,
    Fault::KillAll,
    Fault::Pause,
    Fault::Pause,
    Fault::PauseTwo,
    Fault::Stop,
    Fault::Wipe,
    Fault::JoinOrLeave,
    Fault::JoinOrLeave,
    Fault::ReplicationFactor,
];

/// Injects faults into a cluster while clients use it.
pub struct FaultInjector {
    /// The members: first those that stay, then the guest, which joins and leaves.
    pub cluster: Cluster,
    /// How many stay.
    pub staying: usize,
    /// How many replicas each object has.
    pub factor: usize,
    workload: Arc<Workload>,
    rng: SmallRng,
    tasks: Vec<JoinHandle<()>>,
    injected: Vec<Fault>,
}

impl FaultInjector {
    /// For a group that is healthy.
    pub fn new(
        cluster: Cluster,
        workload: Arc<Workload>,
        rng: SmallRng,
        tasks: Vec<JoinHandle<()>>,
    ) -> Self {
        let staying = cluster.running().len();
        workload.addresses.update(&cluster);
        Self { cluster, staying, factor: 3, workload, rng, tasks, injected: Vec::new() }
    }

    /// Writes the probe objects.
    pub async fn write_probes(&self) {
        let mut client = Client::of(&self.cluster.member(0));
        for id in probe_ids() {
            let put = client.write(Edge::Grpc, Mode::Safe, &id, "probe".into(), &When::Absent);
            assert_eq!(put.await.unwrap().answer, Answer::Created, "{id}");
        }
    }

    /// Waits for a random time, at most so many seconds.
    async fn random_pause(&mut self, seconds: u64) {
        let span = Duration::from_millis(self.rng.random_range(1..=seconds * 1_000));
        sleep(span).await;
    }

    /// One of the members that stay.
    fn random_member(&mut self) -> usize {
        self.rng.random_range(0..self.staying)
    }

    /// Injects one fault from the list, and waits until its members run again.
    pub async fn inject_one(&mut self, faults: &[Fault]) {
        let fault = *faults.choose(&mut self.rng).expect("no faults");
        self.injected.push(fault);
        match fault {
            Fault::Kill => {
                let victim = self.random_member();
                self.kill(&[victim], 2).await;
            }
            Fault::KillSuperPeer => {
                let views = self.cluster.views(self.cluster.running()).await;
                let lead = views.into_iter().flatten().find(View::leads);
                let lead = lead.map(|view| self.cluster.number(&view.id));
                let victim = lead.unwrap_or_else(|| self.random_member());
                self.kill(&[victim], 3).await;
            }
            Fault::KillTwo => {
                let victims = self.random_pair();
                self.kill(&victims, 2).await;
            }
            Fault::KillAll => {
                let all = self.cluster.running();
                self.kill(&all, 1).await;
            }
            Fault::Pause => {
                let victim = self.random_member();
                self.pause(&[victim]).await;
            }
            Fault::PauseTwo => {
                let victims = self.random_pair();
                self.pause(&victims).await;
            }
            Fault::Stop => {
                let victim = self.random_member();
                self.log(fault, &[victim]);
                self.workload.addresses.forget(victim);
                self.cluster.stop(victim).await;
                self.random_pause(2).await;
                self.restart(&[victim]).await;
            }
            Fault::Wipe => self.wipe().await,
            Fault::JoinOrLeave => self.join_or_leave().await,
            Fault::ReplicationFactor => self.change_replication_factor().await,
        }
        self.assert_clients_run();
    }

    fn random_pair(&mut self) -> [usize; 2] {
        let one = self.random_member();
        [one, (one + self.rng.random_range(1..self.staying)) % self.staying]
    }

    fn log(&self, fault: impl std::fmt::Debug, victims: &[usize]) {
        let at = Duration::from_nanos(self.workload.histories.now());
        let names: Vec<_> = victims
            .iter()
            .map(|number| format!("node {number} ({})", short(self.cluster.id(*number))))
            .collect();
        eprintln!("{:8.3} s  {fault:?} {}", at.as_secs_f64(), names.join(", "));
    }

    async fn kill(&mut self, victims: &[usize], seconds: u64) {
        self.log("kill -9", victims);
        // Clients go on sending requests to killed members until they learn of other members, as real clients do.
        for victim in victims {
            self.cluster.kill_9(*victim);
        }
        self.random_pause(seconds).await;
        self.restart(victims).await;
    }

    /// Starts them again. All nodes bootstrap from the overlay address of the first one, so that address stays the same.
    async fn restart(&mut self, victims: &[usize]) {
        self.cluster.start(victims.iter().copied()).await;
        self.workload.addresses.update(&self.cluster);
        self.log("started again", victims);
    }

    async fn pause(&mut self, victims: &[usize]) {
        self.log("paused", victims);
        for victim in victims {
            self.cluster.pause(*victim);
        }
        self.random_pause(4).await;
        for victim in victims {
            self.cluster.resume(*victim);
        }
        self.log("resumed", victims);
    }

    /// Waits until all members agree, and every probe has all its replicas. After that the loss of one disk is not the loss of
    /// a majority of any object's replicas.
    pub async fn wait_until_healthy(&self) {
        let running = self.cluster.running();
        self.cluster.agree(running.iter().copied(), HEALTHY_TIMEOUT).await;
        let (http, ids) = (self.cluster.node(running[0]).http(), probe_ids());
        let (members, factor) = (self.cluster.ids(running.iter().copied()), self.factor);
        self.cluster
            .eventually("every probe has its replicas", HEALTHY_TIMEOUT, async || {
                let held = holders(&http, &ids).await;
                let right = |by: &std::collections::BTreeSet<String>| {
                    by.len() == factor.min(members.len()) && by.is_subset(&members)
                };
                held.values().all(right).then_some(())
            })
            .await;
        self.cluster.agree(running, HEALTHY_TIMEOUT).await;
    }

    async fn wipe(&mut self) {
        self.wait_until_healthy().await;
        let victim = self.random_member();
        self.log("loses its disk", &[victim]);
        self.workload.addresses.forget(victim);
        self.cluster.kill_9(victim);
        self.cluster.wipe(victim);
        self.workload.allowed.disk_lost(victim);
        self.random_pause(2).await;
        self.restart(&[victim]).await;
        self.wait_until_healthy().await;
    }

    async fn join_or_leave(&mut self) {
        let guest = self.staying;
        if self.cluster.len() == self.staying {
            let builder = self.cluster.builder_without_bootstrap();
            let first = self.cluster.node(0).overlay();
            let builder = builder.arg("--bootstrap").arg(&first);
            self.cluster.add_all([builder]).await;
            self.workload.addresses.update(&self.cluster);
            self.log("joins", &[guest]);
        } else if self.cluster.running().contains(&guest) {
            self.log("leaves", &[guest]);
            let ran = cli::nomad(["leave"]).on(self.cluster.node(guest)).run().await;
            self.workload.addresses.forget(guest);
            eprintln!("            nomad leave: {} {}", ran.code, ran.everything().trim());
            self.cluster.kill_9(guest);
        } else {
            self.restart(&[guest]).await;
        }
    }

    async fn change_replication_factor(&mut self) {
        let others: Vec<_> =
            [3, 4, 5].into_iter().filter(|factor| *factor != self.factor).collect();
        let factor = *others.choose(&mut self.rng).unwrap();
        self.wait_until_healthy().await;
        let asked = self.random_member();
        self.log(format!("{factor} replicas"), &[asked]);
        let http = self.cluster.node(asked).http();
        let body = json!({ "replicationFactor": factor });
        self.cluster
            .eventually("the factor is taken", HEALTHY_TIMEOUT, async || {
                let path = "/nomad/config/groups/replication-factor";
                let answer = http.post(path, &body).await;
                (answer.status == 200).then_some(())
            })
            .await;
        self.factor = factor;
        self.wait_until_healthy().await;
    }

    /// Fails as soon as a client has failed: what happens later would only hide the reason.
    fn assert_clients_run(&self) {
        let ended = self.tasks.iter().filter(|task| task.is_finished()).count();
        assert_eq!(ended, 0, "{ended} clients met something that the contract does not allow");
    }

    /// Injects faults for so long, with a short pause before each.
    pub async fn inject_faults(&mut self, faults: &[Fault], span: Duration) {
        let end = self.workload.histories.now() + u64::try_from(span.as_nanos()).unwrap();
        while self.workload.histories.now() < end {
            self.random_pause(2).await;
            self.inject_one(faults).await;
        }
        let counts =
            self.injected.iter().fold(std::collections::BTreeMap::new(), |mut counts, fault| {
                *counts.entry(format!("{fault:?}")).or_insert(0) += 1;
                counts
            });
        say(&format!(
            "{} faults: {counts:?}, {} requests answered",
            self.injected.len(),
            self.workload.acks()
        ));
    }

    /// Ends the clients, starts what is down, and returns the healthy group with its replication factor.
    pub async fn stop_faults_and_heal(mut self) -> (Cluster, usize) {
        self.assert_clients_run();
        self.workload.stop();
        for task in std::mem::take(&mut self.tasks) {
            task.await.expect("a client met something that the contract does not allow");
        }
        let down: Vec<_> =
            (0..self.staying).filter(|n| !self.cluster.running().contains(n)).collect();
        self.restart(&down).await;
        self.wait_until_healthy().await;
        (self.cluster, self.factor)
    }
}

fn probe_ids() -> Vec<String> {
    (0..PROBES).map(|number| format!("probe/{number}")).collect()
}
