//! Which rescans this node has finished: the workers note theirs, membership waits for all of them.

use tokio::sync::watch;

use nomad_core::register::SHARDS;

/// The board of finished rescans. Shared by the workers of all shards.
#[derive(Debug)]
pub struct Rescans {
    /// For each shard the group and the epoch of its last finished rescan.
    done: watch::Sender<[Option<(String, u64)>; SHARDS as usize]>,
}

impl Default for Rescans {
    fn default() -> Self {
        Self { done: watch::Sender::new([const { None }; SHARDS as usize]) }
    }
}

impl Rescans {
    /// Notes that a shard has finished the rescan of an epoch.
    pub fn done(&self, shard: u8, group: &str, epoch: u64) {
        self.done.send_modify(|done| {
            if let Some(slot) = done.get_mut(usize::from(shard)) {
                *slot = Some((group.to_owned(), epoch));
            }
        });
    }

    /// Waits until all shards have finished the rescan of this epoch of this group.
    pub async fn all_done(&self, group: &str, epoch: u64) {
        let mut done = self.done.subscribe();
        let is_done = |slot: &Option<(String, u64)>| {
            slot.as_ref().is_some_and(|(of, at)| of == group && *at == epoch)
        };
        // The sender lives as long as this board does.
        let _ = done.wait_for(|done| done.iter().all(is_done)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_rescan_is_done_once_every_shard_has_done_that_one() {
        let rescans = Rescans::default();
        for shard in 1..SHARDS {
            rescans.done(shard, "g", 4);
        }
        rescans.done(0, "g", 2);
        let waiting = rescans.all_done("g", 4);
        tokio::pin!(waiting);
        assert!(futures::poll!(&mut waiting).is_pending());
        rescans.done(0, "h", 4);
        assert!(futures::poll!(&mut waiting).is_pending());
        rescans.done(0, "g", 4);
        waiting.await;
    }
}
