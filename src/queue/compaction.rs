//! What still lives in mostly dead segments moves together, so that these come free.
//!
//! A copy is the same record under the same id. Whether a message is still as it was read is
//! decided when the copy is appended, and the index turns to it at once; the old place stays pinned
//! until the copy is durable. Messages with a task in flight are left for later.

use std::time::Duration;

use super::codec;
use super::index::TaskState;
use super::outline::pinned_bytes;
use super::store::{Inner, Queue};
use crate::journal::{AppendError, Location, Record, RecordBuffer, Ticket, flag, kind, upkeep};
use crate::limits::SURVIVORS_FRAME_BYTES_MAX;
use crate::runtime::{task, timer};

/// A message to be moved, by slot and id.
type Survivor = (u32, u64);

/// What was read of a message that lives in the victim, at least partly.
struct Copy {
    survivor: Survivor,
    /// Envelope and the content beside it, and where they stand.
    whole: Option<(Location, RecordBuffer, RecordBuffer)>,
    /// Tasks, by slot and number, with their last STATE and where it stands.
    states: Vec<(u32, u32, Location, RecordBuffer)>,
}

impl Copy {
    fn bytes(&self) -> usize {
        let whole =
            self.whole.iter().map(|(_, one, other)| one.payload().len() + other.payload().len());
        let states = self.states.iter().map(|(.., state)| state.payload().len());
        whole.chain(states).sum()
    }
}

impl Queue {
    /// Empties segments while the journal names some.
    pub(super) async fn run_compaction(self) {
        loop {
            timer::sleep(LOOK_PERIOD).await;
            while let Some(slot) = self.inner.journal.victim() {
                self.compact(slot).await;
                if self.inner.journal.live_count(slot) > 0 {
                    // Drafts, tasks in flight, and what cannot be read.
                    self.inner.journal.spare(slot, SPARE_WAIT);
                }
            }
        }
    }

    async fn compact(&self, slot: u16) {
        let mut copies = Vec::new();
        let mut bytes = 0;
        for survivor in self.survivors_in(slot).await {
            if self.inner.is_chunked(survivor) {
                if self.move_chunks(survivor, slot).await.is_err() {
                    return;
                }
                continue;
            }
            let Some(copy) = self.read_survivor(survivor, slot).await else { continue };
            bytes += copy.bytes();
            copies.push(copy);
            if bytes >= BATCH_BYTES || copies.len() == BATCH_COPIES {
                if self.append_copies(std::mem::take(&mut copies)).await.is_err() {
                    return;
                }
                upkeep::pause_compaction(&self.inner.journal, std::mem::take(&mut bytes)).await;
            }
        }
        // Without room for the rest it is tried again later.
        let _ = self.append_copies(copies).await;
    }

    /// Messages with something in the slot, in the order of where.
    async fn survivors_in(&self, slot: u16) -> Vec<Survivor> {
        let mut survivors = Vec::new();
        let mut from = Some(0);
        while let Some(start) = from {
            from = {
                let index = self.inner.index.borrow();
                index.visit_messages(start, ENTRIES_AT_ONCE, |message, entry| {
                    let mut places = index.places_of(message);
                    if let Some((place, _)) = places.find(|(place, _)| place.slot == slot) {
                        survivors.push((place.offset(), (message, entry.id)));
                    }
                })
            };
            task::yield_now().await;
        }
        survivors.sort_unstable();
        survivors.into_iter().map(|(_, survivor)| survivor).collect()
    }

    /// Reads what of a message stands in the slot, chunks and the envelope that names them
    /// excepted; `None` when it is not to be moved now.
    async fn read_survivor(&self, survivor: Survivor, slot: u16) -> Option<Copy> {
        let inner = &self.inner;
        let (envelope, content_bytes, states) = {
            let index = inner.index.borrow();
            if !inner.is_movable(survivor) {
                return None;
            }
            let entry = index.message(survivor.0);
            let states = index.tasks_of(survivor.0).filter_map(|task| {
                let entry = index.task(task);
                let place = entry.standing().record.filter(|place| place.slot == slot)?;
                Some((task, u32::from(entry.number), place))
            });
            let is_whole = index.chunks(survivor.0).is_none();
            let content_bytes = is_whole.then_some(entry.content_bytes);
            (entry.location(), content_bytes, states.collect::<Vec<_>>())
        };
        let mut copy = Copy { survivor, whole: None, states: Vec::new() };
        if envelope.slot == slot && content_bytes.is_some() {
            let content_bytes = content_bytes.unwrap_or_default();
            let content = envelope.following(content_bytes as usize);
            inner.journal.pin(envelope, 0);
            let pair = inner.journal.read_pair(envelope, content).await;
            inner.journal.unpin(envelope, 0);
            let (one, other) = pair.ok()?;
            copy.whole = Some((envelope, one, other));
        }
        for (task, number, place) in states {
            // While another was read, the message may have gone, and its places with it.
            if !inner.is_movable(survivor) || !inner.has_state(survivor.0, task, place) {
                return None;
            }
            let state = inner.read_pinned(place).await.ok()?;
            copy.states.push((task, number, place, state));
        }
        Some(copy)
    }

