//! The directory of an open database: tells whether it is still the one that was opened. Files that are removed while they are
//! open go on taking writes, and nobody will ever read those.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

/// The directory and its lock, which is there as long as the database is, as the file system knows them.
#[derive(Debug)]
pub struct OpenedDir {
    dir: PathBuf,
    known: [(u64, u64); 2],
}

impl OpenedDir {
    /// Takes note of the directory of a database that has just been opened.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub fn of(dir: &Path) -> io::Result<Self> {
        Ok(Self { dir: dir.to_owned(), known: look(dir)? })
    }

    /// Looks whether it is still there.
    ///
    /// # Errors
    /// Says that it is not, with the way out.
    pub fn check(&self) -> Result<(), String> {
        let dir = self.dir.display();
        match look(&self.dir) {
            Ok(found) if found == self.known => Ok(()),
            Ok(_) => Err(format!("the directory {dir} was replaced {WAY_OUT}")),
            Err(error) => Err(format!("the directory {dir} is gone ({error}) {WAY_OUT}")),
        }
    }
}

const WAY_OUT: &str = "while the node runs, and what is written now would be lost; stop the node, put the directory back, \
                       or start the node without it: it comes back as a new member";

fn look(dir: &Path) -> io::Result<[(u64, u64); 2]> {
    let name = |path: &Path| fs::metadata(path).map(|found| (found.dev(), found.ino()));
    Ok([name(dir)?, name(&dir.join("lock"))?])
}
