//! Puts a snapshot together from its pieces. One at a time. Memory grows only with the pieces that have come, up to a limit.

use super::{
    machine,
    rpc::{Piece, Received},
    types::{Participant, SnapshotMeta},
};

/// A snapshot under way.
#[derive(Debug, Default)]
pub struct IncomingSnapshot {
    begun: Option<Begun>,
}

#[derive(Debug)]
struct Begun {
    from: Participant,
    meta: SnapshotMeta,
    total: u64,
    bytes: Vec<u8>,
}

/// What a piece has led to.
#[derive(Debug, PartialEq)]
pub enum Taken {
    /// An answer.
    Answer(Received),
    /// The whole snapshot, looked over.
    Whole(Vec<u8>),
}

impl IncomingSnapshot {
    /// Takes a piece that was already checked by itself.
    ///
    /// # Errors
    /// When the whole is no snapshot of a table.
    pub fn take(&mut self, from: Participant, group: &str, piece: &Piece) -> Result<Taken, String> {
        if piece.offset == 0 {
            let (meta, total) = (piece.meta.clone(), piece.total);
            self.begun = Some(Begun { from, meta, total, bytes: Vec::new() });
        }
        let fits = |begun: &Begun| {
            begun.from == from
                && begun.meta == piece.meta
                && begun.total == piece.total
                && begun.bytes.len() as u64 == piece.offset
        };
        let Some(mut begun) = self.begun.take().filter(fits) else {
            return Ok(Taken::Answer(Received::Again));
        };
        begun.bytes.extend_from_slice(&piece.data);
        if (begun.bytes.len() as u64) < begun.total {
            self.begun = Some(begun);
            return Ok(Taken::Answer(Received::More));
        }
        match machine::decode_table(&begun.bytes)? {
            Some(table) if table.name != group => {
                Err(format!("a snapshot of {:?} for {group:?}", table.name))
            }
            _ => Ok(Taken::Whole(begun.bytes)),
        }
    }
}
