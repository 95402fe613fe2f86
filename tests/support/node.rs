//! A node as a user runs it: the built binary, in a directory of its own, watched through its log lines.
//!
//! A `Node` kills its process when it is dropped, and prints its last log lines when the test fails. A `Shared` node
//! lives as long as the test process; a small watchdog ends it and removes its directory even if that process is killed.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Read},
    ops::Deref,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex, OnceLock},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use super::{ANSWER_LIMIT, eventually, http::Http, place::Place};

/// Removes all variables from the child's environment that could change a setting, and keeps nodes of different tests apart.
pub fn clean(command: &mut Command) -> &mut Command {
    command.env_clear();
    for name in ["PATH", "HOME", "LLVM_PROFILE_FILE", "TMPDIR"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command.env("BOOTSTRAP_MDNS", "false");
    command
}

/// Everything that a process has written so far.
#[derive(Default)]
pub struct Output {
    lines: Mutex<Written>,
    changed: Condvar,
}

#[derive(Default)]
struct Written {
    lines: Vec<String>,
    closed: bool,
}

impl Output {
    fn read(self: &Arc<Self>, from: impl Read + Send + 'static, closes: bool) {
        let output = Arc::clone(self);
        thread::spawn(move || {
            for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).into_owned();
                output.lines.lock().unwrap().lines.push(line);
                output.changed.notify_all();
            }
            output.lines.lock().unwrap().closed |= closes;
            output.changed.notify_all();
        });
    }

    /// All lines so far, as one text.
    pub fn text(&self) -> String {
        self.lines.lock().unwrap().lines.join("\n")
    }

    /// The first JSON line with this `msg`; `None` when the process ends or `limit` passes without one.
    pub fn wait_for_msg(&self, msg: &str, limit: Duration) -> Option<Value> {
        let find = |written: &Written| {
            let mut parsed =
                written.lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            parsed.find(|line| line["msg"] == msg)
        };
        let guard = self.lines.lock().unwrap();
        let (guard, _) = self
            .changed
            .wait_timeout_while(guard, limit, |written| find(written).is_none() && !written.closed)
            .unwrap();
        find(&guard)
    }

    /// All JSON lines so far.
    pub fn json_lines(&self) -> Vec<Value> {
        let written = self.lines.lock().unwrap();
        written.lines.iter().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    fn tail(&self, count: usize) -> String {
        let written = self.lines.lock().unwrap();
        let skip = written.lines.len().saturating_sub(count);
        written.lines[skip..].join("\n")
    }
}

/// How a node is to be started.
#[derive(Clone, Default)]
pub struct Builder {
    env: BTreeMap<String, String>,
    args: Vec<String>,
    data_dir: Option<PathBuf>,
    place: Place,
}

impl Builder {
    /// Sets an environment variable of the node.
    pub fn env(mut self, name: &str, value: impl ToString) -> Self {
        self.env.insert(name.to_owned(), value.to_string());
        self
    }

    /// Adds an argument after `start --data-dir DIR`.
    pub fn arg(mut self, arg: &str) -> Self {
        self.args.push(arg.to_owned());
        self
    }

    /// Uses this data directory, which the test owns, instead of one that goes with the node.
    pub fn data_dir(mut self, dir: &Path) -> Self {
        self.data_dir = Some(dir.to_owned());
        self
    }

    /// Runs the node in this place.
    pub fn place(mut self, place: &Place) -> Self {
        self.place = place.clone();
        self
    }

    /// Starts the node on a thread of its own, so that other tasks of the test go on, and several nodes start at once.
    pub async fn started(&self) -> Node {
        let builder = self.clone();
        tokio::task::spawn_blocking(move || builder.start()).await.unwrap()
    }

    /// Starts the node and waits until it says that it serves. Unless the environment says otherwise it looks for
    /// nobody on the local network, where the nodes of other tests are.
    pub fn start(&self) -> Node {
        let scratch = TempDir::new().unwrap();
        let data_dir = self.data_dir.clone().unwrap_or_else(|| scratch.path().join("data"));
        let mut command = self.place.command(env!("CARGO_BIN_EXE_nomad"));
        clean(&mut command).env("BOOTSTRAP_MDNS", "false").envs(&self.env);
        command.current_dir(scratch.path());
        command.arg("start").arg("--data-dir").arg(&data_dir).args(&self.args);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let watchdog = watchdog(&child, scratch.path());
        let output = Arc::new(Output::default());
        output.read(child.stdout.take().unwrap(), true);
        output.read(child.stderr.take().unwrap(), false);
        let running = output.wait_for_msg("Node running", ANSWER_LIMIT);
        let address = |name: &str| {
            let line = running.as_ref().map(|line| line[name].as_str().unwrap_or_default());
            line.unwrap_or_default().to_owned()
        };
        let (rest, peer, storage) = (address("REST"), address("peer"), address("storage"));
        let running = running.clone().unwrap_or(Value::Null);
        let node = Node {
            child,
            watchdog,
            output,
            data_dir,
            rest,
            peer,
            storage,
            running,
            place: self.place.clone(),
            _scratch: scratch,
        };
        assert!(!node.running.is_null(), "the node did not say \"Node running\"");
        assert!(
            [&node.rest, &node.peer, &node.storage].iter().all(|address| address.contains(':')),
            "no host:port in {}",
            node.running
        );
        node
    }
}

