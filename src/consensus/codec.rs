//! Bytes with a version byte in front: of records on disk, and of messages between nodes.

use serde::{Serialize, de::DeserializeOwned};

/// The format on disk that this program writes and reads.
pub const DISK: u8 = 1;
/// The version of the messages between nodes.
pub const WIRE: u8 = 1;

/// Writes a value behind a version byte.
///
/// # Errors
/// When the value cannot be written, which is a defect of its type.
pub fn encode(version: u8, value: &impl Serialize) -> Result<Vec<u8>, String> {
    postcard::to_extend(value, vec![version]).map_err(|error| error.to_string())
}

/// Reads a value that takes up all of `bytes` behind the version byte.
///
/// # Errors
/// Says what does not fit.
pub fn decode<T: DeserializeOwned>(version: u8, bytes: &[u8]) -> Result<T, String> {
    match bytes.split_first() {
        Some((&found, rest)) if found == version => match postcard::take_from_bytes(rest) {
            Ok((value, [])) => Ok(value),
            Ok((_, left)) => Err(format!("{} bytes too many", left.len())),
            Err(error) => Err(error.to_string()),
        },
        Some((found, _)) => Err(format!("version {found}, where {version} is read")),
        None => Err("no bytes at all".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_reads_back_and_anything_else_is_refused() {
        let value = (7u64, "seven".to_owned());
        let bytes = encode(DISK, &value).unwrap();
        assert_eq!(decode::<(u64, String)>(DISK, &bytes), Ok(value));
        for len in 0..bytes.len() {
            decode::<(u64, String)>(DISK, &bytes[..len]).unwrap_err();
        }
        decode::<(u64, String)>(DISK, &[&bytes[..], &[0]].concat()).unwrap_err();
        let error = decode::<(u64, String)>(2, &bytes).unwrap_err();
        assert_eq!(error, "version 1, where 2 is read");
    }
}
