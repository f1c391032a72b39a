//! The journal's decisions: which record goes where, what may be written when, what is durable,
//! which segment comes free. `Pure.`
//!
//! The shell carries out the effects and reports back; so does the simulator. A failed write or
//! sync never comes back here: the process stops (I8).

use std::collections::VecDeque;

use super::format::{
    BLOCK_BYTES, FRAME_HEADER_BYTES, FrameHeader, Generation, Record, Run, SEGMENT_HEADER_BYTES,
    SegmentHeader, StoreId, kind,
};
use crate::limits::{FRAME_BYTES_MAX, FRAMES_IN_FLIGHT_MAX, SPARE_SLOTS_MIN};
use crate::runtime::aligned::AlignedBuffer;

/// Where a record stands. 16 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Location {
    pub slot: u16,
    /// Offset of the frame in its segment, in blocks.
    pub block: u16,
    /// Low half of the segment's epoch.
    pub epoch_low: u32,
    /// Offset of the record in its frame.
    pub in_frame: u32,
    /// Header and payload, without padding.
    pub record_bytes: u32,
}

impl Location {
    /// Where the next record of the same frame stands, given its payload.
    pub fn following(self, payload_bytes: usize) -> Location {
        Location {
            in_frame: self.in_frame + self.record_bytes.next_multiple_of(8),
            record_bytes: (super::format::RECORD_HEADER_BYTES + payload_bytes) as u32,
            ..self
        }
    }

    /// Offset in the segment file.
    pub fn offset(self) -> u64 {
        u64::from(self.block) * BLOCK_BYTES as u64 + u64::from(self.in_frame)
    }

    /// What records write of it.
    pub const BYTES: usize = 16;

    pub fn to_bytes(self) -> [u8; Location::BYTES] {
        let mut bytes = [0; Location::BYTES];
        bytes[0..2].copy_from_slice(&self.slot.to_le_bytes());
        bytes[2..4].copy_from_slice(&self.block.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.epoch_low.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.in_frame.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.record_bytes.to_le_bytes());
        bytes
    }

    pub fn from_bytes(bytes: [u8; Location::BYTES]) -> Location {
        let [a, b, c, d, epoch_low @ .., e, f, g, h, i, j, k, l] = bytes;
        Location {
            slot: u16::from_le_bytes([a, b]),
            block: u16::from_le_bytes([c, d]),
            epoch_low: u32::from_le_bytes(epoch_low),
            in_frame: u32::from_le_bytes([e, f, g, h]),
            record_bytes: u32::from_le_bytes([i, j, k, l]),
        }
    }
}

/// The frame a record went into; durable when its seq is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// Who writes, and so what room it may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Append {
    /// New mail: refused when space is short.
    Message,
    /// Outcomes and the DSNs born from them: may use the reserve, and may wait a moment for
    /// company.
    Settle,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendError {
    /// Space is short; it passes when messages settle.
    NoSpace,
    /// Every frame is busy or the next segment is not ready: await `room` and come again.
    Later,
    /// The records do not fit one frame.
    TooLarge,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    pub ticket: Ticket,
    /// The first of the records; the others follow it.
    pub first: Location,
}

/// What a completed write was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WriteTag {
    SegmentHeader { epoch: u64 },
    Frame { seq: u64 },
}

/// What the shell is to do.
pub enum Effect {
    /// Write `buffer[..bytes]` at `offset` of the slot's file and make it durable, then report.
    Write { tag: WriteTag, slot: u16, offset: u64, buffer: AlignedBuffer, bytes: usize },
    /// Make a slot off the hot path, then report.
    MakeSlot,
}

/// How much room is left, from the best to the worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Normal,
    /// Under a fifth of the pool is free.
    Slow,
    /// Under a tenth: no new mail.
    Refuse,
}

#[derive(Clone, Copy, Debug)]
pub struct Space {
    pub slots: usize,
    pub slots_free: usize,
    pub slots_max: usize,
    pub level: Level,
}

/// Numbers since the start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    pub frames: u64,
    pub records: u64,
    /// Written, padding included.
    pub bytes: u64,
    pub segments_activated: u64,
}

