//! What the records say is queued, and whether all of it can be read. `Pure.`

use std::collections::BTreeMap;
use std::io;

use xxhash_rust::xxh3::Xxh3;

use super::bytes::{RECORD_HEADER, kind};
use super::frames::{Frames, Record, records};
use super::payload::{Envelope, Item, Place, State, read_items};
use super::places::Places;
use super::{Problem, Report, Slots};

/// A queued message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub id: u64,
    /// Unix milliseconds.
    pub accepted_ms: u64,
    pub content_bytes: u64,
    /// Recipients that an attempt or an operator is still to decide about.
    pub open_recipients: usize,
    /// Its envelope, its content and its states can be read and agree with one another.
    pub is_whole: bool,
}

/// A message under replay: where its parts stand.
struct Entry {
    envelope: Place,
    chunks: Vec<Place>,
    /// Tasks that are open, and the last STATE of each.
    tasks: BTreeMap<u16, Option<Place>>,
}

pub(super) fn read(found: Frames, slots: &mut dyn Slots) -> io::Result<Report<Message>> {
    let mut replay = Replay { entries: BTreeMap::new(), problems: Vec::new() };
    for frame in &found.counted {
        records(frame, slots, &mut |record| replay.visit(&record))?;
    }
    let Replay { entries, problems } = replay;
    let mut reader = Reader { places: Places::new(&found, slots), problems };
    let mut messages = Vec::new();
    for (id, entry) in &entries {
        messages.push(reader.message(*id, entry)?);
    }
    let problems = reader.problems;
    Ok(Report::new(found, messages, problems))
}

struct Replay {
    entries: BTreeMap<u64, Entry>,
    problems: Vec<Problem>,
}

impl Replay {
    fn visit(&mut self, record: &Record<'_>) {
        let place = record.place();
        let id = record.id;
        let mut wrong = |what| self.problems.push(Problem::Message { id, what });
        match record.kind {
            kind::ENVELOPE => {
                let Some(envelope) = Envelope::read(record.payload) else {
                    return wrong("its ENVELOPE makes no sense");
                };
                let chunks = envelope.chunks.clone();
                match self.entries.get_mut(&id) {
                    Some(entry) => (entry.envelope, entry.chunks) = (place, chunks),
                    // A copy of what was settled meanwhile is nothing.
                    None if record.is_moved => {}
                    None => {
                        let numbers = 0..envelope.tasks().len() as u16;
                        let tasks = numbers.map(|number| (number, None)).collect();
                        self.entries.insert(id, Entry { envelope: place, chunks, tasks });
                    }
                }
            }
            kind::STATE => {
                let Some(state) = State::read(record.payload) else {
                    return wrong("a STATE makes no sense");
                };
                let Some(entry) = self.entries.get_mut(&id) else { return };
                let number = record.number as u16;
                if state.is_open() {
                    entry.tasks.entry(number).and_modify(|it| *it = Some(place));
                } else {
                    entry.tasks.remove(&number);
                }
                if entry.tasks.is_empty() {
                    self.entries.remove(&id);
                }
            }
            kind::RETIRED => {
                self.entries.remove(&id);
            }
            kind::ITEMS => {
                let Some(items) = read_items(record.payload) else {
                    return self
                        .problems
                        .push(Problem::Record { slot: record.slot, offset: record.offset });
                };
                for Item { id, envelope, chunks, tasks } in items {
                    self.entries.insert(id, Entry { envelope, chunks, tasks });
                }
            }
            _ => {}
        }
    }
}

/// Reads back what stands somewhere.
struct Reader<'s> {
    places: Places<'s>,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    fn message(&mut self, id: u64, entry: &Entry) -> io::Result<Message> {
        let before = self.problems.len();
        let mut message =
            Message { id, accepted_ms: 0, content_bytes: 0, open_recipients: 0, is_whole: false };
        let Some(payload) = self.record(entry.envelope, kind::ENVELOPE, id, 0)? else {
            self.wrong(id, "its ENVELOPE cannot be read");
            return Ok(message);
        };
        let Some(envelope) = Envelope::read(&payload) else {
            self.wrong(id, "its ENVELOPE makes no sense");
            return Ok(message);
        };
        message.accepted_ms = envelope.accepted_ms;
        message.content_bytes = envelope.content_bytes;
        if envelope.chunks != entry.chunks {
            self.wrong(id, "its chunks are not where its ENVELOPE says");
        }
        self.content(id, entry, &envelope)?;
        message.open_recipients = self.tasks(id, entry, &envelope)?;
        message.is_whole = self.problems.len() == before;
        Ok(message)
    }

    fn content(&mut self, id: u64, entry: &Entry, envelope: &Envelope) -> io::Result<()> {
        // Beside the envelope, where no chunks are named.
        let beside = || {
            let Place { in_frame, record_bytes, .. } = entry.envelope;
            let record_bytes = record_bytes.checked_next_multiple_of(8)?;
            let bytes = envelope.content_bytes.checked_add(RECORD_HEADER as u64)?;
            Some(Place {
                in_frame: in_frame.checked_add(record_bytes)?,
                record_bytes: bytes.try_into().ok()?,
                ..entry.envelope
            })
        };
        let places = match envelope.chunks.is_empty() {
            true => beside().into_iter().collect(),
            false => entry.chunks.clone(),
        };
        let (mut hash, mut bytes) = (Xxh3::new(), 0);
        for (number, place) in places.into_iter().enumerate() {
            match self.record(place, kind::CONTENT, id, number as u32)? {
                Some(payload) => {
                    hash.update(&payload);
                    bytes += payload.len() as u64;
                }
                None => {
                    self.wrong(id, "its content cannot be read");
                    return Ok(());
                }
            }
        }
        if bytes != envelope.content_bytes || hash.digest128() != envelope.content_hash {
            self.wrong(id, "its content is not what its ENVELOPE says");
        }
        Ok(())
    }

    /// Looks at each open task; returns how many recipients are open.
    fn tasks(&mut self, id: u64, entry: &Entry, envelope: &Envelope) -> io::Result<usize> {
        let of_tasks = envelope.tasks();
        let mut open = 0;
        for (number, state) in &entry.tasks {
            let Some(recipients) = of_tasks.get(usize::from(*number)) else {
                self.wrong(id, "it has a task for nobody");
                continue;
            };
            let Some(place) = *state else {
                open += recipients.len();
                continue;
            };
            let payload = self.record(place, kind::STATE, id, u32::from(*number))?;
            let Some(state) = payload.and_then(|payload| State::read(&payload)) else {
                self.wrong(id, "a STATE cannot be read");
                continue;
            };
            let said = state.recipients.iter().map(|(recipient, _)| *recipient);
            if !said.eq(recipients.iter().copied()) {
                self.wrong(id, "a STATE speaks of other recipients than its task has");
            }
            open += state.recipients.iter().filter(|(_, is_open)| *is_open).count();
        }
        Ok(open)
    }

    /// The payload of the record of this type, id and number at a place; `None` where it is not
    /// there.
    fn record(
        &mut self,
        place: Place,
        kind: u8,
        id: u64,
        number: u32,
    ) -> io::Result<Option<Vec<u8>>> {
        let there = self.places.read(place, kind)?;
        let there = there.filter(|there| (there.id, there.number) == (id, number));
        Ok(there.map(|there| there.payload))
    }

    fn wrong(&mut self, id: u64, what: &'static str) {
        self.problems.push(Problem::Message { id, what });
    }
}