    /// Appends copies of what is still as it was read, waits until they are durable, and lets the
    /// old places go.
    async fn append_copies(&self, copies: Vec<Copy>) -> Result<(), AppendError> {
        let inner = &self.inner;
        let mut replaced = Vec::new();
        loop {
            let fresh: Vec<&Copy> = copies.iter().filter(|copy| inner.is_current(copy)).collect();
            if fresh.is_empty() {
                return Ok(());
            }
            match inner.try_append_copies(&fresh, &mut replaced) {
                Ok(ticket) => {
                    inner.journal.durable(ticket).await;
                    inner.let_go(replaced);
                    return Ok(());
                }
                Err(AppendError::Later) => inner.journal.room().await,
                Err(error) => return Err(error),
            }
        }
    }

    /// Moves the chunks of a message that stand in the slot, and writes the envelope that names
    /// them anew.
    async fn move_chunks(&self, survivor: Survivor, slot: u16) -> Result<(), AppendError> {
        let inner = &self.inner;
        if let Some(copy) = self.read_survivor(survivor, slot).await {
            self.append_copies(vec![copy]).await?;
        }
        let (envelope_at, before) = {
            let index = inner.index.borrow();
            if !inner.is_movable(survivor) {
                return Ok(());
            }
            let chunks = index.chunks(survivor.0).map(|chunks| chunks.to_vec());
            (index.message(survivor.0).location(), chunks.unwrap_or_default())
        };
        if envelope_at.slot != slot && before.iter().all(|chunk| chunk.slot != slot) {
            return Ok(());
        }
        let is_current = || {
            inner.is_movable(survivor)
                && inner.index.borrow().message(survivor.0).location() == envelope_at
        };
        let Ok(envelope) = inner.read_pinned(envelope_at).await else { return Ok(()) };
        let Ok((envelope, _)) = codec::read_envelope(envelope.payload()) else { return Ok(()) };
        let mut chunks = before.clone();
        let mut copied = Copied { inner, places: Vec::new() };
        for (number, chunk) in chunks.iter_mut().enumerate().filter(|(_, it)| it.slot == slot) {
            // While another was read, the message may have gone, and its places with it.
            if !is_current() {
                return Ok(());
            }
            let Ok(content) = inner.read_pinned(*chunk).await else { return Ok(()) };
            let payload = [content.payload()];
            let record = Record {
                kind: kind::CONTENT,
                flags: flag::MOVED,
                id: survivor.1,
                aux: number as u32,
                payload: &payload,
            };
            let Some((copy, _)) = inner.append_moved(&record, is_current).await? else {
                return Ok(());
            };
            *chunk = copy;
            copied.add(copy);
            upkeep::pause_compaction(&self.inner.journal, payload[0].len()).await;
        }
        let mut payload = Vec::new();
        codec::write_envelope(&envelope, &chunks, &mut payload);
        let payload = [payload.as_slice()];
        let record = Record {
            kind: kind::ENVELOPE,
            flags: flag::MOVED,
            id: survivor.1,
            aux: 0,
            payload: &payload,
        };
        let appended = inner.append_moved(&record, is_current).await?;
        let Some((location, ticket)) = appended else { return Ok(()) };
        inner.journal.pin(location, pinned_bytes(location, 0));
        copied.keep();
        let moved = before.iter().zip(&chunks).filter(|(one, other)| one != other);
        let mut replaced: Vec<(Location, u64)> =
            moved.map(|(before, _)| (*before, pinned_bytes(*before, 0))).collect();
        replaced.push((envelope_at, pinned_bytes(envelope_at, 0)));
        inner.index.borrow_mut().relocate(survivor.0, location, chunks);
        inner.journal.durable(ticket).await;
        inner.let_go(replaced);
        Ok(())
    }
}

impl Inner {
    /// Whether a message is still there and none of its tasks is in flight.
    fn is_movable(&self, (slot, id): Survivor) -> bool {
        let index = self.index.borrow();
        index.find(id) == Some(slot)
            && index.tasks_of(slot).all(|task| index.task(task).state() != TaskState::InFlight)
    }

    fn is_chunked(&self, (slot, id): Survivor) -> bool {
        let index = self.index.borrow();
        index.find(id) == Some(slot) && index.chunks(slot).is_some()
    }

