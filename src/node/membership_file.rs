//! What a node must know of its membership after a crash: a small file in the data directory, replaced as a whole.

use std::{
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::data_dir::replace;
use nomad_core::group::membership::Durable;
use nomad_ports::DurableState;

/// The format that this version writes.
const FORMAT: u32 = 1;

#[derive(Serialize, Deserialize)]
struct MembershipRecord {
    format: u32,
    #[serde(flatten)]
    durable: Durable,
}

/// The file `membership.json` of a data directory.
#[derive(Debug, Clone)]
pub struct MembershipFile {
    dir: PathBuf,
}

impl MembershipFile {
    /// Names the file of this data directory.
    pub fn of(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    fn path(&self) -> PathBuf {
        self.dir.join("membership.json")
    }
}

impl DurableState for MembershipFile {
    fn load(&self) -> io::Result<Option<Durable>> {
        let path = self.path();
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let bad = |reason: String| {
            let text = format!(
                "{} cannot be read: {reason}; restore it from a copy, or start with a new data directory",
                path.display()
            );
            io::Error::new(ErrorKind::InvalidData, text)
        };
        let content: MembershipRecord =
            serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))?;
        if content.format != FORMAT {
            return Err(bad(format!(
                "its format is {}, this version reads {FORMAT}",
                content.format
            )));
        }
        Ok(Some(content.durable))
    }

    fn save(&self, durable: &Durable) -> io::Result<()> {
        let content = MembershipRecord { format: FORMAT, durable: durable.clone() };
        replace(&self.path(), &serde_json::to_vec(&content)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_saved_last_is_loaded_and_a_damaged_file_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let file = MembershipFile::of(dir.path());
        assert_eq!(file.load().unwrap(), None);
        for claim in [1, 7] {
            let durable = Durable { claim, home: Some("group-x".into()) };
            file.save(&durable).unwrap();
            assert_eq!(file.load().unwrap(), Some(durable));
        }
        for damaged in ["", "{", r#"{"format":2,"claim":1,"home":null}"#] {
            fs::write(dir.path().join("membership.json"), damaged).unwrap();
            let error = file.load().unwrap_err().to_string();
            assert!(error.contains("membership.json") && error.contains("new data dir"), "{error}");
        }
    }
}
