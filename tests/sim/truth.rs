//! What the writer knows, and what recovery must agree with.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use ringpost_sim::fsck::Counted;
use ringpost_sim::journal::format::{FRAME_HEADER_BYTES, FrameHeader, RecordRef};
use ringpost_sim::journal::recovery::Ground;
use ringpost_sim::journal::{Location, Replayed, flag, kind};

use crate::process::STORE;
use ringpost_sim::disk::Disk;

/// A payload that nobody else has: a number, and noise behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Payload {
    pub mark: u64,
    pub at: usize,
    pub bytes: usize,
}

impl Payload {
    pub fn noise(&self) -> &'static [u8] {
        &noise()[self.at..self.at + self.bytes]
    }

    pub fn is(&self, payload: &[u8]) -> bool {
        payload.len() == 8 + self.bytes
            && payload[..8] == self.mark.to_le_bytes()
            && payload[8..] == *self.noise()
    }

    pub fn whole(&self) -> Vec<u8> {
        [&self.mark.to_le_bytes(), self.noise()].concat()
    }

    /// As the payload of an ENVELOPE: the mark, the places of the chunks, and the noise.
    pub fn envelope(&self, chunks: &[Location]) -> Vec<u8> {
        let mut payload = self.mark.to_le_bytes().to_vec();
        put_places(chunks, &mut payload);
        payload.extend_from_slice(self.noise());
        payload
    }

    /// The chunks of an ENVELOPE, if `payload` is one of this.
    pub fn chunks_of(&self, payload: &[u8]) -> Option<Vec<Location>> {
        let rest = payload.strip_prefix(&self.mark.to_le_bytes())?;
        let (chunks, rest) = take_places(rest)?;
        (rest == self.noise()).then_some(chunks)
    }
}

fn put_places(places: &[Location], out: &mut Vec<u8>) {
    out.push(places.len() as u8);
    places.iter().for_each(|place| out.extend_from_slice(&place.to_bytes()));
}

fn take_places(bytes: &[u8]) -> Option<(Vec<Location>, &[u8])> {
    let (count, rest) = bytes.split_first()?;
    let (places, rest) = rest.split_at_checked(usize::from(*count) * Location::BYTES)?;
    let places = places.as_chunks().0.iter().map(|place| Location::from_bytes(*place));
    Some((places.collect(), rest))
}

/// Where the noise of a payload may start, with `PAYLOAD_BYTES_MAX` behind it.
pub const NOISE_STARTS: usize = 64 * 1024;
pub const PAYLOAD_BYTES_MAX: usize = 256 * 1024;

