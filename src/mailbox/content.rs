//! The octets of a message, read a piece at a time.

use std::cell::RefCell;
use std::ops::{Deref, Range};
use std::rc::Rc;

use super::codec::{Body, MailboxId, Malformed, read_body};
use super::store::Store;
use crate::journal::format::RECORD_HEADER_BYTES;
use crate::journal::{Location, ReadError, RecordBuffer};

/// The octets of one message. They stay where they are while this lives, whatever becomes of the
/// message.
pub struct Content {
    store: Store,
    body: Body,
    is_lost: bool,
    /// The record that was read last, by its place.
    last: RefCell<Option<(Location, Rc<RecordBuffer>)>>,
}

/// Why octets cannot be read. The message stays listed; the operator must act.
#[derive(Debug)]
pub enum ContentError {
    Journal(ReadError),
    /// The checksum holds and the payload makes no sense.
    Malformed,
    /// They are no longer on disk.
    Lost,
}

impl ContentError {
    /// The same once more, for another who asked.
    pub fn again(&self) -> Self {
        match self {
            ContentError::Journal(ReadError::Io(error)) => {
                ContentError::Journal(ReadError::Io(error.kind().into()))
            }
            ContentError::Journal(ReadError::Checksum(place)) => {
                ContentError::Journal(ReadError::Checksum(*place))
            }
            ContentError::Malformed => ContentError::Malformed,
            ContentError::Lost => ContentError::Lost,
        }
    }
}

impl From<ReadError> for ContentError {
    fn from(error: ReadError) -> Self {
        ContentError::Journal(error)
    }
}

impl From<Malformed> for ContentError {
    fn from(_: Malformed) -> Self {
        ContentError::Malformed
    }
}

/// Octets of a message that stand together in memory.
pub struct Piece {
    record: Rc<RecordBuffer>,
    range: Range<usize>,
}

impl Deref for Piece {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.record.payload()[self.range.clone()]
    }
}

impl Store {
    /// The octets of a message, which may have been expunged for a while; `None` when there is no
    /// such message any more, or never was. Suspends where it is not durable yet.
    pub async fn content(&self, mailbox: MailboxId, uid: u32) -> Option<Content> {
        let content = self.content_now(mailbox, uid);
        // Until it is told of, it may yet never have been.
        self.inner.newest_durable().await;
        content
    }

    fn content_now(&self, mailbox: MailboxId, uid: u32) -> Option<Content> {
        let body = self.inner.partition.borrow().body_of(mailbox, uid)?;
        let is_lost = self.inner.is_lost(body.id);
        if !is_lost {
            body.pins().for_each(|(place, _)| self.inner.journal.pin(place, 0));
        }
        Some(Content { store: self.clone(), body, is_lost, last: RefCell::default() })
    }
}

impl Content {
    /// Octets of the whole message (RFC822.SIZE).
    pub fn bytes(&self) -> u32 {
        self.body.bytes
    }

    /// Octets from `at` on, at least one and as many as stand together, 256 KiB and a few header
    /// fields at the most; `None` at the end. Suspends unless they stand with those before.
    pub async fn piece(&self, at: u32) -> Result<Option<Piece>, ContentError> {
        if at >= self.body.bytes {
            return Ok(None);
        }
        if self.is_lost {
            return Err(ContentError::Lost);
        }
        let front = self.record(self.body.place).await?;
        let payload = front.payload();
        let octets = read_body(payload)?.octets;
        let (mut start, mut at) = (payload.len() - octets.len(), at as usize);
        if at < octets.len() {
            start += at;
            return Ok(Some(Piece { range: start..payload.len(), record: front }));
        }
        at -= octets.len();
        for chunk in &self.body.chunks {
            let bytes = chunk.record_bytes as usize - RECORD_HEADER_BYTES;
            if at < bytes {
                let record = self.record(*chunk).await?;
                return Ok(Some(Piece { range: at..record.payload().len(), record }));
            }
            at -= bytes;
        }
        Err(ContentError::Malformed)
    }

    async fn record(&self, place: Location) -> Result<Rc<RecordBuffer>, ContentError> {
        if let Some((last, record)) = &*self.last.borrow()
            && *last == place
        {
            return Ok(record.clone());
        }
        let record = Rc::new(self.store.inner.journal.read_cached(place).await?);
        *self.last.borrow_mut() = Some((place, record.clone()));
        Ok(record)
    }
}

impl Drop for Content {
    fn drop(&mut self) {
        if !self.is_lost {
            self.body.pins().for_each(|(place, _)| self.store.inner.journal.unpin(place, 0));
        }
    }
}