#[derive(Clone, Copy, Debug)]
enum Slot {
    /// Nothing in it counts. `epoch` is that of its last life, 0 for none.
    Free { epoch: u64 },
    /// In the order of `epoch`; `live` things in it are still needed.
    Used { epoch: u64, live: u32 },
}

impl Slot {
    fn epoch(&self) -> u64 {
        match self {
            Slot::Free { epoch } | Slot::Used { epoch, .. } => *epoch,
        }
    }
}

/// The segment that frames go to now.
struct Current {
    slot: u16,
    epoch: u64,
    capacity: u64,
    next_offset: u64,
    header_durable: bool,
}

/// The frame that fills.
struct Filling {
    buffer: AlignedBuffer,
    bytes: usize,
    record_count: u32,
    seq: u64,
    /// Something in it is awaited: it is not to wait for company.
    urgent: bool,
}

struct InFlight {
    seq: u64,
    written: bool,
}

/// What a journal starts from: recovery's findings.
pub struct Start {
    pub store: StoreId,
    pub shard: u16,
    /// (capacity in bytes, last epoch or 0, whether its frames still count) by slot.
    pub slots: Vec<StartSlot>,
    /// The last frame that counts.
    pub last_seq: u64,
    /// Above every seq, epoch and id ever seen.
    pub next_seq: u64,
    pub next_epoch: u64,
    pub next_message_id: u64,
    /// Slots the pool may grow to.
    pub slots_max: usize,
}

#[derive(Clone, Copy, Debug)]
pub struct StartSlot {
    pub capacity: u64,
    pub epoch: u64,
    pub counts: bool,
}

pub struct Core {
    store: StoreId,
    shard: u16,
    slots: Vec<Slot>,
    capacities: Vec<u64>,
    slots_max: usize,
    slots_in_making: usize,
    current: Option<Current>,
    filling: Option<Filling>,
    in_flight: VecDeque<InFlight>,
    run: Run,
    next_seq: u64,
    next_epoch: u64,
    next_message_id: u64,
    durable_seq: u64,
    /// Highest seq that some durable frame names in `durable_upto`.
    covered_seq: u64,
    last_write_ms: u64,
    clock_ms: u64,
    pool: Vec<AlignedBuffer>,
    effects: Vec<Effect>,
    pub counters: Counters,
}

impl Core {
    pub fn new(start: Start) -> Self {
        let slots = start.slots.iter().map(|slot| {
            if slot.counts {
                Slot::Used { epoch: slot.epoch, live: 0 }
            } else {
                Slot::Free { epoch: slot.epoch }
            }
        });
        Self {
            store: start.store,
            shard: start.shard,
            slots: slots.collect(),
            capacities: start.slots.iter().map(|slot| slot.capacity).collect(),
            slots_max: start.slots_max,
            slots_in_making: 0,
            current: None,
            filling: None,
            in_flight: VecDeque::new(),
            run: Run {
                first_epoch: start.next_epoch,
                first_seq: start.next_seq,
                cut_seq: start.last_seq,
            },
            next_seq: start.next_seq,
            next_epoch: start.next_epoch,
            next_message_id: start.next_message_id,
            durable_seq: start.last_seq,
            covered_seq: start.last_seq,
            last_write_ms: 0,
            clock_ms: 0,
            pool: Vec::new(),
            effects: Vec::new(),
            counters: Counters::default(),
        }
    }

    /// A message id never used before in this journal.
    pub fn next_message_id(&mut self) -> u64 {
        let id = self.next_message_id;
        self.next_message_id += 1;
        id
    }

