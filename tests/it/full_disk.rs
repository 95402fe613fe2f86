//! Nodes whose disks are full, or gone. What is not done is said so, at once and with the reason: 504 is for what nobody knows.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::support::{
    cluster::{Cluster, Role, SETTLE},
    eventually,
    node::Node,
    objects::{Answer, Client, Edge, Failed, Mode, When, resource},
    say,
};
use tempfile::TempDir;

/// A file system of a few megabytes, unmounted when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None` where this process may not mount.
    fn at(dir: &Path, megabytes: u32) -> Option<Self> {
        fs::create_dir_all(dir).unwrap();
        let size = format!("size={megabytes}m");
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(dir).output();
        mount.is_ok_and(|output| output.status.success()).then(|| Self(dir.to_owned()))
    }

    fn ballast(&self) -> PathBuf {
        self.0.join("ballast")
    }

    /// Takes all room but for so many bytes.
    fn fill(&self, left: u64) {
        let mut ballast = File::create(self.ballast()).unwrap();
        while ballast.write_all(&[1; 64 << 10]).is_ok() {}
        let len = ballast.metadata().unwrap().len();
        ballast.set_len(len.saturating_sub(left)).unwrap();
    }

    fn empty(&self) {
        fs::remove_file(self.ballast()).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // A disk that stays mounted is the test machine's affair, and shows there.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// Three members that keep every object, each on a small disk of its own.
async fn group(min_free: &str) -> Option<(Cluster, Vec<SmallDisk>)> {
    let mut cluster = Cluster::new()
        .env("NODE_STORAGE_MINFREEBYTES", min_free)
        .env("LIMITS_REQUESTTIMEOUT", "5s");
    let disk = |n| SmallDisk::at(&cluster.dir().join(format!("node-{n}")), 160);
    let Some(disks) = (0..3).map(disk).collect::<Option<Vec<_>>>() else {
        say("skipped: this process may not mount a small file system");
        return None;
    };
    cluster.add_group(Role::SuperPeer, 3).await;
    Some((cluster, disks))
}

fn clients(cluster: &Cluster) -> Vec<Client> {
    cluster.members().values().map(Client::of).collect()
}

/// What a put was told: `Some` = it was not done, for this reason.
async fn refused(client: &mut Client, mode: Mode, id: &str) -> Option<String> {
    match client.write(Edge::Resource, mode, id, "x".into(), &When::Always).await {
        Ok(_) => None,
        Err(Failed::NotDone(why)) => Some(why),
        Err(Failed::Unknown(why)) => panic!("{id} in mode {mode:?}: {why}"),
    }
}

/// Goal: with all disks full and no reserve, each write is refused with the reason, and none is told to be unknown. Reads go on, and
/// room brings all back.
#[tokio::test]
async fn with_all_disks_full_every_write_is_known_not_to_be_done() {
    let Some((cluster, disks)) = group("0").await else { return };
    let mut clients = clients(&cluster);
    let before = clients[0].write(Edge::Resource, Mode::Safe, "before", "x".into(), &When::Absent);
    assert_eq!(before.await.unwrap().answer, Answer::Created);
    disks.iter().for_each(|disk| disk.fill(0));
    for round in 0..20 {
        for (number, client) in clients.iter_mut().enumerate() {
            for mode in [Mode::Safe, Mode::Fast] {
                let why = refused(client, mode, &format!("full/{round}/{number}")).await;
                let why = why.expect("there is no room");
                assert!(why.contains("bytes are free"), "{why}");
            }
            let gone = client.delete(Edge::Resource, Mode::Safe, "before", &When::Always).await;
            assert!(
                matches!(&gone, Err(Failed::NotDone(why)) if why.contains("make room")),
                "{gone:?}"
            );
            let held = client.read(Edge::Resource, Mode::Fast, "before").await.unwrap();
            assert!(held.is_some(), "reads go on");
        }
    }
    disks.iter().for_each(SmallDisk::empty);
    for (number, client) in clients.iter_mut().enumerate() {
        let after = format!("after/{number}");
        cluster
            .eventually("writes after room was made", SETTLE, async || {
                refused(client, Mode::Safe, &after).await.is_none().then_some(())
            })
            .await;
    }
}

/// Goal: a member with room is told by the others that they have none, before it offers anything: so the outcome is known.
#[tokio::test]
async fn a_member_with_room_knows_that_the_others_have_none() {
    let Some((cluster, disks)) = group("0").await else { return };
    let mut clients = clients(&cluster);
    disks[1..].iter().for_each(|disk| disk.fill(0));
    for round in 0..20 {
        let why = refused(&mut clients[0], Mode::Safe, &format!("full/{round}")).await;
        let why = why.expect("no quorum has room");
        assert!(why.contains("bytes are free"), "{why}");
    }
    disks[1..].iter().for_each(SmallDisk::empty);
    cluster
        .eventually("writes after room was made", SETTLE, async || {
            refused(&mut clients[0], Mode::Safe, "after").await.is_none().then_some(())
        })
        .await;
}

/// Goal: in the reserve, puts are refused, and deletions are done, at each member and again and again.
#[tokio::test]
async fn deletions_are_done_in_the_reserve() {
    let Some((cluster, disks)) = group("64MiB").await else { return };
    let mut clients = clients(&cluster);
    for (number, client) in clients.iter_mut().enumerate() {
        for mode in [Mode::Safe, Mode::Fast] {
            let id = format!("{mode:?}/{number}");
            let put = client.write(Edge::Resource, mode, &id, "x".into(), &When::Absent).await;
            assert_eq!(put.unwrap().answer, Answer::Created);
        }
    }
    disks.iter().for_each(|disk| disk.fill(24 << 20));
    for (number, client) in clients.iter_mut().enumerate() {
        for mode in [Mode::Safe, Mode::Fast] {
            let why = refused(client, mode, &format!("more/{number}")).await;
            assert!(why.is_some_and(|why| why.contains("minFreeBytes")), "{mode:?}");
            let id = format!("{mode:?}/{number}");
            let gone = client.delete(Edge::Resource, mode, &id, &When::Always).await;
            assert_eq!(gone.unwrap().answer, Answer::Removed, "{id}");
        }
    }
}

/// Goal: a data directory that is removed under a running node counts as a failing disk, and does not come back as an empty one.
#[tokio::test]
async fn a_directory_that_is_removed_is_noticed() {
    let dir = TempDir::new().unwrap();
    let data = dir.path().join("data");
    let builder = Node::builder().data_dir(&data).env("SCHEDULE_HEALTHCHECK", "1s");
    let node = builder.started().await;
    let http = node.http();
    let put = async || http.call("PUT", &resource("a")).body("x").send().await;
    eventually("the first write", SETTLE, async || (put().await.status < 300).then_some(())).await;
    fs::remove_dir_all(data.join("store")).unwrap();
    fs::create_dir(data.join("store")).unwrap();
    let refused = eventually("writes are refused", Duration::from_secs(20), async || {
        let answer = put().await;
        (answer.status >= 500).then_some(answer)
    });
    let why = refused.await.problem(503, "UNAVAILABLE");
    assert!(why.contains("is gone") && why.contains("while the node runs"), "{why}");
    let status = node.status().await;
    assert_eq!(status["store"]["state"], "read-only", "{status}");
}
