//! The index written down a slice at a time, so that a start reads that and what came after.

use std::time::Duration;

use super::items::Items;
use super::store::{Inner, Queue};
use crate::journal::{AppendError, Ticket};
use crate::runtime::{task, timer};

impl Queue {
    /// Makes checkpoints when they are due.
    pub(super) async fn run_checkpoints(self) {
        loop {
            timer::sleep(LOOK_PERIOD).await;
            if self.inner.journal.checkpoint_is_due() {
                self.checkpoint(Pace::Gentle).await;
            }
        }
    }

    /// Spares the next start what the log has grown to, where that is worth a moment.
    pub async fn checkpoint_at_stop(&self) {
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
        if let Ok(begin) = inner.step(pace, || inner.journal.begin_checkpoint()).await {
            inner.journal.durable(begin).await;
            // What was committed before BEGIN must be listed, so it must be known.
            while inner.commits.borrow().front().is_some_and(|(ticket, _)| *ticket <= begin) {
                timer::sleep(COMMIT_POLL).await;
            }
            if let Ok(end) = self.write_items(pace).await {
                inner.journal.durable(end).await;
            }
        }
        inner.checkpointing.set(false);
    }

    async fn write_items(&self, pace: Pace) -> Result<Ticket, AppendError> {
        let inner = &self.inner;
        let mut from = Some(0);
        while let Some(slot) = from {
            // Built and appended without a pause between: an item says what holds at its place.
            from = inner
                .step(pace, || {
                    let (payload, next) = inner.items_from(slot);
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

/// A message on its way into the index. Dropped midway, it is none: nobody was told of it.
pub(super) struct Commit<'a> {
    inner: &'a Inner,
    ticket: Ticket,
}

impl<'a> Commit<'a> {
    pub fn new(inner: &'a Inner, ticket: Ticket) -> Self {
        inner.expect_commit(ticket);
        Self { inner, ticket }
    }
}

impl Drop for Commit<'_> {
    fn drop(&mut self) {
        self.inner.commit_is_known(self.ticket);
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

    /// The next payload of ITEMS, with messages in the slots from `from` on, and where to go on.
    fn items_from(&self, from: u32) -> (Vec<u8>, Option<u32>) {
        let index = self.index.borrow();
        let mut items = Items::new();
        if from == 0 {
            self.malformed.iter().for_each(|(id, place)| items.add_place(*id, *place));
        }
        let mut next = Some(from);
        while let Some(slot) = next.filter(|_| !items.is_full()) {
            next = index.visit_messages(slot, 1, |slot, _| items.add(&index.outline(slot)));
        }
        (items.into_payload(), next)
    }

    /// The frame of `ticket` holds a message that the index will come to know.
    pub(super) fn expect_commit(&self, ticket: Ticket) {
        let mut commits = self.commits.borrow_mut();
        match commits.iter_mut().find(|(expected, _)| *expected == ticket) {
            Some((_, count)) => *count += 1,
            None => commits.push_back((ticket, 1)),
        }
    }

    /// The index knows one of these messages.
    pub(super) fn commit_is_known(&self, ticket: Ticket) {
        let mut commits = self.commits.borrow_mut();
        if let Some((_, count)) = commits.iter_mut().find(|(expected, _)| *expected == ticket) {
            *count -= 1;
        }
        while commits.pop_front_if(|(_, count)| *count == 0).is_some() {}
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
const COMMIT_POLL: Duration = Duration::from_millis(1);
/// Pause before a step is tried again that found no room.
const NO_SPACE_WAIT: Duration = Duration::from_millis(100);
/// Log that a clean stop leaves to the next start at the most.
const AT_STOP_BYTES: u64 = 16 * 1024 * 1024;
