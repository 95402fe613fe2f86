//! Readings of the store for others, on threads that may wait: so many run at a time, and so many more wait for their turn.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::shell::Reply;

/// The places of readings.
pub struct Readings {
    running: Arc<Semaphore>,
    places: Arc<Semaphore>,
}

impl Readings {
    /// Lets `running_max` run at a time, and `places_max` run or wait.
    pub fn new(running_max: usize, places_max: usize) -> Self {
        let places = |count| Arc::new(Semaphore::new(count));
        Self { running: places(running_max), places: places(places_max) }
    }

    /// Answers with what is read, unless whoever has asked has gone while the reading waited.
    ///
    /// # Errors
    /// Gives the reply back when too many wait.
    pub fn answer<T: Send + 'static>(
        &self,
        reply: Reply<T>,
        read: impl FnOnce() -> T + Send + 'static,
    ) -> Result<(), Reply<T>> {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else { return Err(reply) };
        let running = Arc::clone(&self.running);
        tokio::spawn(async move {
            let Ok(permit) = running.acquire_owned().await else { return };
            tokio::task::spawn_blocking(move || {
                let _held = (place, permit);
                if !reply.is_closed() {
                    reply.send(read());
                }
            });
        });
        Ok(())
    }
}
