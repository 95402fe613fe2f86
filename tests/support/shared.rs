//! A cluster that all tests of a file share, because starting one for each of them would take longer than the tests.

use std::{
    path::Path,
    process::{Command, Stdio},
    sync::OnceLock,
};

use super::cluster::Cluster;

/// One cluster for all tests of a file, started by the first that asks. It lives as long as the test process.
pub struct SharedCluster(OnceLock<&'static Cluster>);

impl SharedCluster {
    /// Nothing is started yet.
    pub const fn new() -> Self {
        Self(OnceLock::new())
    }

    /// The cluster; `start` makes it, on a runtime of its own that outlives every test's.
    pub fn get<F>(&'static self, start: impl FnOnce() -> F + Send) -> &'static Cluster
    where
        F: Future<Output = Cluster>,
    {
        self.0.get_or_init(|| {
            std::thread::scope(|scope| {
                let started = scope.spawn(|| {
                    let runtime = tokio::runtime::Builder::new_multi_thread()
                        .worker_threads(1)
                        .enable_all()
                        .build()
                        .unwrap();
                    let runtime: &'static _ = Box::leak(Box::new(runtime));
                    let cluster: &'static Cluster = Box::leak(Box::new(runtime.block_on(start())));
                    remove_at_the_end(cluster.dir());
                    cluster
                });
                started.join().expect("the shared cluster did not start")
            })
        })
    }
}

/// Removes a directory when this process ends, also after a kill: then the standard input of the helper process closes.
/// The nodes that write there end at the same moment, so the removal is tried several times.
fn remove_at_the_end(dir: &Path) {
    let script = r#"read -r _; for _ in 1 2 3 4 5; do sleep 1; rm -rf "$1" && exit; done"#;
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh"]).arg(dir);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    // Never waited for: it ends after this process.
    Box::leak(Box::new(command.spawn().unwrap()));
}
