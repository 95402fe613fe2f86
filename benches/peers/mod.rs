//! The systems of the group bench: nomad's own nodes and the servers that stand beside them, each as processes of its own on
//! 127.0.0.1, with its data in a directory that goes with it, and each with a client on its own protocol.

pub mod etcd;
pub mod load;
pub mod nats;
pub mod nodes;
pub mod recovery;
pub mod redis;
pub mod rows;

use std::{
    env,
    ffi::OsString,
    fs::{self, File},
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};

use crate::support::process::Process;

/// How long a system may take until it serves.
pub const START_LIMIT: Duration = Duration::from_secs(60);

/// How long one attempt may take.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(5);

/// Where the peers' programs are.
#[derive(Debug, Clone)]
pub struct Programs {
    dir: PathBuf,
}

impl Programs {
    /// Unpacked in `dir` by `install.sh`, else in PATH.
    pub fn in_dir(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// A command that runs this program; `None` when it is not there.
    pub fn command(&self, program: &str) -> Option<Command> {
        let unpacked = ["usr/bin", "usr/sbin"].map(|dir| self.dir.join(dir).join(program));
        let path = env::var_os("PATH").unwrap_or_default();
        let in_path = env::split_paths(&path).map(|dir| dir.join(program)).collect::<Vec<_>>();
        let found = unpacked.into_iter().chain(in_path).find(|path| path.is_file())?;
        let mut command = Command::new(found);
        command.env_clear().env("PATH", path);
        if let Some(libraries) = self.libraries() {
            command.env("LD_LIBRARY_PATH", libraries);
        }
        Some(command)
    }

    /// Where the libraries of the unpacked programs are.
    fn libraries(&self) -> Option<OsString> {
        let entries = fs::read_dir(self.dir.join("usr/lib")).ok()?;
        let dirs = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir());
        env::join_paths(dirs).ok()
    }
}

/// Starts a program whose messages go to a file in `dir`, which is shown when it does not serve.
pub fn start(name: &str, mut command: Command, dir: &Path) -> Result<Process> {
    let log = File::create(dir.join(format!("{name}.log")))?;
    command.stderr(log).current_dir(dir);
    Process::start(name, command)
}

/// A port of 127.0.0.1 that nobody listens on now.
pub fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?.port())
}

/// So many of them, all different.
pub fn free_ports<const N: usize>() -> Result<[u16; N]> {
    let listeners: Vec<_> =
        (0..N).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).collect::<Result<_, _>>()?;
    let mut ports = [0; N];
    for (port, listener) in ports.iter_mut().zip(&listeners) {
        *port = listener.local_addr()?.port();
    }
    Ok(ports)
}

/// The present moment.
#[allow(clippy::disallowed_methods, reason = "a bench measures real time")]
pub fn now() -> Instant {
    Instant::now()
}

/// Tries `attempt` until it succeeds, and fails with its last error after [`START_LIMIT`].
pub async fn until<T>(what: &str, mut attempt: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let begin = now();
    loop {
        // One that is never answered is given up like one that fails.
        let tried = tokio::time::timeout(ATTEMPT_LIMIT, attempt()).await;
        match tried.unwrap_or_else(|_| Err(anyhow!("no answer within {ATTEMPT_LIMIT:?}"))) {
            Ok(done) => return Ok(done),
            Err(error) if begin.elapsed() > START_LIMIT => {
                return Err(error).with_context(|| format!("{what}: not within {START_LIMIT:?}"));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

/// The directory of one server of a system.
pub fn subdir(dir: &Path, name: &str) -> Result<PathBuf> {
    let path = dir.join(name);
    fs::create_dir_all(&path)?;
    Ok(path)
}

/// A word of an answer that has to be this.
pub fn expect(answer: &str, wanted: &str) -> Result<()> {
    if answer.starts_with(wanted) {
        return Ok(());
    }
    bail!("{:?} is no {wanted:?}", answer.chars().take(200).collect::<String>())
}
