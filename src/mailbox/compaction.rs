//! Bodies that live in mostly dead segments move, so that these come free.
//!
//! A copy is the same record under the same number. Whether a body is still as it was read is
//! decided when its copy is appended, and the state turns to that at once; the old place stays
//! pinned until the copy is durable.

use std::time::Duration;

use super::bodies::BodyHandle;
use super::codec::{Body, BodyPayload, Operation, read_body};
use super::store::{Inner, Store};
use crate::journal::{AppendError, Appended, Location, Record, flag, kind, upkeep};
use crate::runtime::{task, timer};

impl Store {
    /// Empties segments while the journal names some.
    pub(super) async fn run_compaction(self) {
        let inner = &self.inner;
        while !inner.is_stopping() {
            timer::sleep(LOOK_PERIOD).await;
            while let Some(slot) = inner.journal.victim() {
                // Without room for the rest it is tried again later.
                let _ = self.compact(slot).await;
                if inner.journal.live_count(slot) > 0 {
                    // Drafts, what is being read, and what cannot be read.
                    inner.journal.spare(slot, SPARE_WAIT);
                }
            }
        }
    }

    async fn compact(&self, slot: u16) -> Result<(), AppendError> {
        let inner = &self.inner;
        for (handle, body) in self.bodies_in(slot).await {
            for chunk in body.chunks.iter().filter(|chunk| chunk.slot == slot) {
                self.move_chunk(*chunk).await?;
            }
            let body = inner.partition.borrow().bodies().body_if(handle, body.id);
            if let Some(body) = body.filter(|body| body.place.slot == slot) {
                self.move_body(handle, body).await?;
            }
        }
        Ok(())
    }

    /// Bodies with something in the slot, in the order of where.
    async fn bodies_in(&self, slot: u16) -> Vec<(BodyHandle, Body)> {
        let mut found = Vec::new();
        let mut next = Some(0);
        while let Some(from) = next {
            {
                let partition = self.inner.partition.borrow();
                let bodies = partition.bodies();
                next = bodies.visit(from, ENTRIES_AT_ONCE, |handle| {
                    let is_lost = || self.inner.is_lost(bodies.id(handle));
                    if bodies.is_in(handle, slot) && !is_lost() {
                        found.push((handle, bodies.body(handle)));
                    }
                });
            }
            task::yield_now().await;
        }
        found.sort_by_key(|(_, body)| (body.place.slot != slot, body.place.offset()));
        found
    }

    /// Moves the BODY record, content and all where it holds that.
    async fn move_body(&self, handle: BodyHandle, body: Body) -> Result<(), AppendError> {
        let inner = &self.inner;
        let Some(record) = inner.read_pinned(body.place).await else { return Ok(()) };
        let is_current = || {
            let current = inner.partition.borrow().bodies().body_if(handle, body.id);
            current.as_ref() == Some(&body)
        };
        let payload = [record.payload()];
        let copy = copy_of(kind::BODY, body.id.0, 0, &payload);
        let Some(appended) = inner.append_moved(&copy, is_current).await? else { return Ok(()) };
        inner.turn(Body { place: appended.first, ..body.clone() }, &body);
        inner.journal.durable(appended.ticket).await;
        inner.unpin(&body);
        upkeep::pause_compaction(&self.inner.journal, payload[0].len()).await;
        Ok(())
    }

    /// Moves a chunk, and writes the bodies anew that name it.
    async fn move_chunk(&self, chunk: Location) -> Result<(), AppendError> {
        let inner = &self.inner;
        let sharing = || inner.partition.borrow().bodies().sharing(chunk);
        if sharing().is_empty() {
            // It was moved with another body that names it, or that was the last.
            return Ok(());
        }
        let Some(record) = inner.read_pinned(chunk).await else { return Ok(()) };
        let payload = [record.payload()];
        let copy = copy_of(kind::CONTENT, 0, 0, &payload);
        let is_current = || !sharing().is_empty();
        let Some(moved) = inner.append_moved(&copy, is_current).await? else { return Ok(()) };
        // The copy has a pin of its own until all bodies have theirs.
        let moved_bytes = u64::from(moved.first.record_bytes);
        inner.journal.pin(moved.first, moved_bytes);
        let mut result = Ok(());
        for handle in sharing() {
            result = self.name_anew(handle, chunk, moved.first).await;
            if result.is_err() {
                break;
            }
        }
        inner.journal.unpin(moved.first, moved_bytes);
        upkeep::pause_compaction(&self.inner.journal, payload[0].len()).await;
        result
    }

    /// Writes a body that names the copy of a chunk.
    async fn name_anew(
        &self,
        handle: BodyHandle,
        chunk: Location,
        copy: Location,
    ) -> Result<(), AppendError> {
        let inner = &self.inner;
        let body = {
            let partition = inner.partition.borrow();
            let bodies = partition.bodies();
            let id = bodies.id(handle);
            bodies.body_if(handle, id).filter(|body| body.chunks.contains(&chunk))
        };
        let Some(body) = body.filter(|body| !inner.is_lost(body.id)) else { return Ok(()) };
        let Some(record) = inner.read_pinned(body.place).await else { return Ok(()) };
        let Ok(BodyPayload { octets, bytes, mut chunks }) = read_body(record.payload()) else {
            return Ok(());
        };
        for place in chunks.iter_mut().filter(|place| **place == chunk) {
            *place = copy;
        }
        let mut front = Vec::new();
        BodyPayload { octets: &[], bytes, chunks: chunks.clone() }.write_front(&mut front);
        let payload = [front.as_slice(), octets];
        let record = copy_of(kind::BODY, body.id.0, 0, &payload);
        let is_current = || {
            let current = inner.partition.borrow().bodies().body_if(handle, body.id);
            current.as_ref() == Some(&body)
        };
        let Some(appended) = inner.append_moved(&record, is_current).await? else { return Ok(()) };
        inner.turn(Body { place: appended.first, chunks, ..body.clone() }, &body);
        inner.journal.durable(appended.ticket).await;
        inner.unpin(&body);
        Ok(())
    }
}

impl Inner {
    /// Reads a record whose place may be given up meanwhile; `None` for one that cannot be read,
    /// which stays.
    async fn read_pinned(&self, place: Location) -> Option<crate::journal::RecordBuffer> {
        self.journal.pin(place, 0);
        let record = self.journal.read(place).await;
        self.journal.unpin(place, 0);
        record.ok()
    }

    /// Appends a copy, unless what it is of has changed.
    async fn append_moved(
        &self,
        record: &Record<'_>,
        is_current: impl Fn() -> bool,
    ) -> Result<Option<Appended>, AppendError> {
        loop {
            if !is_current() {
                return Ok(None);
            }
            match self.journal.append_moved(&[*record]) {
                Err(AppendError::Later) => self.journal.room().await,
                result => return result.map(Some),
            }
        }
    }

    /// The body stands elsewhere from now on. The old places stay pinned.
    fn turn(&self, to: Body, from: &Body) {
        assert_eq!(to.id, from.id);
        self.pin(&to);
        self.partition.borrow_mut().apply(&Operation::BodyPlaced(to));
    }
}

fn copy_of<'a>(kind: u8, id: u64, aux: u32, payload: &'a [&'a [u8]]) -> Record<'a> {
    Record { kind, flags: flag::MOVED, id, aux, payload }
}

/// How often it is looked for something to do.
const LOOK_PERIOD: Duration = Duration::from_millis(100);
/// What cannot be moved now is left alone for so long.
const SPARE_WAIT: Duration = Duration::from_secs(30);
const ENTRIES_AT_ONCE: u32 = 4096;