fn noise() -> &'static [u8] {
    static NOISE: OnceLock<Vec<u8>> = OnceLock::new();
    NOISE.get_or_init(|| {
        let mut rng = ringpost_sim::rng::Rng::new(1);
        let words = (NOISE_STARTS + PAYLOAD_BYTES_MAX) / 8;
        (0..words).flat_map(|_| rng.next_u64().to_le_bytes()).collect()
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retired {
    No,
    /// The record was appended, into the frame of this seq; nobody was told that it is durable.
    Appended(u64),
    Durable,
}

/// One message, from its first chunk on.
#[derive(Debug)]
pub struct Message {
    pub envelope: Option<Payload>,
    pub content: Option<Payload>,
    pub chunks: Vec<Payload>,
    /// Its frame was reported durable.
    pub acknowledged: bool,
    /// In the order they were appended.
    pub states: Vec<Payload>,
    /// How many of `states` were reported durable.
    pub states_acknowledged: usize,
    pub retired: Retired,
    /// A recovery has ended without it: it must not come back.
    pub gone: bool,
}

impl Message {
    pub fn new() -> Self {
        Self {
            envelope: None,
            content: None,
            chunks: Vec::new(),
            acknowledged: false,
            states: Vec::new(),
            states_acknowledged: 0,
            retired: Retired::No,
            gone: false,
        }
    }
}

/// A frame that was sent off.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    pub seq: u64,
    pub slot: usize,
    pub offset: usize,
    pub epoch: u64,
    /// The highest message id in it.
    pub id_max: u64,
}

/// Everything the writer did since the store was made.
#[derive(Default)]
pub struct Truth {
    pub messages: BTreeMap<u64, Message>,
    /// By epoch and block.
    pub frames: BTreeMap<(u32, u16), Frame>,
    pub acknowledged_seq: u64,
    pub durable_epoch: u64,
    pub next_mark: u64,
}

impl Truth {
    /// What a recovery found has been synced: it counts from now on, and nothing else does.
    pub fn accept(&mut self, found: &BTreeMap<u64, Found>) {
        for (id, message) in &mut self.messages {
            match found.get(id) {
                Some(found) => {
                    message.acknowledged = true;
                    message.retired = Retired::No;
                    message.states.truncate(found.states);
                    message.states_acknowledged = found.states;
                }
                None => message.gone = true,
            }
        }
    }

    /// No number that stands in a whole frame is given out again.
    pub fn judge_ground(&self, ground: &Ground, disk: &Disk) -> Result<(), String> {
        ensure(ground.next_seq > self.acknowledged_seq, || {
            format!("seq {} comes again", ground.next_seq)
        })?;
        ensure(ground.next_epoch > self.durable_epoch, || {
            format!("epoch {} comes again", ground.next_epoch)
        })?;
        let unheard = self.frames.values().filter(|it| it.seq > self.acknowledged_seq);
        for frame in unheard.filter(|frame| frame.is_whole(disk)) {
            ensure(ground.next_seq > frame.seq, || format!("seq {} comes again", frame.seq))?;
            ensure(ground.next_message_id > frame.id_max, || {
                format!("id {} comes again", frame.id_max)
            })?;
        }
        Ok(())
    }
}

impl Frame {
    fn is_whole(&self, disk: &Disk) -> bool {
        let mut bytes = vec![0; FRAME_HEADER_BYTES];
        disk.read_at(self.slot, self.offset, &mut bytes);
        let Some(header) = FrameHeader::read(&STORE, self.epoch, &bytes) else { return false };
        let mut bytes = vec![0; header.frame_bytes as usize];
        disk.read_at(self.slot, self.offset, &mut bytes);
        header.seq == self.seq && header.holds(&bytes[FRAME_HEADER_BYTES..])
    }
}

/// A message as the index keeps it, and as a recovery finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub envelope: Location,
    pub content: Option<Location>,
    pub chunks: Vec<Location>,
    /// How many of the states it was given had come, the last of them included.
    pub states: usize,
    /// Where the last of them stands.
    pub state: Option<Location>,
}

impl Found {
    pub fn new(envelope: Location, content: Option<Location>, chunks: Vec<Location>) -> Self {
        Self { envelope, content, chunks, states: 0, state: None }
    }

    /// One item of a checkpoint.
    pub fn put(&self, id: u64, out: &mut Vec<u8>) {
        out.extend_from_slice(&id.to_le_bytes());
        out.extend_from_slice(&(self.states as u64).to_le_bytes());
        let content: Vec<Location> = self.content.into_iter().collect();
        let state: Vec<Location> = self.state.into_iter().collect();
        for places in [&[self.envelope], content.as_slice(), &self.chunks, &state] {
            put_places(places, out);
        }
    }

    fn take(bytes: &[u8]) -> Option<(u64, Self, &[u8])> {
        let (id, rest) = bytes.split_first_chunk()?;
        let (states, rest) = rest.split_first_chunk()?;
        let (envelope, rest) = take_places(rest)?;
        let (content, rest) = take_places(rest)?;
        let (chunks, rest) = take_places(rest)?;
        let (state, rest) = take_places(rest)?;
        let states = u64::from_le_bytes(*states) as usize;
        let (content, state) = (content.first().copied(), state.first().copied());
        let found = Self { envelope: *envelope.first()?, content, chunks, states, state };
        Some((u64::from_le_bytes(*id), found, rest))
    }
}

