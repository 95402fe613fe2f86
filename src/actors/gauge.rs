//! What an actor shows of itself to whoever wants to see it, without a message.

use parking_lot::Mutex;

/// A value that one actor sets and anybody reads. It outlives the actor's restarts.
#[derive(Debug, Default)]
pub struct Gauge<T>(Mutex<T>);

impl<T: Clone> Gauge<T> {
    /// Returns the value.
    pub fn read(&self) -> T {
        self.0.lock().clone()
    }

    pub(super) fn set(&self, value: T) {
        *self.0.lock() = value;
    }
}
