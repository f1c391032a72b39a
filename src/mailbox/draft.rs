//! The only way in for octets: a draft takes a message as it comes, for one mailbox or several.

use super::codec::{BodyId, MailboxId, Message, Operation};
use super::plan::{Delivered, Delivery, Refusal};
use super::store::{NewBody, Store, now_s};
use super::summaries::{Summarized, Summarizing};
use crate::journal::{Append, AppendError, Level, Location, Record, Ticket, kind};
use crate::limits::{APPENDS_AT_ONCE_MAX, CHUNK_BYTES_MAX};
use crate::runtime::clock;

/// A message on its way in. Dropped, it leaves nothing behind but dead chunks.
pub struct Draft {
    store: Store,
    /// Of its chunks.
    id: u64,
    /// Content not yet written; at most `CHUNK_BYTES_MAX`.
    buffer: Vec<u8>,
    chunks: Vec<Location>,
    /// Octets in the chunks.
    bytes: u64,
    /// Frame of the last chunk.
    last: Option<Ticket>,
    summarizing: Box<Summarizing>,
}

impl Store {
    /// Begins a message. `content_bytes_hint` is what was announced, 0 for nothing.
    pub fn begin(&self, content_bytes_hint: u64) -> Result<Draft, Refusal> {
        let journal = &self.inner.journal;
        if journal.space().level >= Level::Refuse {
            return Err(Refusal::NoSpace);
        }
        let capacity = content_bytes_hint.min(CHUNK_BYTES_MAX as u64) as usize;
        Ok(Draft {
            store: self.clone(),
            id: journal.next_message_id(),
            buffer: Vec::with_capacity(capacity),
            chunks: Vec::new(),
            bytes: 0,
            last: None,
            summarizing: Box::default(),
        })
    }
}

impl Store {
    /// Puts several messages into the mailbox of each, all or none (RFC 3502); resolves when they
    /// are durable there. Drafts are `seal`ed here where they were not before.
    ///
    /// Do not drop the future midway, as with `Draft::commit`.
    pub async fn commit_all(
        &self,
        messages: Vec<(Draft, Delivery)>,
    ) -> Result<Vec<Delivered>, Refusal> {
        let uids = vec![None; messages.len()];
        self.commit_as(messages, &uids).await
    }

