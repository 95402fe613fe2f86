//! `nomad dev`: a whole network from one command, and nothing of it left behind.

use std::{
    collections::BTreeSet,
    os::unix::process::CommandExt as _,
    process::Stdio,
    sync::{Arc, Mutex},
    time::Duration,
};

use crate::support::{
    ANSWER_LIMIT,
    cluster::{SETTLE, View, status},
    eventually,
    http::Http,
    node::clean,
    say, started, within,
};
use rustix::process::{Pid, Signal, kill_process, test_kill_process_group};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, BufReader},
    net::TcpStream,
    process::{Child, Command},
};

/// A running `nomad dev` and what it has said.
struct Dev {
    child: Child,
    said: Arc<Mutex<String>>,
    shown: Arc<Mutex<String>>,
    _dir: TempDir,
}

impl Dev {
    fn start(args: &[&str]) -> Self {
        let dir = TempDir::new().unwrap();
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_nomad"));
        clean(&mut command).arg("dev").args(args).current_dir(dir.path());
        // A group of its own, so that whatever it starts can be found.
        command.process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut command = Command::from(command);
        let mut child = command.kill_on_drop(true).spawn().unwrap();
        let (said, shown) = <(Arc<Mutex<String>>, Arc<Mutex<String>>)>::default();
        gather(child.stdout.take().unwrap(), vec![Arc::clone(&said), Arc::clone(&shown)]);
        gather(child.stderr.take().unwrap(), vec![Arc::clone(&said)]);
        Self { child, said, shown, _dir: dir }
    }

    fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    /// Every loopback address in the table: lines that are no log lines.
    fn addresses(&self) -> BTreeSet<String> {
        let shown = self.shown.lock().unwrap().clone();
        let table = shown.lines().filter(|line| !line.starts_with('{'));
        let words =
            table.flat_map(|line| line.split(|c: char| !(c.is_ascii_digit() || ".:".contains(c))));
        let found = words.filter(|word| word.starts_with("127.0.0.1:"));
        found.map(|word| word.trim_end_matches([':', '.']).to_owned()).collect()
    }

    /// What the nodes say whose REST address stands in the table.
    async fn views(&self) -> Vec<(String, View)> {
        let mut views = Vec::new();
        for address in self.addresses() {
            if let Some(view) = status(&Http::new(&address)).await {
                views.push((address, view));
            }
        }
        views
    }

    /// Waits until so many nodes are one group.
    async fn one_group(&self, count: usize) -> Vec<(String, View)> {
        let settled = eventually("the nodes of the table in one group", SETTLE, async || {
            let views = self.views().await;
            let ids: BTreeSet<_> = views.iter().map(|(_, view)| view.id.clone()).collect();
            let same = views.iter().all(|(_, view)| view.ready && view.ids() == ids);
            (ids.len() == count && same).then_some(views)
        });
        settled.await
    }
}

/// Keeps what a process writes, as it comes.
fn gather(from: impl AsyncRead + Unpin + Send + 'static, into: Vec<Arc<Mutex<String>>>) {
    tokio::spawn(async move {
        let mut lines = BufReader::new(from).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            for text in &into {
                let mut text = text.lock().unwrap();
                text.push_str(&line);
                text.push('\n');
            }
        }
    });
}

impl Drop for Dev {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- nomad dev said ---\n{}---", self.said());
        }
    }
}

/// Goal: one command gives a group of four in a moment, its addresses answer, and Ctrl-C ends all of it.
#[tokio::test]
async fn nomad_dev_is_a_group_of_four_until_ctrl_c() {
    let start = started();
    let mut dev = Dev::start(&[]);
    let views = dev.one_group(4).await;
    let took = start.elapsed();
    say(&format!("nomad dev: a group of four in {took:?}"));
    // Five seconds are the aim for a release build on a quiet machine.
    assert!(took < Duration::from_secs(15), "{took:?}");
    let leaders: Vec<_> = views.iter().filter(|(_, view)| view.leads()).collect();
    assert_eq!(leaders.len(), 1, "{leaders:?}");
    assert!(leaders[0].1.permanent, "{}", leaders[0].1.line());
    // Whatever stands in the table answers, and each node can be used by it.
    let addresses = dev.addresses();
    assert!(addresses.len() >= 4 * 3, "REST, peer and storage of four nodes: {addresses:?}");
    for address in &addresses {
        assert!(TcpStream::connect(address).await.is_ok(), "{address} does not answer");
    }
    for (address, _) in &views {
        let http = Http::new(address);
        let path = format!("/nomad/v1/objects/{}", crate::support::unique("dev"));
        http.call("PUT", &path).body("yes").send().await.expect(201);
        assert_eq!(http.get(&path).await.expect(200).body, "yes");
    }
    let pid = Pid::from_raw(i32::try_from(dev.child.id().unwrap()).unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    let exited = within("nomad dev after Ctrl-C", ANSWER_LIMIT, dev.child.wait()).await.unwrap();
    assert_eq!(exited.code(), Some(0), "{}", dev.said());
    assert!(test_kill_process_group(pid).is_err(), "a process is left");
    for address in &addresses {
        assert!(TcpStream::connect(address).await.is_err(), "{address} still answers");
    }
    assert!(!dev.said().contains("panicked at"), "{}", dev.said());
}

#[tokio::test]
async fn nomad_dev_takes_other_numbers() {
    let mut dev = Dev::start(&["--peers", "2", "--super-peers", "2"]);
    let views = eventually("four nodes, each in a group", SETTLE, async || {
        let views = dev.views().await;
        let ids: BTreeSet<_> = views.iter().map(|(_, view)| view.id.clone()).collect();
        let placed =
            views.iter().all(|(_, view)| view.ready && view.members.contains_key(&view.id));
        (ids.len() == 4 && placed).then_some(views)
    })
    .await;
    let permanent = views.iter().filter(|(_, view)| view.permanent && view.leads()).count();
    assert_eq!(permanent, 2, "{views:?}");
    let pid = Pid::from_raw(i32::try_from(dev.child.id().unwrap()).unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    let exited = within("nomad dev after SIGTERM", ANSWER_LIMIT, dev.child.wait()).await.unwrap();
    assert_eq!(exited.code(), Some(0), "{}", dev.said());
}
