//! Openraft's state machine: the group table. In memory; built again from the last snapshot and the log.

use std::{io::Cursor, sync::Arc};

use openraft::{
    AnyError, EntryPayload, OptionalSend, RaftSnapshotBuilder, Snapshot, StorageIOError,
    storage::RaftStateMachine,
};
use tokio::sync::watch;

use super::{
    codec::{self, DISK},
    store::{Handle, KEY_SNAPSHOT, KeptSnapshot},
    types::{
        RaftEntry, RaftLogId, RaftRecord, SnapshotMeta, StorageError, StoredMembership, Types,
    },
};
use nomad_core::group::table::{Applied, GroupTable};

/// The table after the last entry that is applied.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AppliedState {
    pub table: Option<Arc<GroupTable>>,
    pub applied: Option<RaftLogId>,
    /// Who votes and follows, as far as that is committed.
    pub membership: StoredMembership,
}

/// The state machine of one group; publishes its state.
#[derive(Debug)]
pub struct Machine {
    handle: Handle,
    state: AppliedState,
    published: watch::Sender<AppliedState>,
}

/// Writes a table as a snapshot holds it.
pub fn encode_table(table: Option<&GroupTable>) -> Result<Vec<u8>, String> {
    codec::encode(DISK, &table)
}

/// Reads what a snapshot holds.
///
/// # Errors
/// Says what does not fit.
pub fn decode_table(bytes: &[u8]) -> Result<Option<GroupTable>, String> {
    codec::decode(DISK, bytes)
}

fn state_of(meta: &SnapshotMeta, bytes: &[u8]) -> Result<AppliedState, String> {
    Ok(AppliedState {
        table: decode_table(bytes)?.map(Arc::new),
        applied: meta.last_log_id,
        membership: meta.last_membership.clone(),
    })
}

impl Machine {
    /// Starts from the snapshot that is kept, if there is one.
    ///
    /// # Errors
    /// When it does not read back.
    pub fn new(handle: Handle, published: watch::Sender<AppliedState>) -> Result<Self, String> {
        let snapshot = handle.read(|kept| kept.snapshot.clone());
        let state = match snapshot {
            Some(KeptSnapshot { meta, data }) => state_of(&meta, &data)
                .map_err(|why| format!("the snapshot does not read back: {why}"))?,
            None => AppliedState::default(),
        };
        published.send_replace(state.clone());
        Ok(Self { handle, state, published })
    }

    fn apply_one(&mut self, entry: RaftEntry) -> Applied {
        self.state.applied = Some(entry.log_id);
        match entry.payload {
            EntryPayload::Blank => Applied::Nothing,
            EntryPayload::Membership(membership) => {
                self.state.membership = StoredMembership::new(Some(entry.log_id), membership);
                Applied::Nothing
            }
            EntryPayload::Normal(RaftRecord::Found(table)) => match self.state.table {
                Some(_) => Applied::Nothing,
                None => {
                    self.state.table = Some(table);
                    Applied::Done
                }
            },
            EntryPayload::Normal(RaftRecord::Do(command)) => match &mut self.state.table {
                Some(table) => Arc::make_mut(table).apply(&command),
                // The founding is the first record of each log.
                None => Applied::Nothing,
            },
        }
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotBuilder = Builder;

    async fn applied_state(
        &mut self,
    ) -> Result<(Option<RaftLogId>, StoredMembership), StorageError> {
        Ok((self.state.applied, self.state.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Applied>, StorageError>
    where
        I: IntoIterator<Item = RaftEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let applied = entries.into_iter().map(|entry| self.apply_one(entry)).collect();
        self.published.send_replace(self.state.clone());
        Ok(applied)
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder { handle: self.handle.clone(), state: self.state.clone() }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, StorageError> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError> {
        let failed = |reason: String| {
            StorageIOError::write_snapshot(Some(meta.signature()), AnyError::error(reason))
        };
        let data = snapshot.into_inner();
        let state = state_of(meta, &data).map_err(failed)?;
        let kept = KeptSnapshot { meta: meta.clone(), data: Arc::new(data) };
        keep(&self.handle, kept).await.map_err(failed)?;
        self.state = state;
        self.published.send_replace(self.state.clone());
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<Types>>, StorageError> {
        let kept = self.handle.read(|kept| kept.snapshot.clone());
        Ok(kept.map(|KeptSnapshot { meta, data }| Snapshot {
            meta,
            snapshot: Box::new(Cursor::new(data.to_vec())),
        }))
    }
}

/// Makes a snapshot of the state that it was made with.
#[derive(Debug)]
pub struct Builder {
    handle: Handle,
    state: AppliedState,
}

impl RaftSnapshotBuilder<Types> for Builder {
    async fn build_snapshot(&mut self) -> Result<Snapshot<Types>, StorageError> {
        let AppliedState { table, applied, membership } = self.state.clone();
        // The same entries make the same table, so that the last one names the snapshot.
        let snapshot_id = applied.map_or_else(|| "empty".to_owned(), |applied| applied.to_string());
        let meta = SnapshotMeta { last_log_id: applied, last_membership: membership, snapshot_id };
        let failed = |reason: String| {
            StorageIOError::write_snapshot(Some(meta.signature()), AnyError::error(reason))
        };
        let data = encode_table(table.as_deref()).map_err(failed)?;
        let kept = KeptSnapshot { meta: meta.clone(), data: Arc::new(data.clone()) };
        keep(&self.handle, kept).await.map_err(failed)?;
        Ok(Snapshot { meta, snapshot: Box::new(Cursor::new(data)) })
    }
}

/// Keeps a snapshot, unless there is a later one: one that was sent can overtake one that is being built.
async fn keep(handle: &Handle, snapshot: KeptSnapshot) -> Result<(), String> {
    let kept = handle.write(|kept, changes| {
        let held = kept.snapshot.as_ref().map(|held| held.meta.last_log_id);
        if held.is_none_or(|held| held <= snapshot.meta.last_log_id) {
            changes.put(KEY_SNAPSHOT, &snapshot)?;
            kept.snapshot = Some(snapshot);
        }
        Ok(())
    });
    kept.await
}