    /// Whether the last STATE of an open task of the message stands at `place`.
    fn has_state(&self, message: u32, task: u32, place: Location) -> bool {
        let index = self.index.borrow();
        index.tasks_of(message).any(|it| it == task)
            && index.task(task).standing().record == Some(place)
    }

    /// Whether what was read is still what counts.
    fn is_current(&self, copy: &Copy) -> bool {
        let (slot, _) = copy.survivor;
        if !self.is_movable(copy.survivor) {
            return false;
        }
        let location = self.index.borrow().message(slot).location();
        copy.whole.iter().all(|(place, ..)| location == *place)
            && copy.states.iter().all(|(task, _, place, _)| self.has_state(slot, *task, *place))
    }

    /// One frame of copies; the index turns to them. What they replace goes into `replaced`.
    fn try_append_copies(
        &self,
        copies: &[&Copy],
        replaced: &mut Vec<(Location, u64)>,
    ) -> Result<Ticket, AppendError> {
        let mut pieces: Vec<(u8, u64, u32, [&[u8]; 1])> = Vec::new();
        for copy in copies {
            let (_, id) = copy.survivor;
            if let Some((_, envelope, content)) = &copy.whole {
                pieces.push((kind::ENVELOPE, id, 0, [envelope.payload()]));
                pieces.push((kind::CONTENT, id, 0, [content.payload()]));
            }
            let states = copy.states.iter();
            pieces.extend(
                states.map(|(_, number, _, state)| (kind::STATE, id, *number, [state.payload()])),
            );
        }
        let records = pieces.iter().map(|(kind, id, aux, payload)| Record {
            kind: *kind,
            flags: flag::MOVED,
            id: *id,
            aux: *aux,
            payload,
        });
        let records: Vec<Record<'_>> = records.collect();
        if records.is_empty() {
            return Ok(Ticket(0));
        }
        let appended = self.journal.append_moved(&records)?;
        let mut places = Vec::with_capacity(records.len());
        let mut place = appended.first;
        for (number, record) in records.iter().enumerate() {
            if number > 0 {
                place = place.following(record.payload_bytes());
            }
            places.push(place);
        }
        let mut places = places.into_iter();
        let mut next = || places.next().expect("one for each record");
        let mut index = self.index.borrow_mut();
        for copy in copies {
            let (slot, _) = copy.survivor;
            if let Some((before, ..)) = &copy.whole {
                let (envelope, _content) = (next(), next());
                let content_bytes = index.message(slot).content_bytes;
                self.journal.pin(envelope, pinned_bytes(envelope, content_bytes));
                replaced.push((*before, pinned_bytes(*before, content_bytes)));
                index.relocate(slot, envelope, Vec::new());
            }
            for (task, _, before, _) in &copy.states {
                let state = next();
                self.journal.pin(state, pinned_bytes(state, 0));
                replaced.push((*before, pinned_bytes(*before, 0)));
                index.relocate_state(*task, state);
            }
        }
        Ok(appended.ticket)
    }

    /// One record to the survivors, while `is_wanted` says so when there is room.
    async fn append_moved(
        &self,
        record: &Record<'_>,
        is_wanted: impl Fn() -> bool,
    ) -> Result<Option<(Location, Ticket)>, AppendError> {
        while is_wanted() {
            match self.journal.append_moved(std::slice::from_ref(record)) {
                Ok(appended) => return Ok(Some((appended.first, appended.ticket))),
                Err(AppendError::Later) => self.journal.room().await,
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    fn let_go(&self, places: Vec<(Location, u64)>) {
        places.into_iter().for_each(|(place, bytes)| self.journal.unpin(place, bytes));
    }
}

/// Copies of chunks that no envelope names yet: given up, they are dead.
struct Copied<'a> {
    inner: &'a Inner,
    places: Vec<Location>,
}

impl Copied<'_> {
    fn add(&mut self, place: Location) {
        self.inner.journal.pin(place, pinned_bytes(place, 0));
        self.places.push(place);
    }

    /// The index knows them now.
    fn keep(mut self) {
        self.places.clear();
    }
}

impl Drop for Copied<'_> {
    fn drop(&mut self) {
        for place in &self.places {
            self.inner.journal.unpin(*place, pinned_bytes(*place, 0));
        }
    }
}

/// How often it is looked whether there is something to do.
const LOOK_PERIOD: Duration = Duration::from_millis(100);
/// How long a segment is left alone that could not be emptied.
const SPARE_WAIT: Duration = Duration::from_secs(30);
/// Entries looked at before others get a turn.
const ENTRIES_AT_ONCE: u32 = 4096;
/// Copied at once: with one more message of the largest kind it fits a frame.
const BATCH_BYTES: usize = SURVIVORS_FRAME_BYTES_MAX / 2;
const BATCH_COPIES: usize = 256;