    /// Puts all of `records` into one frame. `now_ms` is the wall clock.
    pub fn append(
        &mut self,
        records: &[Record<'_>],
        class: Append,
        now_ms: u64,
    ) -> Result<Appended, AppendError> {
        let bytes: usize = records.iter().map(Record::padded_bytes).sum();
        if FRAME_HEADER_BYTES + bytes > FRAME_BYTES_MAX {
            return Err(AppendError::TooLarge);
        }
        if class == Append::Message && self.space().level >= Level::Refuse {
            return Err(AppendError::NoSpace);
        }
        self.clock_ms = self.clock_ms.max(now_ms);
        if self.filling.as_ref().is_some_and(|it| it.bytes + bytes > FRAME_BYTES_MAX) {
            self.submit_if_possible();
            if self.filling.is_some() {
                return Err(AppendError::Later);
            }
        }
        if self.filling.is_none() {
            self.begin_frame(class)?;
        }
        let current = self.current.as_ref().expect("a frame fills in a segment");
        let filling = self.filling.as_mut().expect("begun above");
        let first = Location {
            slot: current.slot,
            block: (current.next_offset / BLOCK_BYTES as u64) as u16,
            epoch_low: current.epoch as u32,
            in_frame: filling.bytes as u32,
            record_bytes: (super::format::RECORD_HEADER_BYTES + records[0].payload_bytes()) as u32,
        };
        filling.reserve(bytes);
        for record in records {
            let end = filling.bytes + record.padded_bytes();
            record.write(current.epoch, &mut filling.buffer[filling.bytes..end]);
            filling.bytes = end;
        }
        filling.record_count += records.len() as u32;
        filling.urgent |= class == Append::Message;
        self.counters.records += records.len() as u64;
        Ok(Appended { ticket: Ticket(filling.seq), first })
    }

    /// Whether something awaited fills a frame that could go now.
    pub fn wants_submit(&self) -> bool {
        self.filling.as_ref().is_some_and(|filling| filling.urgent) && self.can_submit()
    }

    /// Whether a frame fills that nobody awaits.
    pub fn has_patient_records(&self) -> bool {
        self.filling.as_ref().is_some_and(|filling| !filling.urgent)
    }

    /// Sends the filling frame off, unless two are in flight or the segment is not ready: then it
    /// goes when one of these comes back.
    pub fn submit(&mut self) {
        if let Some(filling) = &mut self.filling {
            filling.urgent = true;
        }
        self.submit_if_possible();
    }

    /// After a second without a write, an empty frame names the last acknowledged ones as durable.
    pub fn seal_if_idle(&mut self, now_ms: u64) {
        let idle = self.filling.is_none() && self.in_flight.is_empty();
        let uncovered = self.covered_seq < self.durable_seq;
        if idle && uncovered && now_ms >= self.last_write_ms.saturating_add(SEAL_AFTER_MS) {
            let seal = Record { kind: kind::SEAL, flags: 0, id: 0, aux: 0, payload: &[] };
            // Without room for it the tail is only less well described.
            if self.append(&[seal], Append::Settle, now_ms).is_ok() {
                self.submit();
            }
        }
    }

    /// A write is durable. Returns whether the durable seq moved.
    pub fn on_durable(&mut self, tag: WriteTag, buffer: AlignedBuffer) -> bool {
        if self.pool.len() <= FRAMES_IN_FLIGHT_MAX {
            self.pool.push(buffer);
        }
        let before = self.durable_seq;
        match tag {
            WriteTag::SegmentHeader { epoch } => {
                let current = self.current.as_mut().expect("its header was written");
                assert_eq!(current.epoch, epoch);
                current.header_durable = true;
            }
            WriteTag::Frame { seq } => {
                let frame = self.in_flight.iter_mut().find(|frame| frame.seq == seq);
                frame.expect("a frame completes once").written = true;
                while self.in_flight.front().is_some_and(|frame| frame.written) {
                    let frame = self.in_flight.pop_front().expect("looked at above");
                    self.durable_seq = frame.seq;
                }
            }
        }
        if self.filling.as_ref().is_some_and(|filling| filling.urgent) {
            self.submit_if_possible();
        }
        self.durable_seq > before
    }

    /// A slot is ready to be used.
    pub fn on_slot_made(&mut self, capacity: u64) {
        self.slots_in_making -= 1;
        self.slots.push(Slot::Free { epoch: 0 });
        self.capacities.push(capacity);
        self.want_spare();
    }

    /// The disk has no more room for slots: the pool ends here.
    pub fn on_slot_refused(&mut self) {
        self.slots_in_making -= 1;
        self.slots_max = self.slots.len() + self.slots_in_making;
    }

    /// The file system has room again for up to `slots_max` slots.
    pub fn set_slots_max(&mut self, slots_max: usize) {
        self.slots_max = slots_max.max(self.slots.len() + self.slots_in_making);
        self.want_spare();
    }

    pub fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    pub fn durable_seq(&self) -> u64 {
        self.durable_seq
    }

    /// Everything appended so far is durable.
    pub fn is_settled(&self) -> bool {
        self.filling.is_none() && self.in_flight.is_empty()
    }

    /// One more live thing at `location`: its segment stays.
    pub fn pin(&mut self, location: Location) {
        match &mut self.slots[usize::from(location.slot)] {
            Slot::Used { epoch, live } if *epoch as u32 == location.epoch_low => *live += 1,
            slot => panic!("pinned {location:?} in {slot:?}"),
        }
    }

    /// Like `pin`, for what recovery found. A slot whose header cannot be read is not free after
    /// all when something live stands there. Returns false when another life of the slot has
    /// overwritten it.
    pub fn pin_recovered(&mut self, location: Location) -> bool {
        let Some(slot) = self.slots.get_mut(usize::from(location.slot)) else { return false };
        if matches!(slot, Slot::Free { epoch: 0 }) {
            let epoch = u64::from(location.epoch_low);
            *slot = Slot::Used { epoch, live: 0 };
            self.next_epoch = self.next_epoch.max(epoch + 1);
            self.run.first_epoch = self.next_epoch;
        }
        let held = self.is_used(location);
        if held {
            self.pin(location);
        }
        held
    }

    /// One less; only once the record that freed it is durable, and nobody reads it.
    pub fn unpin(&mut self, location: Location) {
        match &mut self.slots[usize::from(location.slot)] {
            Slot::Used { epoch, live } if *epoch as u32 == location.epoch_low && *live > 0 => {
                *live -= 1;
                if *live == 0 {
                    self.free_prefix();
                }
            }
            slot => panic!("unpinned {location:?} in {slot:?}"),
        }
    }

    /// Keeps a slot with damaged data for ever: it is never reused.
    pub fn quarantine(&mut self, slot: usize) {
        if let Slot::Used { live, .. } = &mut self.slots[slot] {
            *live += 1;
        }
    }

    /// Whether `location` names a segment in use.
    pub fn is_used(&self, location: Location) -> bool {
        self.slots.get(usize::from(location.slot)).is_some_and(
            |slot| matches!(slot, Slot::Used { epoch, .. } if *epoch as u32 == location.epoch_low),
        )
    }

    /// Frees what recovery's pins left empty, and begins to grow.
    pub fn begin(&mut self) {
        self.free_prefix();
        self.want_spare();
    }

    pub fn space(&self) -> Space {
        let free = self.free_count();
        let slots_max = self.slots_max.max(self.slots.len());
        let could_be_free = free + (slots_max - self.slots.len());
        let level = if could_be_free * 10 < slots_max || could_be_free <= RESERVE_SLOTS {
            Level::Refuse
        } else if could_be_free * 5 < slots_max {
            Level::Slow
        } else {
            Level::Normal
        };
        Space { slots: self.slots.len(), slots_free: free, slots_max, level }
    }

    fn free_count(&self) -> usize {
        self.slots.iter().filter(|slot| matches!(slot, Slot::Free { .. })).count()
    }

    /// Frees the oldest segments with nothing live, up to the first that has something (a slot
    /// with a RETIRED is thus never reused before the slot with its ENVELOPE).
    fn free_prefix(&mut self) {
        let current_epoch = self.current.as_ref().map_or(u64::MAX, |current| current.epoch);
        let mut used: Vec<(u64, usize, u32)> = Vec::new();
        for (index, slot) in self.slots.iter().enumerate() {
            if let Slot::Used { epoch, live } = slot {
                used.push((*epoch, index, *live));
            }
        }
        used.sort_unstable();
        for (epoch, index, live) in used {
            if live > 0 || epoch == current_epoch {
                break;
            }
            self.slots[index] = Slot::Free { epoch };
        }
    }

    fn want_spare(&mut self) {
        while self.free_count() + self.slots_in_making < SPARE_SLOTS_MIN
            && self.slots.len() + self.slots_in_making < self.slots_max
        {
            self.slots_in_making += 1;
            self.effects.push(Effect::MakeSlot);
        }
    }

    fn begin_frame(&mut self, class: Append) -> Result<(), AppendError> {
        let full = self
            .current
            .as_ref()
            .is_none_or(|current| current.capacity - current.next_offset < FRAME_BYTES_MAX as u64);
        if full {
            self.activate_next(class)?;
        }
        let buffer = self.pool.pop().unwrap_or_else(|| AlignedBuffer::new(FRAME_BYTES_FIRST));
        self.filling = Some(Filling {
            buffer,
            bytes: FRAME_HEADER_BYTES,
            record_count: 0,
            seq: self.next_seq,
            urgent: false,
        });
        self.next_seq += 1;
        Ok(())
    }

    /// Turns to a free slot. Its header must be durable before a frame goes there (I4).
    fn activate_next(&mut self, class: Append) -> Result<(), AppendError> {
        if self.current.as_ref().is_some_and(|current| !current.header_durable) {
            return Err(AppendError::Later);
        }
        // The reserve is of slots that are there: one that is to be made may yet be refused.
        let reserved = if class == Append::Message { RESERVE_SLOTS } else { 0 };
        if self.free_count() <= reserved {
            return Err(self.out_of_slots());
        }
        // The newest header alone names the next epoch, seq and message id for certain: until a
        // newer one is durable, it stays.
        let newest = self.slots.iter().map(Slot::epoch).max().filter(|epoch| *epoch > 0);
        // Reusing the oldest first keeps a RETIRED on disk for as long as its ENVELOPE: a torn
        // header then uncovers nothing that was settled.
        let candidates = self.slots.iter().enumerate().filter_map(|(index, slot)| match slot {
            Slot::Free { epoch } if Some(*epoch) != newest => Some((*epoch, index)),
            _ => None,
        });
        let Some((_, slot)) = candidates.min() else { return Err(self.out_of_slots()) };
        let epoch = self.next_epoch;
        self.next_epoch += 1;
        self.slots[slot] = Slot::Used { epoch, live: 0 };
        self.current = Some(Current {
            slot: slot as u16,
            epoch,
            capacity: self.capacities[slot],
            next_offset: SEGMENT_HEADER_BYTES as u64,
            header_durable: false,
        });
        self.free_prefix();
        let used = self.slots.iter().filter_map(|slot| match slot {
            Slot::Used { epoch, .. } => Some(*epoch),
            Slot::Free { .. } => None,
        });
        let header = SegmentHeader {
            generation: Generation::First,
            shard: self.shard,
            epoch,
            first_seq: self.next_seq,
            activated_ms: self.clock_ms,
            run: self.run,
            oldest_live_epoch: used.min().expect("the new segment is in use"),
            next_message_id: self.next_message_id,
            checkpoints: [None; 2],
        };
        let mut buffer = self.pool.pop().unwrap_or_else(|| AlignedBuffer::new(FRAME_BYTES_FIRST));
        buffer.grow(SEGMENT_HEADER_BYTES);
        header.write(&self.store, &mut buffer[..SEGMENT_HEADER_BYTES]);
        self.effects.push(Effect::Write {
            tag: WriteTag::SegmentHeader { epoch },
            slot: slot as u16,
            offset: 0,
            buffer,
            bytes: SEGMENT_HEADER_BYTES,
        });
        self.counters.segments_activated += 1;
        self.want_spare();
        Ok(())
    }

    fn out_of_slots(&mut self) -> AppendError {
        self.want_spare();
        if self.slots_in_making > 0 { AppendError::Later } else { AppendError::NoSpace }
    }

    fn can_submit(&self) -> bool {
        self.in_flight.len() < FRAMES_IN_FLIGHT_MAX
            && self.current.as_ref().is_some_and(|current| current.header_durable)
    }

    fn submit_if_possible(&mut self) {
        if !self.can_submit() {
            return;
        }
        let Some(mut filling) = self.filling.take() else { return };
        let current = self.current.as_mut().expect("a frame fills in a segment");
        let padded = filling.bytes.next_multiple_of(BLOCK_BYTES);
        filling.buffer[filling.bytes..padded].fill(0);
        let payload = &filling.buffer[FRAME_HEADER_BYTES..filling.bytes];
        let header = FrameHeader {
            frame_bytes: filling.bytes as u32,
            epoch: current.epoch,
            seq: filling.seq,
            durable_upto: self.durable_seq,
            clock_ms: self.clock_ms,
            record_count: filling.record_count,
            block: (current.next_offset / BLOCK_BYTES as u64) as u32,
            payload_checksum: crc32c::crc32c(payload),
        };
        header.write(&self.store, &mut filling.buffer[..FRAME_HEADER_BYTES]);
        self.covered_seq = self.durable_seq;
        self.effects.push(Effect::Write {
            tag: WriteTag::Frame { seq: filling.seq },
            slot: current.slot,
            offset: current.next_offset,
            buffer: filling.buffer,
            bytes: padded,
        });
        current.next_offset += padded as u64;
        self.last_write_ms = self.clock_ms;
        self.in_flight.push_back(InFlight { seq: filling.seq, written: false });
        self.counters.frames += 1;
        self.counters.bytes += padded as u64;
    }
}

impl Filling {
    fn reserve(&mut self, bytes: usize) {
        let wanted = (self.bytes + bytes).next_multiple_of(BLOCK_BYTES);
        if wanted > self.buffer.len() {
            self.buffer.grow(wanted.next_power_of_two().min(FRAME_BYTES_MAX));
        }
    }
}

/// First size of a frame's buffer; it grows with the load.
const FRAME_BYTES_FIRST: usize = 16 * 1024;
/// Slots that only outcomes may take.
const RESERVE_SLOTS: usize = 1;
/// Idleness after which the last frames are sealed.
const SEAL_AFTER_MS: u64 = 1_000;

const _: () = assert!(FRAME_BYTES_MAX.is_multiple_of(BLOCK_BYTES));

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT_BYTES: u64 = (SEGMENT_HEADER_BYTES + 2 * FRAME_BYTES_MAX) as u64;