/// Ends the node when this process ends, also after a kill: then the standard input of the watchdog closes.
fn watchdog(child: &Child, dir: &Path) -> Child {
    let script = r#"read -r _; kill -9 "$1"; rm -rf "$2""#;
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh", &child.id().to_string()]).arg(dir);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap()
}

/// A running node. Killed when dropped.
pub struct Node {
    child: Child,
    watchdog: Child,
    output: Arc<Output>,
    /// Where it keeps its objects.
    pub data_dir: PathBuf,
    /// host:port of the REST listener.
    pub rest: String,
    /// host:port of the peer listener.
    pub peer: String,
    /// host:port of the storage listener.
    pub storage: String,
    /// The whole "Node running" line.
    pub running: Value,
    /// Where it runs.
    pub place: Place,
    _scratch: TempDir,
}

impl Node {
    /// A builder with nothing set.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// A node with the default settings.
    pub fn start() -> Self {
        Self::builder().start()
    }

    /// A new HTTP client of this node.
    pub fn http(&self) -> Http {
        Http::at(&self.place, &self.rest)
    }

    /// The multiaddr of its overlay listener, which others start from.
    #[track_caller]
    pub fn overlay(&self) -> String {
        let overlay = self.running["overlay"].as_str();
        overlay.unwrap_or_else(|| panic!("no overlay in {}", self.running)).to_owned()
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written so far.
    pub fn output(&self) -> &Output {
        &self.output
    }

    /// This node's id, from its status.
    pub async fn id(&self) -> String {
        self.status().await["nodeId"].as_str().unwrap().to_owned()
    }

    /// The status document.
    pub async fn status(&self) -> Value {
        self.http().get("/nomad/v1/status").await.ok()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// `kill -9`, and waits until the process is gone.
    pub fn kill_9(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Whether the process has ended.
    pub fn has_exited(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Shuts it down cleanly, as an operator does, and asserts the exit code 0.
    pub async fn stop(&mut self) {
        self.signal(Signal::TERM);
        assert_eq!(self.exited(ANSWER_LIMIT).await.code(), Some(0), "the exit code after SIGTERM");
    }

    /// Waits until the process ends by itself.
    pub async fn exited(&mut self, limit: Duration) -> ExitStatus {
        let child = &mut self.child;
        eventually("the node's exit", limit, async || child.try_wait().unwrap()).await
    }

    /// Asserts that the process lives and serves a write and a read.
    pub async fn assert_serves(&self) {
        let (http, id) = (self.http(), super::unique("still-serving"));
        let path = format!("/nomad/v1/objects/{id}");
        http.call("PUT", &path).body("yes").send().await.expect(201);
        assert_eq!(http.get(&path).await.expect(200).body, "yes");
    }

    fn print_tail(&self) {
        eprintln!("--- last log lines of node {} ---\n{}\n---", self.rest, self.output.tail(60));
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // The watchdog first: after the wait below, the node's process id may belong to another process.
        let _ = self.watchdog.kill();
        let _ = self.watchdog.wait();
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            self.print_tail();
        }
    }
}

/// One node for all tests of a file, started by the first that asks.
pub struct Shared(OnceLock<Node>);

impl Shared {
    /// Nothing is started yet.
    pub const fn new() -> Self {
        Self(OnceLock::new())
    }

    /// The node; its last log lines are printed if the test that holds this fails.
    pub fn get(&'static self) -> Borrowed {
        Borrowed(self.0.get_or_init(Node::start))
    }
}

/// A shared node while one test uses it.
pub struct Borrowed(&'static Node);

impl Deref for Borrowed {
    type Target = Node;

    fn deref(&self) -> &Node {
        self.0
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.print_tail();
        }
    }
}