/// Takes in what recovery replays, and compares it with what was written.
pub struct Replay<'a> {
    truth: &'a Truth,
    pub found: BTreeMap<u64, Found>,
    /// Seqs of the frames that were shown.
    pub seqs: BTreeSet<u64>,
    pub last_seq: u64,
    /// Messages that may be settled: some record about them may be missing.
    pub doubtful: BTreeSet<u64>,
    id_max: u64,
    /// Every record that was shown, by its place.
    pub shown: Vec<Counted>,
    pub violation: Option<String>,
}

impl ringpost_sim::journal::Replay for Replay<'_> {
    fn visit(&mut self, record: Replayed<'_>) {
        self.shown.push(Counted {
            kind: record.kind,
            id: record.id,
            number: record.aux,
            slot: usize::from(record.location.slot),
            offset: record.location.offset(),
        });
        if let Err(violation) = self.try_visit(&record) {
            self.violation.get_or_insert(violation);
        }
    }

    fn restart(&mut self) {
        *self = Replay::new(self.truth);
    }
}

impl<'a> Replay<'a> {
    pub fn new(truth: &'a Truth) -> Self {
        Self {
            truth,
            found: BTreeMap::new(),
            seqs: BTreeSet::new(),
            last_seq: 0,
            doubtful: BTreeSet::new(),
            id_max: 0,
            shown: Vec::new(),
            violation: None,
        }
    }

    fn try_visit(&mut self, record: &Replayed<'_>) -> Result<(), String> {
        let (id, location) = (record.id, record.location);
        let frame = self.truth.frames.get(&(location.epoch_low, location.block));
        let frame = frame.ok_or_else(|| format!("nobody wrote a frame at {location:?}"))?;
        ensure(frame.slot == usize::from(location.slot), || format!("slot of {location:?}"))?;
        ensure(frame.seq >= self.last_seq, || {
            format!("frame {} came after frame {}", frame.seq, self.last_seq)
        })?;
        self.last_seq = frame.seq;
        self.seqs.insert(frame.seq);
        self.id_max = self.id_max.max(id);
        if record.kind == kind::ITEMS {
            let mut rest = record.payload;
            while let Some((id, found, more)) = Found::take(rest) {
                self.found.insert(id, found);
                rest = more;
            }
            return ensure(rest.is_empty(), || "an item makes no sense".to_owned());
        }
        let message = self.truth.messages.get(&id);
        let message = message.ok_or_else(|| format!("nobody wrote message {id}"))?;
        let differs = |what: &str| format!("{what} of message {id} is not what was written");
        let is_moved = record.flags & flag::MOVED != 0;
        match record.kind {
            kind::CONTENT if message.content.is_none() => {
                let chunk = message.chunks.get(record.aux as usize);
                ensure(chunk.is_some_and(|it| it.is(record.payload)), || differs("a chunk"))?;
            }
            kind::CONTENT => {
                ensure(message.content.is_some_and(|it| it.is(record.payload)), || {
                    differs("content")
                })?;
                // Before its item has come, a copy says nothing.
                if let Some(found) = self.found.get_mut(&id)
                    && found.envelope.following(record.payload.len()) == location
                {
                    ensure(found.content.is_none(), || differs("second content"))?;
                    found.content = Some(location);
                } else {
                    ensure(is_moved, || differs("place of content"))?;
                }
            }
            kind::ENVELOPE => {
                let chunks = message.envelope.and_then(|it| it.chunks_of(record.payload));
                let chunks = chunks.ok_or_else(|| differs("the envelope"))?;
                if record.is_doubtful {
                    self.doubtful.insert(id);
                }
                match self.found.get_mut(&id) {
                    Some(found) => {
                        ensure(is_moved, || differs("second envelope"))?;
                        (found.envelope, found.content, found.chunks) = (location, None, chunks);
                    }
                    None if is_moved && !record.is_doubtful => {}
                    None => {
                        self.found.insert(id, Found::new(location, None, chunks));
                    }
                }
            }
            kind::STATE => {
                if let Some(found) = self.found.get_mut(&id) {
                    let index = message.states.iter().position(|it| it.is(record.payload));
                    let index = index.ok_or_else(|| differs("a state"))?;
                    let in_order = if is_moved { index + 1 } else { index };
                    ensure(in_order >= found.states, || differs("order of states"))?;
                    (found.states, found.state) = (index + 1, Some(location));
                }
            }
            kind::RETIRED => {
                self.found.remove(&id);
            }
            other => return Err(format!("a record of kind {other}")),
        }
        Ok(())
    }

