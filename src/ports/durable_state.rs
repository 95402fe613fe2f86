//! Keeps the little that a node must know of its membership after a crash.

use std::io;

use nomad_core::group::membership::Durable;

/// The keeper. Both calls may block.
pub trait DurableState: Send + Sync + 'static {
    /// Returns what was kept last; `None` on a node's first start.
    ///
    /// # Errors
    /// When it is there and cannot be read. A node must not go on as if it had never run.
    fn load(&self) -> io::Result<Option<Durable>>;

    /// Keeps it. Once this returns it survives a power cut, and until then what was kept before does.
    ///
    /// # Errors
    /// When the disk refuses.
    fn save(&self, durable: &Durable) -> io::Result<()>;
}
