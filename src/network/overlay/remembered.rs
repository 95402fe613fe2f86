//! The nodes that were met, kept in a small file for the next start: `peers.json` in the data directory.
//!
//! A file that cannot be read is as good as none; one that cannot be written is logged. Neither stops a node.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use libp2p::{Multiaddr, PeerId};
use serde::{Deserialize, Serialize};

use super::addresses::PER_NODE_MAX;

/// The most nodes that are remembered.
pub const REMEMBERED_MAX: usize = 32;
/// The most bytes that are read; what is written is far smaller.
const FILE_BYTES_MAX: u64 = 64 << 10;

#[derive(Debug, Serialize, Deserialize)]
struct Met {
    peer: String,
    addresses: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Book {
    network: String,
    peers: Vec<Met>,
}

/// The file.
#[derive(Debug, Clone)]
pub struct Remembered {
    path: PathBuf,
    network: String,
}

impl Remembered {
    /// Names the file of a data directory.
    pub fn in_dir(dir: &Path, network: &str) -> Self {
        Self { path: dir.join("peers.json"), network: network.to_owned() }
    }

    /// Reads it. What is not understood, or of another network, is left out.
    pub fn read(&self) -> Vec<(PeerId, Vec<Multiaddr>)> {
        let read = || -> io::Result<Book> {
            let mut text = String::new();
            File::open(&self.path)?.take(FILE_BYTES_MAX).read_to_string(&mut text)?;
            Ok(serde_json::from_str(&text)?)
        };
        let book = match read() {
            Ok(book) if book.network == self.network => book,
            Ok(_) => return Vec::new(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
            Err(error) => {
                let path = self.path.display();
                tracing::warn!(%path, %error, "the remembered nodes cannot be read and are left out");
                return Vec::new();
            }
        };
        let met = book.peers.into_iter().take(REMEMBERED_MAX).filter_map(|met| {
            let addresses = met.addresses.iter().take(PER_NODE_MAX);
            let addresses: Vec<_> = addresses.filter_map(|text| text.parse().ok()).collect();
            Some((met.peer.parse().ok()?, addresses)).filter(|(_, found)| !found.is_empty())
        });
        met.collect()
    }

    /// Writes it whole: a reader, or the next start after a crash, sees the old file or the new one.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, peers: &[(PeerId, Vec<Multiaddr>)]) -> io::Result<()> {
        let met = peers.iter().take(REMEMBERED_MAX).map(|(peer, addresses)| Met {
            peer: peer.to_string(),
            addresses: addresses.iter().take(PER_NODE_MAX).map(Multiaddr::to_string).collect(),
        });
        let book = Book { network: self.network.clone(), peers: met.collect() };
        let partial = self.path.with_extension("partial");
        fs::write(&partial, serde_json::to_vec(&book)?)?;
        fs::rename(&partial, &self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_met_is_read_back_and_never_more_than_it_may_be() {
        let dir = tempfile::tempdir().unwrap();
        let file = Remembered::in_dir(dir.path(), "a");
        assert!(file.read().is_empty());
        let address: Multiaddr = "/ip4/127.0.0.1/tcp/4001".parse().unwrap();
        let met: Vec<_> = (0..40).map(|_| (PeerId::random(), vec![address.clone(); 20])).collect();
        file.write(&met).unwrap();
        let read = file.read();
        assert_eq!(read.len(), REMEMBERED_MAX);
        assert_eq!((read[0].0, read[0].1.len()), (met[0].0, PER_NODE_MAX));
        assert!(Remembered::in_dir(dir.path(), "b").read().is_empty());
    }

    #[test]
    fn a_broken_file_is_as_good_as_none() {
        let dir = tempfile::tempdir().unwrap();
        let file = Remembered::in_dir(dir.path(), "a");
        for text in ["", "{", r#"{"network":"a","peers":[{"peer":"x","addresses":["y"]}]}"#] {
            fs::write(dir.path().join("peers.json"), text).unwrap();
            assert!(file.read().is_empty(), "{text}");
        }
    }
}
