//! A cluster of real node processes that find each other, and the status that each of them reports about its group.
//!
//! A `Cluster` names its nodes by number, in the order in which they were added; a number keeps its data directory and
//! its identity through stops, kills and restarts. What nodes say is polled over REST; nothing else is known about them.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::Duration,
};

use futures::future::join_all;
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use super::{
    eventually,
    history::History,
    http::Http,
    node::{Builder, Node},
    objects::Member,
    unique,
};

/// How long a group may take to settle before the test fails. Long, because other tests may keep the machine busy.
pub const SETTLE: Duration = Duration::from_secs(30);

/// How long a node may take to answer a status request.
const STATUS_LIMIT: Duration = Duration::from_secs(2);

/// What a node is started as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// `nomad start`
    Peer,
    /// `nomad start --type super-peer`
    SuperPeer,
}

/// The status of a group as one node reports it.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    /// The node that reports it.
    pub id: String,
    /// `peer` or `super-peer`.
    pub role: String,
    /// Its state.
    pub state: String,
    /// Whether it was started as a super-peer.
    pub permanent: bool,
    /// The name of its group; empty while it has none.
    pub group: String,
    /// The epoch of its table.
    pub epoch: u64,
    /// The id of the super-peer that it knows.
    pub super_peer: Option<String>,
    /// Whether it is ready.
    pub ready: bool,
    /// Why it is not ready.
    pub reason: String,
    /// Each member's state, by id.
    pub members: BTreeMap<String, String>,
    /// How many members vote.
    pub voters: usize,
    /// The whole document.
    pub document: Value,
}

impl View {
    /// Reads a status document.
    #[track_caller]
    pub fn of(document: Value) -> Self {
        let text = |name: &str| document[name].as_str().unwrap_or_default().to_owned();
        let members = document["members"].as_array().into_iter().flatten();
        let voters = members.clone().filter(|member| member["voter"] == true).count();
        let members = members.map(|member| {
            let of = |name: &str| member[name].as_str().unwrap_or_default().to_owned();
            (of("nodeId"), of("state"))
        });
        Self {
            id: text("nodeId"),
            role: text("role"),
            state: text("state"),
            permanent: document["permanent"] == true,
            group: text("group"),
            epoch: document["epoch"].as_u64().unwrap_or_default(),
            super_peer: document["superPeer"].as_str().map(ToOwned::to_owned),
            ready: document["ready"] == true,
            reason: text("reason"),
            members: members.collect(),
            voters,
            document,
        }
    }

    /// Whether it says that it leads its group.
    pub fn leads(&self) -> bool {
        self.role == "super-peer" && self.super_peer.as_deref() == Some(&self.id)
    }

    /// The ids of all members.
    pub fn ids(&self) -> BTreeSet<String> {
        self.members.keys().cloned().collect()
    }

    /// What it says about this member.
    #[track_caller]
    pub fn member(&self, id: &str) -> &Value {
        let mut members = self.document["members"].as_array().into_iter().flatten();
        let found = members.find(|member| member["nodeId"] == id);
        found.unwrap_or_else(|| panic!("no {id} in {}", self.document))
    }

    /// One line for messages: the node, its state, and the members that it knows.
    pub fn line(&self) -> String {
        let members: Vec<_> =
            self.members.iter().map(|(id, state)| format!("{}:{state}", short(id))).collect();
        format!(
            "{} {}/{} group {} epoch {} super-peer {} ready {} {:?} voters {} members [{}]",
            short(&self.id),
            self.role,
            self.state,
            self.group,
            self.epoch,
            self.super_peer.as_deref().map_or("-", short),
            self.ready,
            self.reason,
            self.voters,
            members.join(" ")
        )
    }
}

/// The end of an id. It is enough to tell nodes apart.
pub fn short(id: &str) -> &str {
    &id[id.len().saturating_sub(6)..]
}

