//! Looks over the engine's journals before the engine replays them, and cuts off what a crash has left half written.
//!
//! fjall checks the items of each batch against a checksum, but neither the batch's sequence number nor the lengths that
//! frame it, and takes whatever does not parse for the torn end of a crash. So one flipped bit could reorder two writes
//! of one object, or silently drop every batch behind it; and a last batch whose framing is whole, but not its values,
//! would not let the store open at all. This check cuts off a torn tail and refuses damage that has whole batches behind
//! it. Layout: fjall 3, `journal/entry.rs`; the checksum is over the items as they are written.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read},
    iter,
    path::{Path, PathBuf},
};

use tracing::warn;
use xxhash_rust::xxh3::xxh3_64;

use super::StoreOpenError;
use nomad_core::model::object::ObjectId;

/// Ends every batch.
const MAGIC: &[u8] = b"FJL\x03";
const TAG_START: u8 = 1;
const TAG_ITEM: u8 = 2;
const TAG_END: u8 = 3;
const TAG_CLEAR: u8 = 4;
const CHUNK_BYTES: usize = 64 << 10;
/// The longest key: one of the expiry index.
const KEY_BYTES_MAX: usize = 10 + ObjectId::BYTES_MAX;
/// How far behind the last one the number of a batch behind damage may be. What looks like a batch and is farther away
/// is part of a value.
const SEQNO_STEP_MAX: u64 = 65_536;
/// The engine's marker of a directory that it has made, and how long it is.
const VERSION_MARKER: &str = "version";
const VERSION_BYTES: usize = 4;

/// What of a journal does not read back.
struct Flaw {
    at: usize,
    reason: String,
    /// Whether nothing whole follows it.
    torn: bool,
}

/// Removes what is left of a first start that was killed before the engine had marked the directory as its own: it
/// refuses to make its files a second time. No object can be there yet.
///
/// # Errors
/// What the operating system says.
pub fn clear_first_start(dir: &Path) -> io::Result<()> {
    let marker = dir.join(VERSION_MARKER);
    let marked = match fs::read(&marker) {
        Ok(bytes) => bytes.len() >= VERSION_BYTES && bytes.iter().any(|&byte| byte != 0),
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(error),
    };
    if marked {
        return Ok(());
    }
    let journals = journals(dir)?;
    for (number, path) in &journals {
        if *number != 0 || !read_without_tail(path)?.is_empty() {
            return Ok(());
        }
    }
    let journals = journals.into_iter().map(|(_, path)| path);
    for path in journals.chain(iter::once(marker)) {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Checks the journals of a directory, which is locked by the caller, and cuts off a torn tail. Where batches are not
/// `durable` one by one a power cut may tear any of those since the last fsync: all from the first damage on is cut off.
///
/// # Errors
/// Names the journal, the byte and what is wrong there.
pub fn check(dir: &Path, durable: bool) -> Result<(), StoreOpenError> {
    let unreadable = |source| StoreOpenError::Dir { dir: dir.to_owned(), source };
    let mut last_seqno = None;
    let mut tail: Option<(PathBuf, Flaw)> = None;
    for (_, path) in journals(dir).map_err(unreadable)? {
        let bytes = read_without_tail(&path).map_err(unreadable)?;
        let checked = match &tail {
            Some(_) if bytes.is_empty() => continue,
            Some((journal, flaw)) if durable => {
                let reason = format!("{}, and another journal follows it", flaw.reason);
                let (journal, at) = (journal.clone(), flaw.at as u64);
                return Err(StoreOpenError::Damaged { journal, at, reason });
            }
            Some(_) => {
                cut(&path, 0).map_err(unreadable)?;
                continue;
            }
            None => check_journal(&bytes, &mut last_seqno),
        };
        match checked {
            Ok(()) => {}
            Err(flaw) if durable && !flaw.torn => {
                let Flaw { at, reason, .. } = flaw;
                return Err(StoreOpenError::Damaged { journal: path, at: at as u64, reason });
            }
            Err(flaw) => tail = Some((path, flaw)),
        }
    }
    let Some((path, Flaw { at, reason, torn })) = tail else { return Ok(()) };
    warn!(journal = %path.display(), at, %reason, torn, "the end of the journal is cut off");
    cut(&path, at).map_err(unreadable)
}

fn cut(journal: &Path, at: usize) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(journal)?;
    file.set_len(at as u64)?;
    file.sync_all()
}

/// Returns the journals with their numbers, oldest first.
pub fn journals(dir: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
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
    Ok(found)
}

/// Walks the batches of one journal. `last` is the last sequence number seen so far.
fn check_journal(bytes: &[u8], last: &mut Option<u64>) -> Result<(), Flaw> {
    let mut at = 0;
    while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
        match batch(rest) {
            Ok((seqno, _)) if last.is_some_and(|last| seqno <= last) => {
                let reason = format!("batch number {seqno} follows {}", last.unwrap_or_default());
                return Err(Flaw { at, reason, torn: false });
            }
            Ok((seqno, len)) => {
                *last = Some(seqno);
                at += len;
            }
            Err(stopped) if has_whole_batch_behind(rest, stopped, *last) => {
                let reason = "a batch does not read back, and whole ones follow it".into();
                return Err(Flaw { at, reason, torn: false });
            }
            // A batch that was not written to its end, so that nobody was told of it.
            Err(_) => {
                let reason = "the last batch was not written to its end".into();
                return Err(Flaw { at, reason, torn: true });
            }
        }
    }
    Ok(())
}

