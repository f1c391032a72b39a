//! The only entrance: a draft takes content as it comes and becomes a message when it is durable.

use std::rc::Rc;

use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use super::checkpoint::Commit;
use super::codec;
use super::index::Index;
use super::outline::{Outline, pinned_bytes};
use super::store::{Content, Inner, Kept, Octets, Queue};
use crate::journal::{Append, AppendError, Appended, Level, Location, Record, Ticket, kind};
use crate::limits::{CHUNK_BYTES_MAX, FRAME_BYTES_MAX};
use crate::mail::{Envelope, QueueId, Reply, status};
use crate::runtime::clock;

/// Why a message is not taken. Always transient: responsibility stays with the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The journal or the index is full; it passes when deliveries make room.
    NoSpace,
    /// This server is stopping.
    Draining,
    /// Envelope and header prefix exceed a frame.
    TooLarge,
    /// Messages that are being received hold too many segments.
    TooManyDrafts,
}

impl Refusal {
    /// What the SMTP client is told.
    pub fn reply(self) -> Reply {
        match self {
            Refusal::NoSpace => {
                Reply::new(452, status::MAIL_SYSTEM_FULL, "Insufficient system storage")
            }
            Refusal::Draining => {
                Reply::new(421, status::SYSTEM_NOT_ACCEPTING, "Service shutting down")
            }
            Refusal::TooManyDrafts => Reply::new(
                421,
                status::SYSTEM_NOT_ACCEPTING,
                "Too many large messages at once, try again later",
            ),
            Refusal::TooLarge => {
                Reply::new(452, status::TOO_MANY_RECIPIENTS, "Too many recipients for one message")
            }
        }
    }
}

impl From<AppendError> for Refusal {
    fn from(error: AppendError) -> Self {
        match error {
            // Waited for by the caller; what remains is that there is no room.
            AppendError::NoSpace | AppendError::Later => Refusal::NoSpace,
            AppendError::TooLarge => Refusal::TooLarge,
        }
    }
}

/// Content on its way in. Dropped, it leaves nothing behind but dead chunks.
pub struct Draft {
    queue: Queue,
    id: u64,
    /// Content not yet written; at most `CHUNK_BYTES_MAX`.
    buffer: Vec<u8>,
    spilled: Option<Box<Spilled>>,
}

/// What a draft that outgrew its buffer has in the journal.
#[derive(Default)]
struct Spilled {
    chunks: Vec<Location>,
    bytes: u64,
    hash: Xxh3,
    /// Frame of the last chunk.
    last: Option<Ticket>,
}

impl Queue {
    /// Begins a message. `content_bytes_hint` is what the client declared, 0 for nothing.
    pub fn begin(&self, content_bytes_hint: u64) -> Result<Draft, Refusal> {
        let inner = &self.inner;
        if inner.draining.get() {
            return Err(Refusal::Draining);
        }
        let messages_max = inner.config.borrow().queue.messages_max;
        let full = inner.index.borrow().message_count() >= messages_max;
        if full || inner.journal.space().level >= Level::Refuse {
            return Err(Refusal::NoSpace);
        }
        let capacity = content_bytes_hint.min(CHUNK_BYTES_MAX as u64) as usize;
        Ok(Draft {
            queue: self.clone(),
            id: inner.journal.next_message_id(),
            buffer: Vec::with_capacity(capacity),
            spilled: None,
        })
    }
}

impl Queue {
    /// Whether room gets short, though mail is still taken: whoever lets it in is to be slow. As it
    /// was when the clock last ticked.
    pub fn is_filling(&self) -> bool {
        self.inner.is_filling.get()
    }
}

impl Draft {
    /// The id the message will have; to be told only once `commit` has returned.
    pub fn id(&self) -> QueueId {
        self.queue.inner.queue_id(self.id)
    }

    /// Takes content from the front of `bytes` and says how much; with less than all taken, await
    /// `room` and come again. Never suspends.
    pub fn append(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(CHUNK_BYTES_MAX - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        taken
    }

    /// Moves the full buffer into the journal. Suspends until the chunk before is
    /// durable.
    pub async fn room(&mut self) -> Result<(), Refusal> {
        if self.buffer.len() == CHUNK_BYTES_MAX {
            self.spill().await?;
        }
        Ok(())
    }

    /// Takes responsibility: resolves after the frame with the envelope is durable.
    ///
    /// Fills in the size and hash of the content. Do not drop the future midway: the message may
    /// then be delivered after the next start though nobody was answered 250.
    pub async fn commit(self, envelope: Envelope) -> Result<QueueId, Refusal> {
        let prepared = self.prepare(envelope).await?;
        let queue = prepared.draft.queue.clone();
        let appended = prepared.append().await?;
        Ok(queue.enter_when_durable(prepared, appended).await)
    }

    /// All of `commit` but the frame: for `Queue::settle_and_send_on`.
    pub async fn prepare(mut self, mut envelope: Envelope) -> Result<Prepared, Refusal> {
        assert!(!envelope.recipients.is_empty());
        if self.spilled.is_some() && !self.buffer.is_empty() {
            self.spill().await?;
        }
        let chunks: &[Location] = match &self.spilled {
            Some(spilled) => {
                envelope.content_bytes = spilled.bytes;
                envelope.content_hash = spilled.hash.digest128();
                &spilled.chunks
            }
            None => {
                envelope.content_bytes = self.buffer.len() as u64;
                envelope.content_hash = xxh3_128(&self.buffer);
                &[]
            }
        };
        let mut payload = Vec::with_capacity(256 + envelope.header_prefix.len());
        codec::write_envelope(&envelope, chunks, &mut payload);
        if payload.len() > ENVELOPE_BYTES_MAX {
            return Err(Refusal::TooLarge);
        }
        Ok(Prepared { draft: self, envelope, payload })
    }

    async fn spill(&mut self) -> Result<(), Refusal> {
        let journal = &self.queue.inner.journal;
        if self.queue.inner.draft_chunks.pin_too_much(journal) {
            return Err(Refusal::TooManyDrafts);
        }
        let spilled = self.spilled.get_or_insert_default();
        // One chunk under way and one that fills: the memory of a message is bounded by two.
        if let Some(last) = spilled.last {
            journal.durable(last).await;
        }
        spilled.hash.update(&self.buffer);
        spilled.bytes += self.buffer.len() as u64;
        let payload = [self.buffer.as_slice()];
        let chunk = Record {
            kind: kind::CONTENT,
            flags: 0,
            id: self.id,
            aux: spilled.chunks.len() as u32,
            payload: &payload,
        };
        let appended = journal.append_when_possible(&[chunk], Append::Message).await?;
        journal.pin(appended.first, pinned_bytes(appended.first, 0));
        self.queue.inner.draft_chunks.count(appended.first.slot, 1);
        spilled.last = Some(appended.ticket);
        spilled.chunks.push(appended.first);
        self.buffer.clear();
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        for chunk in self.spilled.iter().flat_map(|spilled| &spilled.chunks) {
            self.queue.inner.journal.unpin(*chunk, pinned_bytes(*chunk, 0));
            self.queue.inner.draft_chunks.count(chunk.slot, -1);
        }
    }
}

/// A message of which nothing is missing but the frame with its envelope. Dropped, it leaves
/// nothing behind but dead chunks.
pub struct Prepared {
    draft: Draft,
    envelope: Envelope,
    /// Of the ENVELOPE.
    payload: Vec<u8>,
}

impl Prepared {
    pub(super) fn id(&self) -> u64 {
        self.draft.id
    }

