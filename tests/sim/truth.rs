//! What the writer knows, and what recovery must agree with.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use ringpost::journal::format::{FRAME_HEADER_BYTES, FrameHeader, RecordRef};
use ringpost::journal::recovery::Ground;
use ringpost::journal::{Location, Replayed, kind};

use crate::disk::Disk;
use crate::process::STORE;

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
}

/// Where the noise of a payload may start, with `PAYLOAD_BYTES_MAX` behind it.
pub const NOISE_STARTS: usize = 64 * 1024;
pub const PAYLOAD_BYTES_MAX: usize = 256 * 1024;

fn noise() -> &'static [u8] {
    static NOISE: OnceLock<Vec<u8>> = OnceLock::new();
    NOISE.get_or_init(|| {
        let mut rng = crate::rng::Rng::new(1);
        let words = (NOISE_STARTS + PAYLOAD_BYTES_MAX) / 8;
        (0..words).flat_map(|_| rng.next().to_le_bytes()).collect()
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retired {
    No,
    /// The record was appended; nobody was told that it is durable.
    Appended,
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

/// A message as a recovery found it.
#[derive(Clone, Debug)]
pub struct Found {
    pub envelope: Location,
    pub content: Option<Location>,
    pub chunks: Vec<Location>,
    /// How many of the states it was given had come, the last of them included.
    pub states: usize,
}

/// Takes in what recovery replays, and compares it with what was written.
pub struct Replay<'a> {
    truth: &'a Truth,
    pub found: BTreeMap<u64, Found>,
    chunks: BTreeMap<u64, Vec<Location>>,
    retired: BTreeSet<u64>,
    pub last_seq: u64,
    id_max: u64,
    pub violation: Option<String>,
}

impl<'a> Replay<'a> {
    pub fn new(truth: &'a Truth) -> Self {
        Self {
            truth,
            found: BTreeMap::new(),
            chunks: BTreeMap::new(),
            retired: BTreeSet::new(),
            last_seq: 0,
            id_max: 0,
            violation: None,
        }
    }

    pub fn visit(&mut self, record: Replayed<'_>) {
        if let Err(violation) = self.try_visit(&record) {
            self.violation.get_or_insert(violation);
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
        self.id_max = self.id_max.max(id);
        if record.kind == kind::SEAL {
            return Ok(());
        }
        let message = self.truth.messages.get(&id);
        let message = message.ok_or_else(|| format!("nobody wrote message {id}"))?;
        let differs = |what: &str| format!("{what} of message {id} is not what was written");
        match record.kind {
            kind::CONTENT if message.content.is_none() => {
                let chunks = self.chunks.entry(id).or_default();
                let chunk = message.chunks.get(record.aux as usize);
                ensure(chunk.is_some_and(|it| it.is(record.payload)), || differs("a chunk"))?;
                // The first chunks of a settled message may have been reused already.
                if chunks.len() == record.aux as usize {
                    chunks.push(location);
                }
            }
            kind::CONTENT => {
                let found = self.found.get_mut(&id);
                let found = found.ok_or_else(|| differs("content without its envelope"))?;
                ensure(found.content.is_none(), || differs("second content"))?;
                let beside = found.envelope.following(record.payload.len()) == location;
                ensure(beside, || differs("place of content"))?;
                ensure(message.content.is_some_and(|it| it.is(record.payload)), || {
                    differs("content")
                })?;
                found.content = Some(location);
            }
            kind::ENVELOPE => {
                let whole = message.envelope.is_some_and(|it| it.is(record.payload));
                ensure(whole, || differs("the envelope"))?;
                let chunks = self.chunks.remove(&id).unwrap_or_default();
                let found = Found { envelope: location, content: None, chunks, states: 0 };
                let before = self.found.insert(id, found);
                ensure(before.is_none(), || differs("second envelope"))?;
            }
            kind::STATE => {
                if let Some(found) = self.found.get_mut(&id) {
                    let index = message.states.iter().position(|it| it.is(record.payload));
                    let index = index.ok_or_else(|| differs("a state"))?;
                    ensure(index >= found.states, || differs("order of states"))?;
                    found.states = index + 1;
                }
            }
            kind::RETIRED => {
                self.found.remove(&id);
                self.retired.insert(id);
            }
            other => return Err(format!("a record of kind {other}")),
        }
        Ok(())
    }

    /// Whether what was found is what must be there.
    pub fn judge(&self, disk: &Disk, next_message_id: u64) -> Result<(), String> {
        if let Some(violation) = &self.violation {
            return Err(violation.clone());
        }
        for (id, message) in &self.truth.messages {
            let Some(found) = self.found.get(id) else {
                let may_be_absent = !message.acknowledged
                    || message.gone
                    || message.retired == Retired::Durable
                    || (message.retired == Retired::Appended && self.retired.contains(id));
                ensure(may_be_absent, || format!("acknowledged message {id} is lost"))?;
                continue;
            };
            ensure(!message.gone, || format!("message {id} came back"))?;
            ensure(message.retired != Retired::Durable, || {
                format!("retired message {id} came back")
            })?;
            let has_content = message.content.is_some() == found.content.is_some();
            let has_chunks = message.chunks.len() == found.chunks.len();
            ensure(has_content && has_chunks, || format!("message {id} is not whole"))?;
            ensure(found.states >= message.states_acknowledged, || {
                format!("message {id} lost an acknowledged state")
            })?;
            found.reads_back(message, disk)?;
        }
        ensure(self.id_max < next_message_id, || {
            format!("id {} would be used again from {next_message_id}", self.id_max)
        })
    }
}

impl Found {
    /// Every record stands where its location says.
    pub fn reads_back(&self, message: &Message, disk: &Disk) -> Result<(), String> {
        read_back(disk, self.envelope, kind::ENVELOPE, message.envelope)?;
        if let Some(content) = self.content {
            read_back(disk, content, kind::CONTENT, message.content)?;
        }
        for (location, chunk) in self.chunks.iter().zip(&message.chunks) {
            read_back(disk, *location, kind::CONTENT, Some(*chunk))?;
        }
        Ok(())
    }

    /// What holds its segments.
    pub fn pins(&self) -> impl Iterator<Item = Location> {
        std::iter::once(self.envelope).chain(self.chunks.iter().copied())
    }
}

fn read_back(
    disk: &Disk,
    location: Location,
    kind: u8,
    expected: Option<Payload>,
) -> Result<(), String> {
    let mut bytes = vec![0; location.record_bytes as usize];
    disk.read_at(usize::from(location.slot), location.offset() as usize, &mut bytes);
    let read = RecordRef::read(u64::from(location.epoch_low), &bytes);
    let same = read.is_some_and(|(record, _)| {
        record.kind == kind && expected.is_some_and(|it| it.is(record.payload))
    });
    ensure(same, || format!("{location:?} does not read back"))
}

pub fn ensure(holds: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what()) }
}