/// The id in a node's "Node running" line.
#[track_caller]
fn id_of(node: &Node) -> String {
    let id = node.running["nodeId"].as_str().unwrap_or_default();
    assert!(!id.is_empty(), "no nodeId in {}", node.running);
    id.to_owned()
}

/// One node of the cluster, running or not.
struct ClusterNode {
    builder: Builder,
    node: Option<Node>,
    id: String,
}

/// Nodes of one network.
pub struct Cluster {
    base: Builder,
    nodes: Vec<ClusterNode>,
    /// Overlay addresses that do not change; empty = nodes start from the first one's.
    known: Vec<String>,
    network: String,
    history: History,
    dir: TempDir,
}

impl Cluster {
    /// No nodes yet. Every node gets timings that suit a test, and a network name that no other cluster has.
    pub fn new() -> Self {
        let network = format!("{}-{}", unique("test"), std::process::id());
        let base = Node::builder()
            .env("NETWORK_NAME", &network)
            .env("SCHEDULE_HEALTHCHECK", "1s")
            .env("BOOTSTRAP_DISCOVERYWINDOW", "1s")
            .env("BOOTSTRAP_PROVISIONALPOLLINTERVAL", "2s");
        let dir = TempDir::new().unwrap();
        let (nodes, known) = (Vec::new(), Vec::new());
        Self { base, nodes, known, network, history: History::start(), dir }
    }

    /// Sets an environment variable of every node added from now on.
    pub fn env(mut self, name: &str, value: impl ToString) -> Self {
        self.base = self.base.env(name, value);
        self
    }

    /// The name of their network.
    pub fn network(&self) -> &str {
        &self.network
    }

    /// The directory that contains the data directories of all nodes.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// How many nodes were added.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether no node was added.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The builder of a new node that bootstraps from the first node's overlay address.
    pub fn builder(&self, role: Role) -> Builder {
        let mut builder = self.base.clone();
        if role == Role::SuperPeer {
            builder = builder.arg("--type").arg("super-peer");
        }
        if !self.known.is_empty() {
            let start = |builder: Builder, at: &String| builder.arg("--bootstrap").arg(at);
            return self.known.iter().fold(builder, start);
        }
        match self.nodes.iter().find_map(|entry| entry.node.as_ref()) {
            Some(first) => builder.arg("--bootstrap").arg(&first.overlay()),
            None => builder,
        }
    }

    /// The builder of a new peer that has no bootstrap address.
    pub fn builder_without_bootstrap(&self) -> Builder {
        self.base.clone()
    }

    /// Adds a group of so many nodes, the first of them in this role. The first two have fixed overlay addresses, and all nodes
    /// bootstrap from both. So any node can lose its disk and still find the others.
    pub async fn add_group(&mut self, first: Role, members: usize) -> View {
        assert!(
            self.nodes.is_empty() && members > 1,
            "a group of {members} in a cluster that has nodes"
        );
        let ports = [free_port(), free_port()];
        self.known = ports.map(|port| format!("127.0.0.1:{port}")).into();
        let role = |number| if number == 0 { first } else { Role::Peer };
        let builders = (0..members).map(|number| {
            let builder = self.builder(role(number));
            match ports.get(number) {
                Some(port) => builder.env("NODE_PORTS_OVERLAY", port),
                None => builder,
            }
        });
        let builders: Vec<_> = builders.collect();
        let (lead, others) = builders.split_at(1);
        self.add_all(lead.iter().cloned()).await;
        self.add_all(others.iter().cloned()).await;
        self.agree(0..members, SETTLE * 2).await
    }

    /// Adds a node that starts from the first one.
    pub async fn add(&mut self, role: Role) -> usize {
        let builder = self.builder(role);
        self.add_all([builder]).await.start
    }

    /// Adds so many nodes at the same moment, each starting from the first one.
    pub async fn add_many(&mut self, role: Role, count: usize) -> std::ops::Range<usize> {
        let builder = self.builder(role);
        self.add_all(std::iter::repeat_n(builder, count)).await
    }

