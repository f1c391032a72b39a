//! The state written down a slice at a time, so that a start reads that and what came after.

use std::time::Duration;

use super::items::Cursor;
use super::store::{Inner, Store};
use crate::journal::{AppendError, Ticket};
use crate::runtime::{task, timer};

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
        if inner.step(pace, || inner.journal.begin_checkpoint()).await.is_ok()
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
            next = inner
                .step(pace, || {
                    let (payload, next) = inner.partition.borrow().next_items(cursor);
                    inner.journal.append_items(&payload).map(|_| next)
                })
                .await?;
            match pace {
                Pace::Gentle => timer::sleep(PAUSE).await,
                Pace::Fast => task::yield_now().await,
            }
        }
        inner.step(pace, || inner.journal.end_checkpoint()).await
    }
}

impl Inner {
    /// Repeats a step until there is room for it. A checkpoint that was begun is never given up,
    /// unless the process is about to end: that waits for no room.
    async fn step<T>(
        &self,
        pace: Pace,
        mut step: impl FnMut() -> Result<T, AppendError>,
    ) -> Result<T, AppendError> {
        loop {
            match step() {
                Err(AppendError::Later) => self.journal.room().await,
                Err(AppendError::NoSpace) if pace == Pace::Gentle => {
                    timer::sleep(NO_SPACE_WAIT).await;
                }
                result => return result,
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Pace {
    /// Beside the mail.
    Gentle,
    /// Nobody waits for anything else.
    Fast,
}

/// How often it is looked whether one is due.
const LOOK_PERIOD: Duration = Duration::from_millis(100);
/// Between two payloads.
const PAUSE: Duration = Duration::from_millis(1);
/// Pause before a step is tried again that found no room.
const NO_SPACE_WAIT: Duration = Duration::from_millis(100);
/// Log that a clean stop leaves to the next start at the most.
const AT_STOP_BYTES: u64 = 16 * 1024 * 1024;