    /// As `commit_all`, each message with its UID where one is given. `Refusal::Exists` where that
    /// is below UIDNEXT.
    pub async fn commit_as(
        &self,
        mut messages: Vec<(Draft, Delivery)>,
        uids: &[Option<u32>],
    ) -> Result<Vec<Delivered>, Refusal> {
        assert_eq!(messages.len(), uids.len());
        if messages.len() > APPENDS_AT_ONCE_MAX {
            return Err(Refusal::TooLarge);
        }
        for (draft, delivery) in &mut messages {
            draft.seal().await?;
            if draft.bytes + delivery.prefix.len() as u64 > u32::MAX.into() {
                return Err(Refusal::TooLarge);
            }
        }
        let inner = &self.inner;
        let ids = messages.iter().map(|_| BodyId(inner.journal.next_message_id()));
        let ids: Vec<BodyId> = ids.collect();
        let summarized = messages.iter_mut();
        let summarized =
            summarized.map(|(draft, _)| std::mem::take(&mut draft.summarizing).finish());
        let summarized: Vec<Summarized> = summarized.collect();
        let appends = messages.iter().zip(uids);
        let appends = appends.map(|((draft, delivery), uid)| (delivery, draft.bytes, *uid));
        let appends: Vec<(&Delivery, u64, Option<u32>)> = appends.collect();
        let begun = clock::now();
        loop {
            let planned = inner.partition.borrow().plan_appends(&appends, &ids, now_s());
            let planned = match planned {
                Ok(planned) => planned,
                Err(refusal) => {
                    // What it was refused for may not be durable yet.
                    inner.newest_durable().await;
                    return Err(refusal);
                }
            };
            let made = messages.iter().zip(&ids).zip(&planned.told);
            let made = made.filter(|(_, told)| matches!(told, Delivered::As { .. }));
            let bodies = made.map(|(((draft, delivery), id), _)| NewBody {
                id: *id,
                prefix: &delivery.prefix,
                content: &[],
                chunks: &draft.chunks,
                bytes: draft.bytes as u32 + delivery.prefix.len() as u32,
            });
            let bodies: Vec<NewBody<'_>> = bodies.collect();
            let placed = placed(&planned.operations);
            match inner.append(&bodies, planned.operations, Append::Message) {
                Ok(()) => {
                    // While the disk is at work.
                    for (mailbox, message) in placed {
                        let index = ids.iter().position(|id| *id == message.body);
                        let index = index.expect("it has one of these bodies");
                        let (draft, delivery) = &messages[index];
                        let prefix_bytes = delivery.prefix.len();
                        let octets = summarized[index].octets(prefix_bytes);
                        let bytes = draft.bytes as u32 + prefix_bytes as u32;
                        inner.summaries.put(mailbox, &message, octets, bytes);
                    }
                    inner.committed(begun).await;
                    return Ok(planned.told);
                }
                Err(AppendError::Later) => inner.journal.room().await,
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Draft {
    /// Takes content from the front of `octets` and says how much; with less than all taken, await
    /// `room` and come again. Never suspends.
    pub fn append(&mut self, octets: &[u8]) -> usize {
        let taken = octets.len().min(CHUNK_BYTES_MAX - self.buffer.len());
        self.buffer.extend_from_slice(&octets[..taken]);
        taken
    }

    /// Moves the full buffer into the journal. Suspends until the chunk before is durable.
    pub async fn room(&mut self) -> Result<(), Refusal> {
        if self.buffer.len() == CHUNK_BYTES_MAX {
            self.spill().await?;
        }
        Ok(())
    }

    /// Puts the message into every mailbox that takes it, all at once; resolves when it is durable
    /// there, with what became of each. A delivery that was made before is not made again. An error
    /// as a whole means that none was made.
    ///
    /// Do not drop the future midway: the message may then be there though nobody was answered.
    pub async fn commit(
        mut self,
        deliveries: &[Delivery],
    ) -> Result<Vec<Result<Delivered, Refusal>>, Refusal> {
        assert!(!deliveries.is_empty());
        let is_shared = deliveries.len() > 1 || !self.chunks.is_empty();
        if is_shared && !self.buffer.is_empty() {
            self.spill().await?;
        }
        let content_bytes = self.bytes + self.buffer.len() as u64;
        let longest = deliveries.iter().map(|delivery| delivery.prefix.len()).max().unwrap_or(0);
        if content_bytes + longest as u64 > u32::MAX.into() {
            return Err(Refusal::TooLarge);
        }
        self.summarizing.feed(&self.buffer);
        let summarized = std::mem::take(&mut self.summarizing).finish();
        let inner = &self.store.inner;
        let ids = deliveries.iter().map(|_| BodyId(inner.journal.next_message_id()));
        let ids: Vec<BodyId> = ids.collect();
        let begun = clock::now();
        loop {
            let planned =
                inner.partition.borrow().plan_deliveries(deliveries, content_bytes, &ids, now_s());
            let made = deliveries.iter().zip(&ids).zip(&planned.told);
            let made = made.filter(|(_, told)| matches!(told, Ok(Delivered::As { .. })));
            let bodies = made.map(|((delivery, id), _)| NewBody {
                id: *id,
                prefix: &delivery.prefix,
                content: &self.buffer,
                chunks: &self.chunks,
                bytes: content_bytes as u32 + delivery.prefix.len() as u32,
            });
            let bodies: Vec<NewBody<'_>> = bodies.collect();
            let placed = placed(&planned.operations);
            match inner.append(&bodies, planned.operations, Append::Message) {
                Ok(()) => {
                    // While the disk is at work.
                    for (mailbox, message) in placed {
                        let body = bodies.iter().find(|body| body.id == message.body);
                        let Some(body) = body else { continue };
                        let octets = summarized.octets(body.prefix.len());
                        inner.summaries.put(mailbox, &message, octets, body.bytes);
                    }
                    // What some were refused for may not be durable yet either.
                    inner.committed(begun).await;
                    return Ok(planned.told);
                }
                Err(AppendError::Later) => inner.journal.room().await,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Moves what is left into the journal: a draft that waits for others keeps no octets in
    /// memory. Suspends until the chunk before is durable.
    pub async fn seal(&mut self) -> Result<(), Refusal> {
        if self.buffer.is_empty() { Ok(()) } else { self.spill().await }
    }

    async fn spill(&mut self) -> Result<(), Refusal> {
        let inner = &self.store.inner;
        if inner.draft_chunks.pin_too_much(&inner.journal) {
            return Err(Refusal::TooManyDrafts);
        }
        // One chunk under way and one that fills: the memory of a message is bounded by two.
        if let Some(last) = self.last {
            inner.journal.durable(last).await;
        }
        let payload = [self.buffer.as_slice()];
        let chunk = Record {
            kind: kind::CONTENT,
            flags: 0,
            id: self.id,
            aux: self.chunks.len() as u32,
            payload: &payload,
        };
        let appended = inner.journal.append_when_possible(&[chunk], Append::Message).await?;
        inner.journal.pin(appended.first, appended.first.record_bytes.into());
        inner.draft_chunks.count(appended.first.slot, 1);
        self.last = Some(appended.ticket);
        self.summarizing.feed(&self.buffer);
        self.chunks.push(appended.first);
        self.bytes += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

/// The messages that are put into mailboxes.
fn placed(operations: &[Operation]) -> Vec<(MailboxId, Message)> {
    let placed = operations.iter().filter_map(|operation| match operation {
        Operation::Appended { mailbox, message, .. } => Some((*mailbox, *message)),
        _ => None,
    });
    placed.collect()
}

impl Drop for Draft {
    fn drop(&mut self) {
        // What was committed has pins of its own.
        for chunk in &self.chunks {
            self.store.inner.journal.unpin(*chunk, chunk.record_bytes.into());
            self.store.inner.draft_chunks.count(chunk.slot, -1);
        }
    }
}
