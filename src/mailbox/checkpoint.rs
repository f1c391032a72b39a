//! The state written down a slice at a time, so that a start reads that and what came after.

use super::items::Cursor;
use super::store::{Inner, Store};
use crate::journal::upkeep::{AT_STOP_BYTES, LOOK_PERIOD};
use crate::journal::{AppendError, Ticket};
use crate::runtime::timer;

impl Store {
    /// Makes checkpoints when they are due.
    pub(super) async fn run_checkpoints(self) {
        while !self.inner.is_stopping() {
            timer::sleep(LOOK_PERIOD).await;
            if self.inner.journal.checkpoint_is_due() {
                self.checkpoint().await;
            }
        }
    }

    /// Spares the next start what the log has grown to, where that is worth a moment.
    pub(super) async fn checkpoint_at_stop(&self) {
        self.inner.checkpointing.hurry().await;
        if self.inner.journal.log_bytes_behind_checkpoint() >= AT_STOP_BYTES {
            self.checkpoint().await;
        }
    }

    /// One checkpoint, durable at the end. Returns without one when there is no room for it, or
    /// when one is under way.
    async fn checkpoint(&self) {
        let inner = &self.inner;
        let checkpoint = async {
            // Every record before BEGIN has moved the state when it was appended.
            let begin = || inner.journal.begin_checkpoint();
            inner.checkpointing.step(&inner.journal, begin).await.ok()?;
            let Ok(end) = self.write_items().await else { return Some(false) };
            inner.journal.durable(end).await;
            Some(true)
        };
        inner.checkpointing.run(checkpoint).await;
    }

    async fn write_items(&self) -> Result<Ticket, AppendError> {
        let Inner { journal, partition, checkpointing, .. } = &*self.inner;
        let mut next = Some(Cursor::Start);
        while let Some(cursor) = next {
            // Built and appended without a pause between: an item says what holds at its place.
            next = checkpointing
                .step(journal, || {
                    let (payload, next) = partition.borrow().next_items(cursor);
                    journal.append_items(&payload).map(|_| next)
                })
                .await?;
            checkpointing.pause().await;
        }
        checkpointing.step(journal, || journal.end_checkpoint()).await
    }
}