    /// Adds nodes that are started as these builders say, all at the same moment.
    pub async fn add_all(
        &mut self,
        builders: impl IntoIterator<Item = Builder>,
    ) -> std::ops::Range<usize> {
        let first = self.nodes.len();
        for builder in builders {
            let dir = self.dir.path().join(format!("node-{}", self.nodes.len()));
            let builder = builder.data_dir(&dir);
            self.nodes.push(ClusterNode { builder, node: None, id: String::new() });
        }
        let added = first..self.nodes.len();
        self.start(added.clone()).await;
        added
    }

    /// Starts nodes that do not run, all at the same moment, each with the data that it left.
    pub async fn start(&mut self, numbers: impl IntoIterator<Item = usize>) {
        let numbers: Vec<_> = numbers.into_iter().collect();
        self.start_in_turn(&numbers, Duration::ZERO).await;
    }

    /// Starts nodes that do not run, in this order, with this time between them. Does not wait until one is ready.
    pub async fn start_in_turn(&mut self, numbers: &[usize], gap: Duration) {
        let builders = numbers.iter().map(|n| self.nodes[*n].builder.clone());
        let starts = builders.zip(0_u32..).map(async |(builder, turn)| {
            tokio::time::sleep(gap * turn).await;
            let node = builder.started().await;
            self.history.watch(&id_of(&node), node.http());
            node
        });
        let nodes = join_all(starts.collect::<Vec<_>>()).await;
        for (number, node) in numbers.iter().zip(nodes) {
            self.set_running(*number, node);
        }
    }

    fn set_running(&mut self, number: usize, node: Node) {
        let id = id_of(&node);
        let entry = &mut self.nodes[number];
        assert!(entry.id.is_empty() || entry.id == id, "node {number} changed its id to {id}");
        entry.id = id;
        entry.node = Some(node);
    }

    /// A node that runs.
    #[track_caller]
    pub fn node(&self, number: usize) -> &Node {
        self.nodes[number].node.as_ref().unwrap_or_else(|| panic!("node {number} does not run"))
    }

    /// A node's id.
    pub fn id(&self, number: usize) -> &str {
        &self.nodes[number].id
    }

    /// The ids of these nodes.
    pub fn ids(&self, numbers: impl IntoIterator<Item = usize>) -> BTreeSet<String> {
        numbers.into_iter().map(|number| self.id(number).to_owned()).collect()
    }

    /// The number of the node with this id.
    #[track_caller]
    pub fn number(&self, id: &str) -> usize {
        let found = self.nodes.iter().position(|entry| entry.id == id);
        found.unwrap_or_else(|| panic!("no node of this cluster is {id}"))
    }

