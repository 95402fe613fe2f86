//! Which node a command talks to: the one that is named, else the lowest that runs in the working directory.
//!
//! A node that serves leaves `addresses.json` in its data directory. One that was killed leaves it behind, so the entry
//! counts only while its process lives.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use rustix::{
    io::Errno,
    process::{Pid, test_kill_process},
};
use serde::Deserialize;

use super::{args::ConnectionArgs, bench::RestBase, error::CliError};

/// Where nodes without a data directory of their own keep theirs.
const DATA_ROOT: &str = "nomad-data";

/// What a running node has left in its data directory.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Addresses {
    /// Its process.
    pub pid: i32,
    /// `host:port` of its REST listener.
    pub rest: String,
    /// `host:port` of its storage listener.
    pub storage: String,
}

/// Names the node's REST listener. What the command line names comes before what the environment (`nomad_url`) names.
pub(super) fn find(
    connection: &ConnectionArgs,
    nomad_url: Option<OsString>,
    cwd: &Path,
) -> Result<RestBase, CliError> {
    if let Some(url) = &connection.url {
        return Ok(url.clone());
    }
    if connection.data_dir.is_none()
        && let Some(url) = nomad_url.filter(|url| !url.is_empty())
    {
        return url.to_string_lossy().parse().map_err(CliError::BadUrl);
    }
    let (dir, addresses) = running(connection.data_dir.as_deref(), cwd)?;
    format!("http://{}", addresses.rest).parse().map_err(|problem| CliError::NoNodeIn {
        dir,
        reason: format!("its addresses.json is damaged: {problem}"),
    })
}

/// The node that runs with this data directory, else the lowest that runs below `cwd`, and its data directory.
pub(super) fn running(
    data_dir: Option<&Path>,
    cwd: &Path,
) -> Result<(PathBuf, Addresses), CliError> {
    if let Some(dir) = data_dir {
        let dir = cwd.join(dir);
        return match read(&dir) {
            Ok(addresses) => Ok((dir, addresses)),
            Err(reason) => Err(CliError::NoNodeIn { dir, reason }),
        };
    }
    let found = numbered(&cwd.join(DATA_ROOT)).into_iter().find_map(|dir| {
        let addresses = read(&dir).ok()?;
        Some((dir, addresses))
    });
    found.ok_or_else(|| CliError::NoNode { dir: cwd.join(DATA_ROOT) })
}

/// The directories `node-N`, by N.
fn numbered(root: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root).into_iter().flatten().flatten();
    let mut dirs: Vec<(u64, PathBuf)> = entries
        .filter_map(|entry| {
            let number = entry.file_name().to_str()?.strip_prefix("node-")?.parse().ok()?;
            Some((number, entry.path()))
        })
        .collect();
    dirs.sort();
    dirs.into_iter().map(|(_, dir)| dir).collect()
}

/// The addresses of the node that runs with this data directory, or why there is none.
fn read(dir: &Path) -> Result<Addresses, String> {
    let text = std::fs::read(dir.join("addresses.json"))
        .map_err(|error| format!("its addresses.json: {error}"))?;
    let addresses: Addresses = serde_json::from_slice(&text)
        .map_err(|error| format!("its addresses.json is damaged: {error}"))?;
    match is_alive(addresses.pid) {
        true => Ok(addresses),
        false => Err(format!("its process {} has ended", addresses.pid)),
    }
}

fn is_alive(pid: i32) -> bool {
    // Zero and below name groups of processes.
    let Some(pid) = Pid::from_raw(pid).filter(|pid| pid.as_raw_nonzero().get() > 0) else {
        return false;
    };
    // Another user's process may not be signalled, but it lives.
    matches!(test_kill_process(pid), Ok(()) | Err(Errno::PERM))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A process id that no process has: above the highest that Linux gives.
    const DEAD: i32 = i32::MAX;

    fn node(root: &Path, name: &str, pid: i32, port: u16) {
        let dir = root.join(name);
        std::fs::create_dir_all(&dir).unwrap();
        let text = format!(
            r#"{{"pid":{pid},"nodeId":"n","rest":"127.0.0.1:{port}","peer":"p","storage":"s"}}"#
        );
        std::fs::write(dir.join("addresses.json"), text).unwrap();
    }

    fn connection(url: Option<&str>, data_dir: Option<&str>) -> ConnectionArgs {
        ConnectionArgs {
            url: url.map(|url| url.parse().unwrap()),
            data_dir: data_dir.map(Into::into),
            timeout: Duration::from_secs(1),
        }
    }

    #[test]
    fn the_lowest_node_that_runs_is_taken() {
        let cwd = tempfile::tempdir().unwrap();
        let me = std::process::id() as i32;
        for (name, pid, port) in [
            ("nomad-data/node-0", DEAD, 1),
            ("nomad-data/node-10", me, 10),
            ("nomad-data/node-9", me, 9),
            ("nomad-data/node-1", 0, 2),
            ("nomad-data/node-x", me, 3),
            ("elsewhere", me, 4),
            ("killed", DEAD, 5),
        ] {
            node(cwd.path(), name, pid, port);
        }
        let find = |url, dir, env: Option<&str>| {
            find(&connection(url, dir), env.map(Into::into), cwd.path())
                .map(|base| base.to_string())
                .map_err(|error| error.to_string())
        };
        assert_eq!(find(None, None, None).unwrap(), "http://127.0.0.1:9");
        assert_eq!(find(None, Some("elsewhere"), None).unwrap(), "http://127.0.0.1:4");
        // A flag counts more than the environment, which counts more than what happens to run here.
        assert_eq!(find(None, None, Some("http://a:1")).unwrap(), "http://a:1");
        assert_eq!(
            find(None, Some("elsewhere"), Some("http://a:1")).unwrap(),
            "http://127.0.0.1:4"
        );
        assert_eq!(find(Some("http://b:2"), None, Some("http://a:1")).unwrap(), "http://b:2");
        assert!(find(None, None, Some("nonsense")).unwrap_err().contains("NOMAD_URL"));
        let killed = find(None, Some("killed"), None).unwrap_err();
        assert!(killed.contains("killed") && killed.contains(&DEAD.to_string()), "{killed}");
    }

    #[test]
    fn a_directory_without_a_node_says_what_to_do() {
        let cwd = tempfile::tempdir().unwrap();
        let error = find(&connection(None, None), None, cwd.path()).unwrap_err().to_string();
        for part in ["nomad start", "--url", "NOMAD_URL", "--data-dir"] {
            assert!(error.contains(part), "{error}");
        }
        std::fs::create_dir(cwd.path().join("d")).unwrap();
        std::fs::write(cwd.path().join("d/addresses.json"), "{").unwrap();
        let error = find(&connection(None, Some("d")), None, cwd.path()).unwrap_err().to_string();
        assert!(error.contains("damaged"), "{error}");
    }
}
