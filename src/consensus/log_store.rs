//! Openraft's log and vote, on the store.

use std::{fmt::Debug, ops::RangeBounds};

use openraft::{
    AnyError, LogState, OptionalSend, RaftLogReader, StorageIOError,
    storage::{LogFlushed, RaftLogStorage},
};

use super::{
    store::{Handle, KEY_COMMITTED, KEY_PURGED, KEY_VOTE, LogWaiter},
    types::{RaftEntry, RaftLogId, RaftVote, StorageError, Types},
};

/// The most bytes of entries in one message; one entry always goes.
pub const ENTRIES_BYTES_MAX: usize = 512 << 10;

/// The log of one group.
#[derive(Debug, Clone)]
pub struct LogStore {
    handle: Handle,
}

impl LogStore {
    pub fn new(handle: Handle) -> Self {
        Self { handle }
    }
}

fn log_error(reason: String) -> StorageError {
    StorageIOError::write_logs(AnyError::error(reason)).into()
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<RaftEntry>, StorageError> {
        let entries = self.handle.read(|kept| {
            let range = (range.start_bound().cloned(), range.end_bound().cloned());
            kept.log.range(range).map(|(_, (entry, _))| entry.clone()).collect()
        });
        Ok(entries)
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<RaftEntry>, StorageError> {
        let entries = self.handle.read(|kept| {
            let mut bytes = 0;
            let fits = |(_, (_, len)): &(&u64, &(RaftEntry, usize))| {
                let is_first = bytes == 0;
                bytes += len;
                is_first || bytes <= ENTRIES_BYTES_MAX
            };
            let entries = kept.log.range(start..end).take_while(fits);
            entries.map(|(_, (entry, _))| entry.clone()).collect()
        });
        Ok(entries)
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, StorageError> {
        Ok(self.handle.read(|kept| LogState {
            last_purged_log_id: kept.purged,
            last_log_id: kept.last_log_id(),
        }))
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &RaftVote) -> Result<(), StorageError> {
        let saved = self.handle.write(|kept, changes| {
            kept.vote = Some(*vote);
            changes.put(KEY_VOTE, vote)
        });
        let saved = saved.await;
        saved.map_err(|reason| StorageIOError::write_vote(AnyError::error(reason)).into())
    }

    async fn read_vote(&mut self) -> Result<Option<RaftVote>, StorageError> {
        Ok(self.handle.read(|kept| kept.vote))
    }

    /// Durable too: what is applied after this is what this node has shown, and shows again when it comes back.
    async fn save_committed(&mut self, committed: Option<RaftLogId>) -> Result<(), StorageError> {
        let saved = self.handle.write(|kept, changes| {
            kept.committed = committed;
            changes.put(KEY_COMMITTED, &committed)
        });
        saved.await.map_err(log_error)
    }

    async fn read_committed(&mut self) -> Result<Option<RaftLogId>, StorageError> {
        Ok(self.handle.read(|kept| kept.committed))
    }

    async fn append<I>(&mut self, entries: I, done: LogFlushed<Types>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = RaftEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let submitted = self.handle.submit(
            |kept, changes| {
                for entry in entries {
                    let len = changes.entry(&entry)?;
                    kept.log.insert(entry.log_id.index, (entry, len));
                }
                Ok(())
            },
            LogWaiter::Flushed(done),
        );
        submitted.map_err(log_error)
    }

    async fn truncate(&mut self, since: RaftLogId) -> Result<(), StorageError> {
        let truncated = self.handle.write(|kept, changes| {
            let cut = kept.log.split_off(&since.index);
            cut.into_keys().for_each(|index| changes.remove_entry(index));
            Ok(())
        });
        truncated.await.map_err(log_error)
    }

    async fn purge(&mut self, upto: RaftLogId) -> Result<(), StorageError> {
        let purged = self.handle.write(|kept, changes| {
            let left = kept.log.split_off(&upto.index.saturating_add(1));
            let cut = std::mem::replace(&mut kept.log, left);
            cut.into_keys().for_each(|index| changes.remove_entry(index));
            kept.purged = kept.purged.max(Some(upto));
            changes.put(KEY_PURGED, &upto)
        });
        purged.await.map_err(log_error)
    }
}
