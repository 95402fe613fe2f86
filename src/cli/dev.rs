//! `nomad dev`: a whole network in this process, on loopback, to try things out.
//!
//! The first node starts alone; the others are given its overlay address. The command then waits, for a limited time,
//! until every node has its place, and shows where everything is.

use std::{
    collections::{BTreeMap, BTreeSet},
    f64::consts::PI,
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use futures::future::{join_all, select_all};

use super::{
    args::DevArgs,
    error::CliError,
    load_config, output,
    shown::{self, say},
    signals::Signals,
    start,
};
use nomad_config::{Config, Loaded, Origin, Position};
use nomad_node::{Node, StartOptions};

/// How long the nodes may take to find their places before the network is shown as it is.
const SETTLING_MAX: Duration = Duration::from_secs(20);
/// The most nodes of one network: each has its own store, threads and listeners.
const NODES_MAX: u32 = 100;

/// Runs a network until it is told to stop, or one of its nodes gives up.
pub(super) fn run(args: DevArgs) -> Result<ExitCode, CliError> {
    let count = args.super_peers + args.peers;
    match count {
        0 => return Err(CliError::NoNodes),
        count if count > NODES_MAX => return Err(CliError::TooManyNodes { count, max: NODES_MAX }),
        _ => {}
    }
    let mut loaded = load_config(args.config, Vec::new())?;
    let dir = Place::take(args.data_dir)?;
    prepare(&mut loaded, &dir);
    let plan = Plan { config: loaded.config, super_peers: args.super_peers as usize };
    start::run_logged(&plan.config, async |signals| {
        serve(&plan, count as usize, &dir, signals).await
    })
}

/// What all nodes have in common.
struct Plan {
    config: Config,
    /// The first nodes are super-peers, as many as this.
    super_peers: usize,
}

/// Where the network's data is.
struct Place {
    path: PathBuf,
    is_temporary: bool,
}

impl Place {
    /// Takes the directory that the user names, else makes one that goes with the network.
    fn take(named: Option<PathBuf>) -> Result<Self, CliError> {
        let is_temporary = named.is_none();
        let name = || std::env::temp_dir().join(format!("nomad-dev-{}", std::process::id()));
        let path = named.unwrap_or_else(name);
        let made = std::fs::DirBuilder::new().recursive(!is_temporary).mode(0o700).create(&path);
        made.map_err(|source| CliError::Directory { dir: path.clone(), source })?;
        Ok(Self { path, is_temporary })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.is_temporary {
            // What cannot be removed is left to the system, which clears its temporary directory.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

/// Sets what makes the nodes a network of their own, whatever else runs on this machine.
fn prepare(loaded: &mut Loaded, dir: &Place) {
    let is_default = |path| loaded.origins.of(path) == Origin::Default;
    let (log_is_default, name_is_default) = (is_default("log.level"), is_default("network.name"));
    let config = &mut loaded.config;
    config.node.listen = IpAddr::V4(Ipv4Addr::LOCALHOST);
    config.node.ports = Default::default();
    config.node.network_hostnames = Default::default();
    config.bootstrap.mdns = false;
    config.bootstrap.peers = Vec::new();
    config.bootstrap.dns = Vec::new();
    if log_is_default {
        config.log.level = "warn".to_owned();
    }
    if name_is_default {
        config.network.name = match dir.is_temporary {
            true => format!("dev-{}", std::process::id()),
            false => "dev".to_owned(),
        };
    }
}

impl Plan {
    fn options(&self, index: usize, dir: &Path, first: Option<&Node>) -> StartOptions {
        let mut config = self.config.clone();
        config.node.data_dir = Some(dir.join(format!("node-{index}")));
        config.node.position = place(index, &config);
        config.bootstrap.peers.extend(first.map(|node| node.addresses().overlay.clone()));
        StartOptions { permanent: index < self.super_peers, ..StartOptions::new(config) }
    }

    /// How many groups there will be at least: one for each super-peer, and as many as the members need.
    fn groups(&self, count: usize) -> usize {
        count.div_ceil(self.config.node.max_peers.max(1)).max(self.super_peers)
    }
}

/// Places node after node on a spiral from the middle of the world, so that none stand in the same place.
fn place(index: usize, config: &Config) -> Position {
    let (world, middle) = (&config.node.world, config.node.world.centre());
    let golden = PI * (3.0 - 5.0_f64.sqrt());
    let (angle, reach) = (index as f64 * golden, (index as f64 / f64::from(NODES_MAX)).sqrt());
    Position {
        x: middle.x + angle.cos() * reach * world.width / 2.0,
        y: middle.y + angle.sin() * reach * world.height / 2.0,
    }
}

async fn serve(
    plan: &Plan,
    count: usize,
    dir: &Place,
    signals: &mut Signals,
) -> Result<ExitCode, CliError> {
    let mut nodes = Vec::new();
    let built = tokio::select! {
        biased;
        code = signals.next() => Ok(Some(code)),
        built = build(plan, count, &dir.path, &mut nodes) => built.map(|()| None),
    };
    let ended = match built {
        Ok(None) => {
            output::write(page(&nodes).as_bytes())?;
            tokio::select! {
                biased;
                _ = signals.next() => Ok(ExitCode::SUCCESS),
                reason = first_end(&mut nodes) => {
                    start::fail(&reason);
                    Ok(ExitCode::FAILURE)
                }
            }
        }
        Ok(Some(_)) => Ok(ExitCode::SUCCESS),
        Err(error) => Err(error),
    };
    say(&format!("stopping {} nodes; a second signal stops at once", nodes.len()));
    tokio::select! {
        biased;
        code = signals.next() => {
            if dir.is_temporary {
                let _ = std::fs::remove_dir_all(&dir.path);
            }
            // At once means now: nothing is flushed, no thread is waited for.
            std::process::exit(code)
        }
        _ = join_all(nodes.into_iter().map(Node::stop)) => ended,
    }
}

/// Starts all nodes and waits until they have found their places, or the time for that is over. The nodes that have
/// started are in `nodes`, also after an error.
async fn build(
    plan: &Plan,
    count: usize,
    dir: &Path,
    nodes: &mut Vec<Node>,
) -> Result<(), CliError> {
    say(&format!("starting {count} nodes, with their data in {}", dir.display()));
    let failed = |index| {
        move |error: nomad_node::StartError| CliError::NodeOfNetwork {
            index,
            reason: error.to_string(),
        }
    };
    nodes.push(Node::start(plan.options(0, dir, None)).await.map_err(failed(0))?);
    let others = (1..count).map(|index| {
        let options = plan.options(index, dir, nodes.first());
        async move { Node::start(options).await.map_err(failed(index)) }
    });
    let mut error = None;
    for started in join_all(others).await {
        match started {
            Ok(node) => nodes.push(node),
            Err(first) => error = error.or(Some(first)),
        }
    }
    if let Some(error) = error {
        return Err(error);
    }
    let most = plan.groups(count);
    if !settle(nodes, most).await {
        let limit = humantime::format_duration(SETTLING_MAX);
        say(&format!("not every node has found its place within {limit}; the network goes on"));
    }
    Ok(())
}

/// Waits until every node is in a group that knows all its members, and there are no more groups than needed.
async fn settle(nodes: &[Node], groups_max: usize) -> bool {
    let mut watches: Vec<_> =
        nodes.iter().map(|node| node.backend().service.view.watch()).collect();
    let settled = async {
        let mut said = 0;
        loop {
            let placed = nodes.iter().filter(|node| node.backend().unready().is_none()).count();
            if placed != said {
                say(&format!("{placed} of {} nodes are in a group", nodes.len()));
                said = placed;
            }
            if is_settled(nodes, groups_max) {
                return;
            }
            select_all(watches.iter_mut().map(|watch| Box::pin(watch.changed()))).await.0.ok();
        }
    };
    tokio::time::timeout(SETTLING_MAX, settled).await.is_ok()
}

fn is_settled(nodes: &[Node], groups_max: usize) -> bool {
    let mut members: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    for node in nodes {
        let backend = node.backend();
        let view = backend.service.view.load();
        let (None, Some(table), Some(_)) = (backend.unready(), view.group(), view.super_peer)
        else {
            return false;
        };
        members.entry(table.name.clone()).or_default().push(table.count());
    }
    let agree = |counts: &Vec<u32>| counts.iter().all(|count| *count as usize == counts.len());
    members.len() <= groups_max && members.values().all(agree)
}

/// Waits until a node gives up, and says which and why.
async fn first_end(nodes: &mut [Node]) -> String {
    let ends = nodes.iter_mut().enumerate().map(|(index, node)| {
        Box::pin(async move { format!("node {index} has ended: {}", node.ended().await) })
    });
    select_all(ends).await.0
}

/// Where every node is, and what to do with them.
fn page(nodes: &[Node]) -> String {
    const HEADINGS: [&str; 7] = ["node", "state", "group", "REST", "peer", "storage", "overlay"];
    let mut rows = vec![HEADINGS.map(str::to_owned).to_vec()];
    let mut groups = BTreeSet::new();
    for (index, node) in nodes.iter().enumerate() {
        let (addresses, view) = (node.addresses(), node.backend().service.view.load());
        let group = view.group().map_or("-".to_owned(), |table| table.name.clone());
        rows.push(vec![
            index.to_string(),
            view.state.as_str().to_owned(),
            group.clone(),
            addresses.rest.to_string(),
            addresses.peer.to_string(),
            addresses.storage.to_string(),
            addresses.overlay.clone(),
        ]);
        groups.extend(view.group().map(|_| group));
    }
    let mut page = shown::columns(&rows, HEADINGS.len()).concat();
    let (Some(first), Some(last)) = (nodes.first(), nodes.last()) else { return page };
    let (first, last) = (first.addresses(), last.addresses());
    // Writing to a `String` cannot fail.
    let _ = write!(
        page,
        "\n{} nodes in {} groups. For example:\n\
         \x20 curl -i -X PUT --data-binary 'a sword' http://{}/nomad/v1/objects/item:1\n\
         \x20 curl -i http://{}/nomad/v1/objects/item:1\n\
         \x20 curl http://{}/nomad/v1/groups\n\
         \x20 nomad status --url http://{}\n\
         Ctrl-C stops all.\n",
        nodes.len(),
        groups.len(),
        first.rest,
        first.rest,
        last.rest,
        last.rest,
    );
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_nodes_stand_in_the_world_and_apart() {
        let mut config = Config::default();
        config.node.world.width = 3.0;
        let places: Vec<_> = (0..NODES_MAX as usize).map(|index| place(index, &config)).collect();
        for (index, at) in places.iter().enumerate() {
            assert!((0.0..=3.0).contains(&at.x) && (0.0..=10.0).contains(&at.y), "{index}: {at:?}");
            assert!(!places.iter().skip(index + 1).any(|other| other == at), "{index}");
        }
    }

    #[test]
    fn there_is_a_group_for_each_super_peer_and_room_for_every_node() {
        let plan = |super_peers| Plan { config: Config::default(), super_peers };
        assert_eq!(plan(1).groups(4), 1);
        assert_eq!(plan(0).groups(12), 3);
        assert_eq!(plan(2).groups(4), 2);
    }
}