    /// A core whose slots had these epochs, 0 for a new one, and hold nothing that counts.
    fn core(epochs: &[u64], slots_max: usize) -> Core {
        let slot =
            |epoch: &u64| StartSlot { capacity: SEGMENT_BYTES, epoch: *epoch, counts: false };
        let mut core = Core::new(Start {
            store: StoreId([7; 16]),
            shard: 0,
            slots: epochs.iter().map(slot).collect(),
            last_seq: 40,
            next_seq: 41,
            next_epoch: epochs.iter().max().expect("slots") + 1,
            next_message_id: 9,
            slots_max,
        });
        core.begin();
        core
    }

    /// Completes every write at once; returns the slots that were written to.
    fn complete(core: &mut Core) -> Vec<u16> {
        let mut slots = Vec::new();
        loop {
            let effects = core.take_effects();
            if effects.is_empty() {
                return slots;
            }
            for effect in effects {
                if let Effect::Write { tag, slot, buffer, .. } = effect {
                    slots.push(slot);
                    core.on_durable(tag, buffer);
                }
            }
        }
    }

    fn append(core: &mut Core, class: Append, bytes: usize) -> Result<Appended, AppendError> {
        let payload = vec![7; bytes];
        let payload = [payload.as_slice()];
        let id = core.next_message_id();
        core.append(
            &[Record { kind: kind::STATE, flags: 0, id, aux: 0, payload: &payload }],
            class,
            1,
        )
    }

    #[test]
    fn growth_that_is_refused_leaves_outcomes_their_reserve() {
        let mut core = core(&[1, 2], 8);
        let refused = loop {
            match append(&mut core, Append::Message, FRAME_BYTES_MAX / 2) {
                Ok(appended) => core.pin(appended.first),
                Err(error) => break error,
            }
            core.submit();
            complete(&mut core);
        };
        assert_eq!(refused, AppendError::Later, "slots are being made");
        while core.slots_in_making > 0 {
            core.on_slot_refused();
        }
        let message = append(&mut core, Append::Message, 100);
        assert_eq!(message.expect_err("no room"), AppendError::NoSpace);
        assert!(append(&mut core, Append::Settle, FRAME_BYTES_MAX / 2).is_ok());
    }

    #[test]
    fn the_newest_header_stays_until_a_newer_one_is_durable() {
        let mut single = core(&[5], 1);
        let settled = append(&mut single, Append::Settle, 100);
        assert_eq!(settled.expect_err("one slot only"), AppendError::NoSpace);
        let mut pair = core(&[5, 4], 2);
        assert!(append(&mut pair, Append::Settle, 100).is_ok());
        assert_eq!(complete(&mut pair), [1], "the older slot");
    }
}
