//! From the records of a journal back to the index.

use std::collections::HashMap;

use super::codec;
use super::index::Index;
use crate::journal::{Journal, Location, Replayed, kind};

/// What replay has gathered so far. Give every record of the journal to `visit`, in order.
#[derive(Default)]
pub struct Recovered {
    index: Index,
    /// Chunks whose envelope has not come yet.
    chunks: HashMap<u64, Vec<Location>>,
    /// Records whose checksum holds and whose payload makes no sense.
    malformed: Vec<Location>,
}

impl Recovered {
    /// Takes one record in. STATE is absolute, so any suffix in order gives the same end.
    pub fn visit(&mut self, record: Replayed<'_>) {
        let id = record.id;
        let known = self.index.message(id).is_some();
        match record.kind {
            kind::CONTENT if !known => {
                let chunks = self.chunks.entry(id).or_default();
                // An out-of-order chunk number belongs to no envelope we could trust.
                if chunks.len() == record.aux as usize {
                    chunks.push(record.location);
                }
            }
            kind::ENVELOPE if !known => match codec::read_envelope(record.payload) {
                Ok((envelope, chunk_count)) => {
                    let chunks = self.chunks.remove(&id).unwrap_or_default();
                    if chunks.len() != chunk_count as usize {
                        self.malformed.push(record.location);
                        return;
                    }
                    self.index.insert(id, record.location, chunks, &envelope);
                }
                Err(codec::Malformed) => self.malformed.push(record.location),
            },
            kind::STATE if known => match codec::read_state(record.payload) {
                Ok(state) => self.apply_state(id, record.aux, state),
                Err(codec::Malformed) => self.malformed.push(record.location),
            },
            kind::RETIRED if known => self.retire(id),
            _ => {}
        }
    }

    pub fn message_count(&self) -> usize {
        self.index.message_count()
    }

    /// Places of records that could not be understood: the operator is told.
    pub fn malformed(&self) -> &[Location] {
        &self.malformed
    }

    fn apply_state(&mut self, id: u64, number: u32, state: codec::TaskRecord) {
        let entry = self.index.message(id).expect("looked up by the caller");
        let mut slots = self.index.tasks_of(entry).into_iter();
        let slot = slots.find(|slot| u32::from(self.index.task(*slot).number) == number);
        let Some(slot) = slot else { return };
        if state.open_recipients().is_empty() && !state.is_held() {
            if self.index.close_task(self.index.handle(slot)) {
                self.index.remove(id);
            }
            return;
        }
        let task = self.index.task_mut(slot);
        task.attempts = state.attempts;
        task.due_ms = state.due_ms;
        task.record = Some(Box::new(state));
    }

    fn retire(&mut self, id: u64) {
        let entry = self.index.message(id).expect("looked up by the caller");
        for slot in self.index.tasks_of(entry) {
            self.index.close_task(self.index.handle(slot));
        }
        self.index.remove(id);
    }
}

/// Pins what is live and schedules it: what was Delayed keeps its time, the rest is ready.
pub(super) fn into_index(recovered: Recovered, now_ms: u64, journal: &Journal) -> Index {
    let mut index = recovered.index;
    let mut slots = Vec::new();
    for entry in index.messages() {
        journal.pin(entry.envelope);
        for chunk in entry.chunks.iter().flat_map(|chunks| chunks.iter()) {
            journal.pin(*chunk);
        }
        slots.extend(index.tasks_of(entry));
    }
    for slot in slots {
        let task = index.task(slot);
        let due_ms = task.due_ms;
        if task.record.as_ref().is_some_and(|record| record.is_held()) {
            index.hold(slot);
        } else if due_ms > now_ms {
            index.make_delayed(slot, due_ms);
        } else {
            index.make_ready(slot);
        }
    }
    index
}
