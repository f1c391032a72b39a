//! The state written down a slice at a time, so that a start reads that and what came after.

use super::items::Cursor;
use super::store::Store;
use crate::journal::upkeep::{AT_STOP_BYTES, LOOK_PERIOD, Pace};
use crate::journal::{AppendError, Ticket};
use crate::runtime::timer;

impl Store {
    /// Makes checkpoints when they are due.
    pub(super) async fn run_checkpoints(self) {
        while !self.inner.is_stopping() {
            timer::sleep(LOOK_PERIOD).await;
            if self.inner.journal.checkpoint_is_due() {
                self.checkpoint(Pace::Gentle).await;
            }
        }
    }

    /// Spares the next start what the log has grown to, where that is worth a moment.
    pub(super) async fn checkpoint_at_stop(&self) {
        if self.inner.journal.log_bytes_behind_checkpoint() >= AT_STOP_BYTES {
            self.checkpoint(Pace::Fast).await;
        }
    }

    /// One checkpoint, durable at the end. Returns without one when there is no room for it, or
    /// when one is under way.
    async fn checkpoint(&self, pace: Pace) {
        let inner = &self.inner;
        if inner.checkpointing.replace(true) {
            return;
        }
        // Every record before BEGIN has moved the state when it was appended.
        if pace.step(&inner.journal, || inner.journal.begin_checkpoint()).await.is_ok()
            && let Ok(end) = self.write_items(pace).await
        {
            inner.journal.durable(end).await;
        }
        inner.checkpointing.set(false);
    }

    async fn write_items(&self, pace: Pace) -> Result<Ticket, AppendError> {
        let inner = &self.inner;
        let mut next = Some(Cursor::Start);
        while let Some(cursor) = next {
            // Built and appended without a pause between: an item says what holds at its place.
            next = pace
                .step(&inner.journal, || {
                    let (payload, next) = inner.partition.borrow().next_items(cursor);
                    inner.journal.append_items(&payload).map(|_| next)
                })
                .await?;
            pace.pause().await;
        }
        pace.step(&inner.journal, || inner.journal.end_checkpoint()).await
    }
}
