//! The node's identity: an ed25519 key in its data directory, made at the first start, readable by its owner alone.

use std::{fs, io::ErrorKind, path::Path};

use libp2p_identity::Keypair;

use super::{DataDirError, data_dir::replace};
use nomad_core::model::node_id::NodeId;

/// Who the node is.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Its name.
    pub node: NodeId,
    /// Its key, with which it proves its name to others.
    pub key: Keypair,
}

impl Identity {
    /// Reads the key of a data directory, or makes one.
    ///
    /// # Errors
    /// When the file cannot be read or written, or holds no key.
    pub fn load_or_make(dir: &Path) -> Result<Self, DataDirError> {
        let path = dir.join("identity.key");
        let io = |source| DataDirError::Io { path: path.clone(), source };
        let bad = |reason: String| DataDirError::Key { path: path.clone(), reason };
        let key = match fs::read(&path) {
            Ok(bytes) => {
                Keypair::from_protobuf_encoding(&bytes).map_err(|error| bad(error.to_string()))?
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let key = Keypair::generate_ed25519();
                let bytes = key.to_protobuf_encoding().map_err(|error| bad(error.to_string()))?;
                replace(&path, &bytes).map_err(io)?;
                key
            }
            Err(error) => return Err(io(error)),
        };
        let public = key.public().try_into_ed25519().map_err(|error| bad(error.to_string()))?;
        Ok(Self { node: NodeId::from_key(public.to_bytes()), key })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_is_its_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        let first = Identity::load_or_make(dir.path()).unwrap();
        let again = Identity::load_or_make(dir.path()).unwrap();
        assert_eq!(first.node, again.node);
        assert!(first.node.to_string().starts_with("12D3KooW"), "{}", first.node);
        let mode = fs::metadata(dir.path().join("identity.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_broken_key_is_an_error_and_stays_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("identity.key");
        fs::write(&path, b"broken").unwrap();
        let error = Identity::load_or_make(dir.path()).unwrap_err().to_string();
        assert!(error.contains("identity.key"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"broken");
    }
}