/// Reads one batch: its sequence number and its length in bytes. If the batch is not whole, returns the point up to which
/// everything certainly belongs to it.
fn batch(bytes: &[u8]) -> Result<(u64, usize), usize> {
    let mut reader = Cursor { bytes, at: 0 };
    let parsed = framing(&mut reader);
    let stopped = reader.at;
    let (seqno, items, checksum) = parsed.ok_or(stopped)?;
    if items.is_some_and(|items| xxh3_64(items) == checksum) {
        Ok((seqno, stopped))
    } else {
        Err(stopped)
    }
}

/// Reads the framing of a batch: its sequence number, its items and their checksum.
fn framing<'a>(reader: &mut Cursor<'a>) -> Option<(u64, Option<&'a [u8]>, u64)> {
    if reader.u8()? != TAG_START {
        return None;
    }
    let count = reader.u32()?;
    let seqno = reader.u64()?;
    let start = reader.at;
    for _ in 0..count {
        match reader.u8()? {
            TAG_ITEM => {
                reader.skip(2)?;
                reader.u64()?;
                let (key_len, value_len, disk_len) = (reader.u16()?, reader.u32()?, reader.u32()?);
                // The journal is written uncompressed, so both lengths are one.
                if value_len != disk_len || usize::from(key_len) > KEY_BYTES_MAX {
                    return None;
                }
                reader.skip(usize::from(key_len))?;
                let value_len = value_len as usize;
                if reader.skip(value_len).is_none() {
                    // Torn inside the value: nothing in it is a batch.
                    reader.at = reader.bytes.len();
                    return None;
                }
            }
            TAG_CLEAR => reader.skip(8)?,
            _ => return None,
        }
    }
    let items = reader.bytes.get(start..reader.at);
    if reader.u8()? != TAG_END {
        return None;
    }
    let checksum = reader.u64()?;
    (reader.take(MAGIC.len())? == MAGIC).then_some((seqno, items, checksum))
}

/// Tells whether a whole batch starts at `from` or behind any trailer that follows.
fn has_whole_batch_behind(rest: &[u8], from: usize, last: Option<u64>) -> bool {
    let is_next = |start: usize| {
        let found = rest.get(start..).and_then(|bytes| batch(bytes).ok());
        found.is_some_and(|(seqno, _)| {
            last.is_none_or(|last| seqno > last && seqno - last <= SEQNO_STEP_MAX)
        })
    };
    let windows = rest.get(from..).unwrap_or_default().windows(MAGIC.len()).enumerate();
    let trailers = windows.filter(|(_, window)| *window == MAGIC);
    iter::once(from).chain(trailers.map(|(at, _)| from + at + MAGIC.len())).any(is_next)
}

/// Reads a journal but for the zeros at its end, to which the engine extends it beforehand.
fn read_without_tail(path: &Path) -> io::Result<Vec<u8>> {
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