    /// The numbers of the nodes that run.
    pub fn running(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|number| self.nodes[*number].node.is_some()).collect()
    }

    /// The addresses of a node that runs, for clients.
    #[track_caller]
    pub fn member(&self, number: usize) -> Member {
        Member::of(self.id(number), self.node(number))
    }

    /// The addresses of all nodes that run, by number.
    pub fn members(&self) -> BTreeMap<usize, Member> {
        self.running().into_iter().map(|number| (number, self.member(number))).collect()
    }

    /// Removes a node's data directory, like the loss of its disk. Started again, it has a new id.
    #[track_caller]
    pub fn wipe(&mut self, number: usize) {
        let entry = &mut self.nodes[number];
        assert!(entry.node.is_none(), "node {number} runs: kill it before its disk is lost");
        std::fs::remove_dir_all(self.dir.path().join(format!("node-{number}"))).unwrap();
        entry.id.clear();
    }

    /// `kill -9`.
    #[track_caller]
    pub fn kill_9(&mut self, number: usize) {
        self.history.forget(&self.nodes[number].id);
        self.take(number).kill_9();
    }

    /// Shuts a node down cleanly.
    pub async fn stop(&mut self, number: usize) {
        self.history.forget(&self.nodes[number].id);
        self.take(number).stop().await;
    }

    /// Shuts all nodes down cleanly, all at the same moment.
    pub async fn stop_all(&mut self) {
        let mut nodes: Vec<_> = self.running().into_iter().map(|n| self.take(n)).collect();
        self.nodes.iter().for_each(|entry| self.history.forget(&entry.id));
        join_all(nodes.iter_mut().map(Node::stop)).await;
    }

    #[track_caller]
    fn take(&mut self, number: usize) -> Node {
        let node = self.nodes[number].node.take();
        node.unwrap_or_else(|| panic!("node {number} does not run"))
    }

    /// Pauses a node (`SIGSTOP`), like a long pause of its machine.
    pub fn pause(&self, number: usize) {
        self.node(number).signal(Signal::STOP);
    }

    /// Resumes a paused node.
    pub fn resume(&self, number: usize) {
        self.node(number).signal(Signal::CONT);
    }

    /// A node's current status; `None` when it does not answer in time.
    pub async fn view(&self, number: usize) -> Option<View> {
        status(&self.nodes[number].node.as_ref()?.http()).await
    }

    /// The current status of these nodes.
    pub async fn views(&self, numbers: impl IntoIterator<Item = usize>) -> Vec<Option<View>> {
        join_all(numbers.into_iter().map(|number| self.view(number))).await
    }

    /// The status of all nodes as text, for a test that fails.
    pub async fn describe(&self) -> String {
        let numbers = self.running();
        let views = self.views(numbers.iter().copied()).await;
        let lines = numbers.iter().zip(views).map(async |(number, view)| match view {
            Some(view) => {
                format!("node {number}: {} knows {}", view.line(), self.known(*number).await)
            }
            None => format!("node {number} ({}): no answer", short(self.id(*number))),
        });
        join_all(lines).await.join("\n")
    }

    /// The groups that a node knows, in a line.
    async fn known(&self, number: usize) -> String {
        let Some(node) = &self.nodes[number].node else { return String::new() };
        let http = node.http();
        let answer = http.call("GET", "/nomad/v1/groups").try_send();
        let Ok(Ok(answer)) = tokio::time::timeout(STATUS_LIMIT, answer).await else {
            return "no answer".to_owned();
        };
        let groups: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let groups = groups["groups"].as_array().into_iter().flatten();
        let lines = groups.map(|group| format!("{} of {}", group["name"], group["members"]));
        format!("[{}]", lines.collect::<Vec<_>>().join(", "))
    }

    /// Waits until `probe` returns something. Fails after `limit`, with the status of all nodes.
    pub async fn eventually<T>(
        &self,
        what: &str,
        limit: Duration,
        mut probe: impl AsyncFnMut() -> Option<T>,
    ) -> T {
        let polled = async {
            loop {
                if let Some(found) = probe().await {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(25)).await;
            }
        };
        match tokio::time::timeout(limit, polled).await {
            Ok(found) => found,
            Err(_) => panic!("{what}: not within {limit:?}\n{}", self.describe().await),
        }
    }

    /// Waits until these nodes are one group, and nobody else is in it: each is ready, names the same group, epoch,
    /// super-peer and members, knows of no change under way, sees every member alive and as many of them voting as can, and
    /// exactly the super-peer says that it leads. Gives what the super-peer says.
    pub async fn agree(&self, numbers: impl IntoIterator<Item = usize>, limit: Duration) -> View {
        let numbers: Vec<_> = numbers.into_iter().collect();
        let what = format!("nodes {numbers:?} in one group that agrees");
        self.eventually(&what, limit, async || {
            let views: Option<Vec<_>> =
                self.views(numbers.iter().copied()).await.into_iter().collect();
            one_group(views?, &self.ids(numbers.iter().copied()))
        })
        .await
    }

    /// Waits until these nodes are one group, led by this one of them.
    pub async fn agree_on(
        &self,
        numbers: impl IntoIterator<Item = usize>,
        leader: usize,
        limit: Duration,
    ) -> View {
        let numbers: Vec<_> = numbers.into_iter().collect();
        let what = format!("nodes {numbers:?} in one group that node {leader} leads");
        self.eventually(&what, limit, async || {
            let views: Option<Vec<_>> =
                self.views(numbers.iter().copied()).await.into_iter().collect();
            let view = one_group(views?, &self.ids(numbers.iter().copied()))?;
            (view.id == self.id(leader)).then_some(view)
        })
        .await
    }

    /// Waits until this node is in a group without `other`, and returns its status.
    pub async fn apart(&self, number: usize, other: usize, limit: Duration) -> View {
        let what = format!("node {number} in a group without node {other}");
        self.eventually(&what, limit, async || {
            let view = self.view(number).await?;
            let settled = view.ready && view.members.contains_key(self.id(number));
            (settled && !view.members.contains_key(self.id(other))).then_some(view)
        })
        .await
    }

    /// Waits until the groups have settled: each node is in exactly one, and all member lists agree. Returns the groups.
    pub async fn groups(&self, limit: Duration) -> Vec<View> {
        self.eventually("every node in one group each", limit, async || {
            let views: Option<Vec<_>> = self.views(self.running()).await.into_iter().collect();
            let mut groups: BTreeMap<String, Vec<View>> = BTreeMap::new();
            for view in views? {
                groups.entry(view.group.clone()).or_default().push(view);
            }
            let settled = groups.into_values().map(|views| {
                let ids = views.iter().map(|view| view.id.clone()).collect();
                one_group(views, &ids)
            });
            settled.collect()
        })
        .await
    }

    /// Sends no more status requests, so that the test does not disturb what it measures.
    pub fn stop_watching(&self) {
        self.nodes.iter().for_each(|entry| self.history.forget(&entry.id));
    }

    /// Asserts that each group's table had one history since the start, and returns a summary.
    #[track_caller]
    pub fn assert_one_history(&self) -> String {
        self.history.assert_one()
    }
}

