//! How much room the disk has, and what that is enough for: all, deletions alone, or nothing.
//!
//! A batch that the disk has no room for is refused before it begins. Begun, it would fail half-way, and nobody would know what
//! became of it.

use std::sync::atomic::Ordering::Relaxed;

use super::fjall_store::StoreShared;
use nomad_core::model::time::MonotonicUs;
use nomad_ports::object_store::StoreHealth;

/// The room that the engine needs beside that of what is not in its tables yet: for its own records, and to try the disk.
const OWN_BYTES: u64 = 2 << 20;
/// The most room that is asked for the rest; what is written to tables first makes room for what follows.
const UNFLUSHED_BYTES_MAX: u64 = 32 << 20;
/// How old a look at the disk may be for those who only want to know.
const AGE_US_MAX: u64 = 10_000;

/// What there is room for on the disk.
pub(super) enum Room {
    Enough,
    /// For this reason not for more.
    ForDeletions(String),
    None(String),
}

impl StoreShared {
    /// Returns how many bytes have to be free for the engine to go on.
    pub fn needed_bytes(&self) -> u64 {
        // While the database is being opened again, nothing waits to be written to a table.
        let slot = self.engine.try_read();
        let unflushed = slot.and_then(|slot| Some(slot.as_ref()?.db.write_buffer_size()));
        OWN_BYTES + unflushed.unwrap_or(0).min(UNFLUSHED_BYTES_MAX)
    }

    /// Looks how much room there is for so many more bytes. A deletion may use the reserve, but for what the engine needs.
    pub fn look_at_room(&self, wanted: u64) -> Room {
        self.room_seen.store(self.options.clock.monotonic().0, Relaxed);
        let (min_free, needed) = (self.options.min_free_bytes, self.needed_bytes());
        let room = match self.free_bytes() {
            Some(free) if free < needed => Room::None(
                self.short_of(free, &format!("the store needs {needed} to go on; make room")),
            ),
            Some(free) if free < min_free.max(needed).saturating_add(wanted) => {
                let why = if min_free > needed {
                    format!("node.storage.minFreeBytes keeps {min_free} free")
                } else {
                    format!("the store needs {needed} to go on, and {wanted} for this")
                };
                Room::ForDeletions(
                    self.short_of(free, &format!("{why}; make room, or delete objects")),
                )
            }
            _ => Room::Enough,
        };
        self.show_room(match &room {
            Room::Enough => StoreHealth::Up,
            Room::ForDeletions(reason) => StoreHealth::ForDeletions { reason: reason.clone() },
            Room::None(reason) => StoreHealth::ReadOnly { reason: reason.clone() },
        });
        room
    }

    fn show_room(&self, shortage: StoreHealth) {
        if shortage != StoreHealth::Up || self.is_short() {
            *self.shortage.write() = shortage;
        }
    }

    /// Tells whether the disk was too full for more.
    pub fn is_short(&self) -> bool {
        *self.shortage.read() != StoreHealth::Up
    }

    /// Says what the disk has no room for. It looks itself unless somebody has just done so.
    pub fn shortage(&self) -> StoreHealth {
        let seen = MonotonicUs(self.room_seen.load(Relaxed));
        if self.options.clock.monotonic().since(seen) > AGE_US_MAX {
            self.look_at_room(0);
        }
        self.shortage.read().clone()
    }

    fn free_bytes(&self) -> Option<u64> {
        let stat = rustix::fs::statvfs(&self.options.dir).ok()?;
        Some(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn short_of(&self, free: u64, why: &str) -> String {
        format!(
            "only {free} bytes are free on the disk of {}, and {why}",
            self.options.dir.display()
        )
    }
}
