//! Looks over the engine's journals before the engine replays them.
//!
//! fjall checks the items of each batch against a checksum, but neither the batch's sequence number nor the lengths that
//! frame it, and takes whatever does not parse for the torn end of a crash. So one flipped bit could reorder two writes
//! of one object, or silently drop every batch behind it. This check reads the framing alone: it lets a torn tail pass
//! and refuses damage that has whole batches behind it. Layout: fjall 3, `journal/entry.rs`.

use std::{
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
};

use super::OpenError;

/// Ends every batch.
const MAGIC: &[u8] = b"FJL\x03";
const TAG_START: u8 = 1;
const TAG_ITEM: u8 = 2;
const TAG_END: u8 = 3;
const TAG_CLEAR: u8 = 4;
const CHUNK_BYTES: usize = 64 << 10;

/// Checks the journals of a directory; one that does not exist yet is fine.
///
/// # Errors
/// Names the journal, the byte and what is wrong there.
pub fn check(dir: &Path) -> Result<(), OpenError> {
    let unreadable = |source| OpenError::Dir { dir: dir.to_owned(), source };
    let mut last_seqno = None;
    for path in journals(dir).map_err(unreadable)? {
        let bytes = read_without_tail(&path).map_err(unreadable)?;
        let damaged = |(at, reason): (usize, String)| OpenError::Damaged {
            journal: path.clone(),
            at: at as u64,
            reason,
        };
        last_seqno = check_journal(&bytes, last_seqno).map_err(damaged)?;
    }
    Ok(())
}

/// Returns the journals, oldest first.
fn journals(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let number = path
            .file_name()
            .and_then(|name| name.to_str()?.strip_suffix(".jnl")?.parse::<u64>().ok());
        if let Some(number) = number {
            found.push((number, path));
        }
    }
    found.sort();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

/// Walks the batches of one journal. Returns the last sequence number seen so far.
fn check_journal(bytes: &[u8], mut last: Option<u64>) -> Result<Option<u64>, (usize, String)> {
    let mut at = 0;
    while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
        match batch(rest) {
            Some((seqno, len)) => {
                if last.is_some_and(|last| seqno <= last) {
                    let reason =
                        format!("batch number {seqno} follows {}", last.unwrap_or_default());
                    return Err((at, reason));
                }
                last = Some(seqno);
                at += len;
            }
            None if has_whole_batch_behind(rest) => {
                return Err((at, "a batch does not read back, and whole ones follow it".into()));
            }
            // The space behind the last batch is zero, or holds a batch that was not written to its end.
            None => break,
        }
    }
    Ok(last)
}

/// Reads one batch: its sequence number and its length in bytes. `None` when it is not whole.
fn batch(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut reader = Cursor { bytes, at: 0 };
    if reader.u8()? != TAG_START {
        return None;
    }
    let count = reader.u32()?;
    let seqno = reader.u64()?;
    for _ in 0..count {
        match reader.u8()? {
            TAG_ITEM => {
                reader.skip(2)?;
                reader.u64()?;
                let (key_len, value_len, disk_len) = (reader.u16()?, reader.u32()?, reader.u32()?);
                // The journal is written uncompressed, so both lengths are one.
                if value_len != disk_len {
                    return None;
                }
                reader.skip(usize::from(key_len) + disk_len as usize)?;
            }
            TAG_CLEAR => reader.skip(8)?,
            _ => return None,
        }
    }
    if reader.u8()? != TAG_END {
        return None;
    }
    reader.skip(8)?;
    (reader.take(MAGIC.len())? == MAGIC).then_some((seqno, reader.at))
}

/// Tells whether a whole batch follows any trailer in `rest`.
fn has_whole_batch_behind(rest: &[u8]) -> bool {
    let mut ends = rest.windows(MAGIC.len()).enumerate().filter(|(_, window)| *window == MAGIC);
    ends.any(|(end, _)| rest.get(end + MAGIC.len()..).and_then(batch).is_some())
}

/// Reads a journal but for the zeros at its end, to which the engine extends it beforehand.
fn read_without_tail(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let (mut chunk, zeros) = (vec![0; CHUNK_BYTES], vec![0; CHUNK_BYTES]);
    let (mut bytes, mut zero_bytes) = (Vec::new(), 0);
    loop {
        let len = file.read(&mut chunk)?;
        let read = chunk.get(..len).unwrap_or_default();
        if read.is_empty() {
            return Ok(bytes);
        }
        if zeros.get(..len) == Some(read) {
            zero_bytes += len;
        } else {
            bytes.resize(bytes.len() + zero_bytes, 0);
            zero_bytes = 0;
            bytes.extend_from_slice(read);
        }
    }
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(len)?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    fn skip(&mut self, len: usize) -> Option<()> {
        self.take(len).map(|_| ())
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2)?.try_into().ok().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take(8)?.try_into().ok().map(u64::from_le_bytes)
    }
}