    /// Whether what was found is what must be there.
    pub fn judge(&self, disk: &Disk, ground: &Ground) -> Result<(), String> {
        if let Some(violation) = &self.violation {
            return Err(violation.clone());
        }
        for (id, message) in &self.truth.messages {
            let Some(found) = self.found.get(id) else {
                let may_be_absent = !message.acknowledged
                    || message.gone
                    || message.retired == Retired::Durable
                    || matches!(message.retired, Retired::Appended(seq) if seq <= ground.last_seq);
                ensure(may_be_absent, || format!("acknowledged message {id} is lost"))?;
                continue;
            };
            let may_come_back = self.doubtful.contains(id);
            ensure(!message.gone || may_come_back, || format!("message {id} came back"))?;
            ensure(message.retired != Retired::Durable || may_come_back, || {
                format!("retired message {id} came back")
            })?;
            if may_come_back {
                // Some of what a settled message had may be overwritten.
                continue;
            }
            let has_content = message.content.is_some() == found.content.is_some();
            let has_chunks = message.chunks.len() == found.chunks.len();
            ensure(has_content && has_chunks, || format!("message {id} is not whole"))?;
            ensure(found.states >= message.states_acknowledged || may_come_back, || {
                format!("message {id} lost an acknowledged state")
            })?;
            found.reads_back(message, disk)?;
        }
        ensure(self.id_max < ground.next_message_id, || {
            format!("id {} would be used again from {}", self.id_max, ground.next_message_id)
        })
    }
}

impl Found {
    /// Every record stands where its location says.
    pub fn reads_back(&self, message: &Message, disk: &Disk) -> Result<(), String> {
        let envelope = message.envelope.ok_or("no envelope")?;
        read_back(disk, self.envelope, kind::ENVELOPE, |payload| {
            envelope.chunks_of(payload).as_ref() == Some(&self.chunks)
        })?;
        let last_state = self.states.checked_sub(1).and_then(|last| message.states.get(last));
        let beside = [(self.content, message.content, kind::CONTENT)];
        let chunks = self.chunks.iter().zip(&message.chunks);
        let chunks = chunks.map(|(at, chunk)| (Some(*at), Some(*chunk), kind::CONTENT));
        let state = [(self.state, last_state.copied(), kind::STATE)];
        for (location, payload, kind) in beside.into_iter().chain(chunks).chain(state) {
            ensure(location.is_some() == payload.is_some(), || "a place is missing".to_owned())?;
            if let (Some(location), Some(expected)) = (location, payload) {
                read_back(disk, location, kind, |payload| expected.is(payload))?;
            }
        }
        Ok(())
    }

    /// What holds its segments, and how many bytes.
    pub fn pins(&self) -> impl Iterator<Item = (Location, u64)> {
        let beside = self.content.map_or(0, |content| u64::from(content.record_bytes));
        let others = self.chunks.iter().chain(&self.state);
        let others = others.map(|place| (*place, u64::from(place.record_bytes)));
        let envelope = (self.envelope, u64::from(self.envelope.record_bytes) + beside);
        std::iter::once(envelope).chain(others)
    }

    pub fn is_in(&self, slot: u16) -> bool {
        self.pins().any(|(place, _)| place.slot == slot)
    }
}

fn read_back(
    disk: &Disk,
    location: Location,
    kind: u8,
    is_expected: impl FnOnce(&[u8]) -> bool,
) -> Result<(), String> {
    let mut bytes = vec![0; location.record_bytes as usize];
    disk.read_at(usize::from(location.slot), location.offset() as usize, &mut bytes);
    let read = RecordRef::read(u64::from(location.epoch_low), &bytes);
    let same = read.is_some_and(|(record, _)| record.kind == kind && is_expected(record.payload));
    ensure(same, || format!("{location:?} does not read back"))
}

pub fn ensure(holds: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what()) }
}