/// A port that nobody listens on now.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A node's current status.
pub async fn status(http: &Http) -> Option<View> {
    let answer = http.call("GET", "/nomad/v1/status").try_send();
    let answer = tokio::time::timeout(STATUS_LIMIT, answer).await.ok()?.ok()?;
    (answer.status == 200).then(|| View::of(answer.json()))
}

/// How many of so many members are voters once the group has settled: an odd number, at most the default of `group.voters`.
fn voters_of(members: usize) -> usize {
    members.saturating_sub(1).min(4) / 2 * 2 + 1
}

/// The super-peer's view when these views are those of one group of exactly these members, at rest.
pub fn one_group(views: Vec<View>, ids: &BTreeSet<String>) -> Option<View> {
    let first = views.first()?.clone();
    let same = views.iter().all(|view| {
        view.ready
            && !view.group.is_empty()
            && view.super_peer.is_some()
            && (&view.group, view.epoch, &view.super_peer)
                == (&first.group, first.epoch, &first.super_peer)
            && view.ids() == *ids
            && view.document["change"].is_null()
            && view.voters == voters_of(ids.len())
            && view.members.values().all(|state| state == "alive")
    });
    let mut leaders = views.into_iter().filter(View::leads);
    let leader = leaders.next()?;
    (same && leaders.next().is_none()).then_some(leader)
}

/// Asserts that a node's log has a JSON line for which `wanted` holds.
#[track_caller]
pub fn assert_logged(node: &Node, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let found = node.output().json_lines().into_iter().find(wanted);
    found.unwrap_or_else(|| panic!("no log line {what} in:\n{}", node.output().text()))
}

/// Waits for such a line.
pub async fn logged(node: &Node, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    eventually(&format!("a log line {what}"), SETTLE, async || {
        node.output().json_lines().into_iter().find(&wanted)
    })
    .await
}
