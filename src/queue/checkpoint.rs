//! The index written down a slice at a time, so that a start reads that and what came after.

use std::time::Duration;

use super::items::Items;
use super::store::{Inner, Queue};
use crate::journal::upkeep::{AT_STOP_BYTES, LOOK_PERIOD};
use crate::journal::{AppendError, Ticket};
use crate::runtime::timer;

impl Queue {
    /// Makes checkpoints when they are due.
    pub(super) async fn run_checkpoints(self) {
        loop {
            timer::sleep(LOOK_PERIOD).await;
            if self.inner.journal.checkpoint_is_due() {
                self.checkpoint().await;
            }
        }
    }

    /// Spares the next start what the log has grown to, where that is worth a moment.
    pub async fn checkpoint_at_stop(&self) {
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
            let begin = || inner.journal.begin_checkpoint();
            let begin = inner.checkpointing.step(&inner.journal, begin).await.ok()?;
            inner.journal.durable(begin).await;
            // What was committed before BEGIN must be listed, so it must be known.
            while inner.commits.borrow().front().is_some_and(|(ticket, _)| *ticket <= begin) {
                timer::sleep(COMMIT_POLL).await;
            }
            let Ok(end) = self.write_items().await else { return Some(false) };
            inner.journal.durable(end).await;
            Some(true)
        };
        inner.checkpointing.run(checkpoint).await;
    }

    async fn write_items(&self) -> Result<Ticket, AppendError> {
        let Inner { journal, checkpointing, .. } = &*self.inner;
        let mut from = Some(0);
        while let Some(slot) = from {
            // Built and appended without a pause between: an item says what holds at its place.
            from = checkpointing
                .step(journal, || {
                    let (payload, next) = self.inner.items_from(slot);
                    journal.append_items(&payload).map(|_| next)
                })
                .await?;
            checkpointing.pause().await;
        }
        checkpointing.step(journal, || journal.end_checkpoint()).await
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

const COMMIT_POLL: Duration = Duration::from_millis(1);
