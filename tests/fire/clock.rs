//! A wall clock for each node that the test moves, where Debian's libfaketime is installed (`apt-get install faketime`).
//! The monotonic clock is not changed, as on a real machine whose wall clock is set.

use std::{
    fs,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use crate::support::{node::Builder, say};

/// The clocks of some nodes.
pub struct Clocks {
    library: PathBuf,
    dir: TempDir,
}

impl Clocks {
    /// Clocks that can be moved, or `None` after saying why not. `NOMAD_FAKETIME` names the library where it is not in its
    /// usual place.
    pub fn new(test: &str) -> Option<Self> {
        let usual = || {
            let roots = fs::read_dir("/usr/lib").ok()?.flatten();
            let mut at = roots.map(|dir| dir.path().join("faketime/libfaketimeMT.so.1"));
            at.find(|path| path.exists())
        };
        let named = std::env::var_os("NOMAD_FAKETIME").map(PathBuf::from);
        let Some(library) = named.or_else(usual) else {
            say(&format!("{test} is SKIPPED, no libfaketime here: apt-get install faketime"));
            return None;
        };
        assert!(library.exists(), "NOMAD_FAKETIME={}: there is no such file", library.display());
        Some(Self { library, dir: TempDir::new().unwrap() })
    }

    fn file(&self, node: usize) -> PathBuf {
        self.dir.path().join(format!("clock-{node}"))
    }

    /// Starts a node under its clock, which is right at first.
    pub fn with_clock(&self, node: usize, builder: Builder) -> Builder {
        self.set(node, 0);
        builder
            .env("LD_PRELOAD", self.library.display())
            .env("FAKETIME_TIMESTAMP_FILE", self.file(node).display())
            .env("FAKETIME_NO_CACHE", 1)
            .env("FAKETIME_DONT_FAKE_MONOTONIC", 1)
            .env("DONT_FAKE_MONOTONIC", 1)
    }

    /// Moves a node's clock to so many seconds from the right time.
    pub fn set(&self, node: usize, seconds: i64) {
        // A rename, so that nobody reads a file that is half written.
        let new: &Path = &self.dir.path().join("new");
        fs::write(new, format!("{seconds:+}\n")).unwrap();
        fs::rename(new, self.file(node)).unwrap();
    }
}