    /// Kinds and payloads of its records. The content stands among them unless it is in chunks.
    pub(super) fn parts(&self) -> impl Iterator<Item = (u8, &[u8])> {
        let content = (kind::CONTENT, self.draft.buffer.as_slice());
        let is_whole = self.draft.spilled.is_none();
        [(kind::ENVELOPE, self.payload.as_slice())].into_iter().chain(is_whole.then_some(content))
    }

    /// Its records in a frame of their own. Suspends while there is no room in one.
    pub(super) async fn append(&self) -> Result<Appended, AppendError> {
        let (envelope, content) = ([self.payload.as_slice()], [self.draft.buffer.as_slice()]);
        let id = self.draft.id;
        let records = [
            Record { kind: kind::ENVELOPE, flags: 0, id, aux: 0, payload: &envelope },
            Record { kind: kind::CONTENT, flags: 0, id, aux: 0, payload: &content },
        ];
        let records = if self.draft.spilled.is_none() { &records[..] } else { &records[..1] };
        let journal = &self.draft.queue.inner.journal;
        journal.append_when_possible(records, Append::Message).await
    }

    /// Its records begin at `location`: what it holds there is pinned.
    pub(super) fn into_born(self, location: Location) -> Born {
        let Prepared { mut draft, envelope, .. } = self;
        let inner = &draft.queue.inner;
        let buffer = std::mem::take(&mut draft.buffer);
        let chunks = draft.spilled.take().map_or_else(Vec::new, |spilled| spilled.chunks);
        chunks.iter().for_each(|chunk| inner.draft_chunks.count(chunk.slot, -1));
        inner.journal.pin(location, pinned_bytes(location, buffer.len() as u32));
        let content = if chunks.is_empty() {
            Content::Whole(Octets::Fresh(Rc::new(buffer)))
        } else {
            Content::Chunked { chunks: Rc::new(chunks.clone()) }
        };
        let kept = Kept { envelope: Rc::new(envelope), content };
        Born { id: draft.id, location, chunks, kept }
    }
}

/// A message whose frame is on its way.
pub(super) struct Born {
    pub id: u64,
    pub location: Location,
    pub chunks: Vec<Location>,
    pub kept: Kept,
}

impl Queue {
    /// Enters a message once the frame that it went into is durable.
    pub(super) async fn enter_when_durable(
        &self,
        prepared: Prepared,
        appended: Appended,
    ) -> QueueId {
        let inner = &self.inner;
        let born = prepared.into_born(appended.first);
        let id = born.id;
        let commit = Commit::new(inner, appended.ticket);
        inner.journal.durable(appended.ticket).await;
        inner.enter(born);
        drop(commit);
        inner.queue_id(id)
    }
}

impl Inner {
    /// Enters a durable message into the index: ready for its first attempt, or waiting for its
    /// release.
    pub(super) fn enter(&self, born: Born) {
        let Born { id, location, chunks, kept } = born;
        let budget_bytes = self.config.borrow().queue.content_cache_bytes;
        let release_ms = kept.envelope.release_ms;
        let is_ready = release_ms == 0 || release_ms <= clock::unix_ms();
        let mut index = self.index.borrow_mut();
        let index: &mut Index = &mut index;
        let slot = index.insert(Outline::of_fresh(id, location, chunks, &kept.envelope));
        let mut next = index.first_task(slot);
        while let Some(task) = next {
            next = index.sibling_of(task);
            if is_ready {
                index.make_ready(task);
            } else {
                index.make_delayed(task, release_ms);
            }
        }
        if is_ready {
            index.keep(slot, Rc::new(kept), budget_bytes);
        }
        self.announced.notify_one();
    }
}

/// Longest ENVELOPE: with its place in a checkpoint, and with a part of others, it fits a frame.
const ENVELOPE_BYTES_MAX: usize = FRAME_BYTES_MAX - 160 * 1024;
