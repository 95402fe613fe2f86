//! The data directory: which one it is, that no other process has it, and who can be reached through it.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use serde_json::json;
use thiserror::Error;

use super::NodeAddresses;

/// Where nodes without a named directory keep theirs, as `node-0`, `node-1` and so on.
const DEFAULT_ROOT: &str = "nomad-data";
/// The most nodes without a named directory below one working directory.
const DEFAULT_MAX: usize = 1_000;

/// Why a data directory cannot be used.
#[derive(Debug, Error)]
pub enum DataDirError {
    /// Another process has it.
    #[error(
        "the data directory {} is in use by {holder}; stop that one, or choose another with --data-dir",
        dir.display()
    )]
    InUse {
        /// The directory.
        dir: PathBuf,
        /// Who has it.
        holder: String,
    },
    /// All default ones are taken.
    #[error("all of {DEFAULT_ROOT}/node-0 to node-{} are in use; choose a directory with --data-dir", DEFAULT_MAX - 1)]
    NoneFree,
    /// The operating system refuses.
    #[error("the data directory's {} cannot be used: {source}; check that it is a writable directory", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// The key does not read back.
    #[error("the key in {} cannot be read: {reason}; restore the file from a copy, or move the directory away", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// A data directory that this process holds.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    /// Locked for as long as it is open.
    _lock: File,
}

impl DataDir {
    /// Claims the named directory, or else the first default one that nobody holds.
    ///
    /// # Errors
    /// When it is in use or cannot be made.
    pub fn lock(named: Option<&Path>) -> Result<Self, DataDirError> {
        if let Some(named) = named {
            return Self::lock_one(named);
        }
        for index in 0..DEFAULT_MAX {
            match Self::lock_one(&Path::new(DEFAULT_ROOT).join(format!("node-{index}"))) {
                Err(DataDirError::InUse { .. }) => {}
                claimed => return claimed,
            }
        }
        Err(DataDirError::NoneFree)
    }

    fn lock_one(dir: &Path) -> Result<Self, DataDirError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| DataDirError::Io { path, source }
        };
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io(dir))?;
        let lock_path = dir.join("lock");
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock_path)
            .map_err(io(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                // Without the number the message is still true.
                let _ = lock.read_to_string(&mut pid);
                let holder = match pid.trim() {
                    "" => "another process".to_owned(),
                    pid => format!("the process with pid {pid}"),
                };
                return Err(DataDirError::InUse { dir: dir.to_owned(), holder });
            }
            Err(TryLockError::Error(source)) => return Err(io(&lock_path)(source)),
        }
        let written = lock
            .set_len(0)
            .and_then(|()| lock.rewind())
            .and_then(|()| write!(lock, "{}", std::process::id()));
        written.map_err(io(&lock_path))?;
        Ok(Self { path: dir.to_owned(), _lock: lock })
    }

    /// Returns the directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn addresses_path(&self) -> PathBuf {
        self.path.join("addresses.json")
    }

    /// Writes where the node can be reached, for the command line on this machine.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn publish(&self, addresses: &NodeAddresses) -> Result<(), DataDirError> {
        let text = json!({
            "pid": std::process::id(),
            "nodeId": addresses.node_id,
            "rest": addresses.rest.to_string(),
            "peer": addresses.peer.to_string(),
            "storage": addresses.storage.to_string(),
        });
        let path = self.addresses_path();
        // A reader sees the whole file or none.
        let partial = path.with_extension("partial");
        fs::write(&partial, text.to_string())
            .and_then(|()| fs::rename(&partial, &path))
            .map_err(|source| DataDirError::Io { path, source })
    }

    /// Takes the addresses back and gives the directory free.
    pub fn release(self) {
        // A file that is gone already is as it should be.
        let _ = fs::remove_file(self.addresses_path());
    }
}

/// Replaces a file of a data directory as a whole: written beside it and renamed, so that a crash leaves the old one or the
/// new one. Only its owner may read it.
///
/// # Errors
/// When the directory cannot be written.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let partial = path.with_extension("partial");
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&partial)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&partial, path)?;
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_held_by_one_at_a_time_and_the_error_names_the_holder() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("a/b");
        let held = DataDir::lock(Some(&dir)).unwrap();
        let error = DataDir::lock(Some(&dir)).unwrap_err().to_string();
        assert!(error.contains(&std::process::id().to_string()), "{error}");
        assert!(error.contains(&dir.display().to_string()), "{error}");
        held.release();
        DataDir::lock(Some(&dir)).unwrap().release();
    }
}
