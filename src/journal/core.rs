//! The journal's decisions: which record goes where, what may be written when, what is durable.
//! `Pure.`
//!
//! The shell carries out the effects and reports back; so does the simulator. A failed write or
//! sync never comes back here: the process stops (I8).

use std::collections::VecDeque;

use super::checkpoint::{Begin, Checkpoints, Running, Tally};
use super::format::{
    BLOCK_BYTES, Before, CheckpointName, FRAME_HEADER_BYTES, FrameHeader, Generation, Record, Run,
    SEGMENT_HEADER_BYTES, SegmentHeader, StoreId, kind,
};
use super::recovery::Ground;
use super::space::{Level, Slots, Space, Taker};
use crate::limits::{FRAME_BYTES_MAX, FRAMES_IN_FLIGHT_MAX};
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
    /// A checkpoint: may use all there is, and may wait likewise.
    Checkpoint,
}

impl Append {
    fn taker(self) -> Taker {
        match self {
            Append::Message => Taker::Message,
            Append::Settle => Taker::Outcome,
            Append::Checkpoint => Taker::Checkpoint,
        }
    }
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

/// Numbers since the start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    pub frames: u64,
    pub records: u64,
    /// Written, padding included.
    pub bytes: u64,
    pub segments_activated: u64,
    pub checkpoints: u64,
    /// Copied by compaction, padding included.
    pub moved_bytes: u64,
}

/// A segment that frames go to now.
struct Open {
    slot: u16,
    epoch: u64,
    capacity: u64,
    next_offset: u64,
    header_durable: bool,
}

impl Open {
    fn next_block(&self) -> u32 {
        (self.next_offset / BLOCK_BYTES as u64) as u32
    }

    fn has_room(&self, bytes: usize) -> bool {
        self.capacity - self.next_offset >= bytes as u64
    }
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
    slot: u16,
    block: u32,
    written: bool,
}

/// A segment header that is being written.
struct HeaderInFlight {
    epoch: u64,
    names: [Option<CheckpointName>; 2],
    /// Where the older of the checkpoints it names begins.
    floor_seq: u64,
}

/// What a journal starts from.
pub struct Start {
    pub store: StoreId,
    pub shard: u16,
    /// What recovery found.
    pub ground: Ground,
    /// Slots the pool may grow to.
    pub slots_max: usize,
}

pub struct Core {
    store: StoreId,
    shard: u16,
    slots: Slots,
    /// The segment of new mail and outcomes, and that of survivors.
    first: Option<Open>,
    survivors: Option<Open>,
    /// One at a time, whichever the generation.
    header: Option<HeaderInFlight>,
    filling: Option<Filling>,
    in_flight: VecDeque<InFlight>,
    checkpoints: Checkpoints,
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
        let ground = start.ground;
        let checkpoints = Checkpoints {
            names: ground.checkpoints,
            complete: ground.checkpoints_complete,
            named: ground.checkpoints_named,
            behind_bytes: ground.behind_bytes,
            last_bytes: ground.checkpoint_bytes,
            ..Checkpoints::default()
        };
        let mut slots = Slots::new(&ground.slots, start.slots_max, checkpoints.floor_seq());
        ground.quarantined.iter().for_each(|slot| slots.quarantine(*slot));
        Self {
            store: start.store,
            shard: start.shard,
            slots,
            first: None,
            survivors: None,
            header: None,
            filling: None,
            in_flight: VecDeque::new(),
            checkpoints,
            run: Run {
                first_epoch: ground.next_epoch,
                first_seq: ground.next_seq,
                cut_seq: ground.last_seq,
            },
            next_seq: ground.next_seq,
            next_epoch: ground.next_epoch,
            next_message_id: ground.next_message_id,
            durable_seq: ground.last_seq,
            covered_seq: ground.last_seq,
            last_write_ms: 0,
            clock_ms: 0,
            pool: Vec::new(),
            effects: Vec::new(),
            counters: Counters::default(),
        }
    }

    pub fn store_id(&self) -> StoreId {
        self.store
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
            self.begin_frame(class.taker())?;
        }
        let open = self.first.as_ref().expect("a frame fills in a segment");
        let filling = self.filling.as_mut().expect("begun above");
        let first = filling.append(records, bytes, open);
        filling.urgent |= class == Append::Message;
        self.counters.records += records.len() as u64;
        Ok(Appended { ticket: Ticket(filling.seq), first })
    }

    /// Sends `records` off at once, in a frame of their own to the segment of survivors. With
    /// `Later`, await `room` and decide anew what is still alive.
    pub fn append_moved(
        &mut self,
        records: &[Record<'_>],
        now_ms: u64,
    ) -> Result<Appended, AppendError> {
        let bytes: usize = records.iter().map(Record::padded_bytes).sum();
        if FRAME_HEADER_BYTES + bytes > FRAME_BYTES_MAX {
            return Err(AppendError::TooLarge);
        }
        self.clock_ms = self.clock_ms.max(now_ms);
        // Frames leave in the order of their seqs.
        self.submit();
        if self.filling.is_some() || self.in_flight.len() >= FRAMES_IN_FLIGHT_MAX {
            return Err(AppendError::Later);
        }
        if self.survivors.as_ref().is_none_or(|open| !open.has_room(FRAME_BYTES_MAX)) {
            self.activate(Generation::Survivors, Taker::Compaction)?;
        }
        let open = self.survivors.as_ref().filter(|open| open.header_durable);
        let Some(open) = open else { return Err(AppendError::Later) };
        let mut filling = Filling::new(&mut self.pool, self.next_seq);
        self.next_seq += 1;
        let first = filling.append(records, bytes, open);
        let ticket = Ticket(filling.seq);
        self.counters.records += records.len() as u64;
        self.counters.moved_bytes += bytes as u64;
        self.send(filling, Generation::Survivors);
        Ok(Appended { ticket, first })
    }

    /// Whether a checkpoint is worth its while: so much log stands behind the last one, or space
    /// is short and comes free by it.
    pub fn checkpoint_is_due(&self) -> bool {
        let checkpoints = &self.checkpoints;
        if checkpoints.running.is_some() {
            return false;
        }
        let behind = self.log_bytes_behind_checkpoint();
        let interval = CHECKPOINT_AFTER_SIZES * checkpoints.last_bytes;
        if behind >= interval.max(CHECKPOINT_AFTER_BYTES) {
            return true;
        }
        // Two of them free everything that is dead.
        let level = self.space().level;
        let dead = self.slots.dead_below(u64::MAX);
        let gain = dead - self.slots.dead_below(checkpoints.floor_seq());
        let gains = gain > 2 * self.slots.checkpoint_slots && (gain > 1 || level == Level::Refuse);
        let left = self.first.as_ref().map_or(0, |open| open.capacity - open.next_offset);
        let has_room =
            left + self.slots.free_bytes() >= checkpoints.last_bytes + FRAME_BYTES_MAX as u64;
        self.slots.is_short() && gains && has_room && behind > 0
    }

    /// Whether a checkpoint is under way: it is until its END is durable.
    pub fn checkpoint_runs(&self) -> bool {
        self.checkpoints.running.is_some()
    }

    /// What the next start would have to read beside the newest checkpoint, which may be under way.
    pub fn log_bytes_behind_checkpoint(&self) -> u64 {
        let Checkpoints { running, behind_bytes, last_bytes, .. } = &self.checkpoints;
        let own_bytes = running.as_ref().map_or(*last_bytes, |running| running.bytes);
        behind_bytes.saturating_sub(own_bytes)
    }

    /// Appends BEGIN. Before the first ITEMS, whoever writes them must know of every message whose
    /// frame is not after the one returned.
    pub fn begin_checkpoint(&mut self, now_ms: u64) -> Result<Ticket, AppendError> {
        assert!(self.checkpoints.running.is_none(), "one checkpoint at a time");
        let open = self.survivors.as_ref();
        let begin = Begin {
            survivors_epoch: open.map_or(0, |open| open.epoch),
            survivors_block: open.map_or(0, Open::next_block),
            quarantined: self.slots.quarantined(),
        };
        let payload = begin.to_bytes();
        let payload = [payload.as_slice()];
        let record = Record { kind: kind::BEGIN, flags: 0, id: 0, aux: 0, payload: &payload };
        let appended = self.append(&[record], Append::Checkpoint, now_ms)?;
        let epoch = self.first.as_ref().expect("appended to above").epoch;
        let name = CheckpointName {
            begin_seq: appended.ticket.0,
            begin_epoch: epoch,
            begin_block: appended.first.block.into(),
        };
        let tally = Tally::new(name.begin_seq);
        self.checkpoints.running = Some(Running { name, tally, bytes: 0, end_seq: None });
        self.checkpoints.behind_bytes = 0;
        Ok(appended.ticket)
    }

    /// Appends one ITEMS: what holds at its place in the log.
    pub fn append_items(&mut self, payload: &[u8], now_ms: u64) -> Result<Ticket, AppendError> {
        let running = self.checkpoints.running.as_ref().expect("begun before");
        let aux = running.tally.items() as u32;
        let pieces = [payload];
        let record = Record { kind: kind::ITEMS, flags: 0, id: 0, aux, payload: &pieces };
        let appended = self.append(&[record], Append::Checkpoint, now_ms)?;
        let running = self.checkpoints.running.as_mut().expect("looked at above");
        running.tally.add(payload);
        running.bytes += payload.len() as u64;
        Ok(appended.ticket)
    }

    /// Appends END. The checkpoint is complete when that is durable, and counts when the header of
    /// a later segment names it.
    pub fn end_checkpoint(&mut self, now_ms: u64) -> Result<Ticket, AppendError> {
        let running = self.checkpoints.running.as_ref().expect("begun before");
        let payload = running.tally.end();
        let payload = [payload.as_slice()];
        let record = Record { kind: kind::END, flags: 0, id: 0, aux: 0, payload: &payload };
        let appended = self.append(&[record], Append::Checkpoint, now_ms)?;
        let running = self.checkpoints.running.as_mut().expect("looked at above");
        running.end_seq = Some(appended.ticket.0);
        Ok(appended.ticket)
    }

    /// Turns to the next segment so that its header names the newest checkpoint: at a clean stop,
    /// and with little space where that frees more than it takes.
    pub fn name_checkpoints(&mut self) {
        if self.filling.is_none() && !self.checkpoints.named && self.checkpoints.complete > 0 {
            // Where there is no slot for it, the older checkpoints serve.
            let _ = self.activate(Generation::First, Taker::Checkpoint);
        }
    }

    /// Once nothing lives among the survivors, their segment need not stay open.
    fn close_empty_survivors(&mut self) {
        let is_empty = |open: &mut Open| {
            open.header_durable
                && open.next_offset > SEGMENT_HEADER_BYTES as u64
                && self.slots.live_count(open.slot) == 0
        };
        if let Some(open) = self.survivors.take_if(is_empty) {
            self.slots.close(open.slot);
        }
    }

    fn name_checkpoints_if_short(&mut self) {
        if self.checkpoints.named || self.checkpoints.complete < 2 {
            return;
        }
        let freed = self.slots.dead_below(self.checkpoints.floor_seq());
        if freed >= 2 && self.slots.is_short() {
            self.name_checkpoints();
        }
    }

    /// The slot that compaction should empty next, if any.
    pub fn victim(&self, now_ms: u64) -> Option<u16> {
        self.slots.victim(self.durable_seq, now_ms)
    }

    /// What is live in the slot could not be moved: it is no victim before `until_ms`.
    pub fn spare(&mut self, slot: u16, until_ms: u64) {
        self.slots.spare(slot, until_ms);
    }

    /// Pinned things in a slot.
    pub fn live_count(&self, slot: u16) -> u32 {
        self.slots.live_count(slot)
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

    /// To be called now and then. After a second without a write, an empty frame names the last
    /// acknowledged ones as durable; with little space, a header names the last checkpoints.
    pub fn upkeep(&mut self, now_ms: u64) {
        self.close_empty_survivors();
        self.name_checkpoints_if_short();
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
            WriteTag::SegmentHeader { epoch } => self.on_header_durable(epoch),
            WriteTag::Frame { seq } => {
                let frame = self.in_flight.iter_mut().find(|frame| frame.seq == seq);
                frame.expect("a frame completes once").written = true;
                while self.in_flight.front().is_some_and(|frame| frame.written) {
                    let frame = self.in_flight.pop_front().expect("looked at above");
                    self.durable_seq = frame.seq;
                }
            }
        }
        if self.durable_seq > before {
            let count = self.checkpoints.complete_count;
            self.checkpoints.on_durable(self.durable_seq);
            if self.checkpoints.complete_count > count {
                self.counters.checkpoints += 1;
                self.want_slots();
            }
        }
        if self.filling.as_ref().is_some_and(|filling| filling.urgent) {
            self.submit_if_possible();
        }
        self.name_checkpoints_if_short();
        self.durable_seq > before
    }

    fn on_header_durable(&mut self, epoch: u64) {
        let header = self.header.take().expect("it was written");
        assert_eq!(header.epoch, epoch);
        for open in [&mut self.first, &mut self.survivors].into_iter().flatten() {
            open.header_durable |= open.epoch == epoch;
        }
        self.checkpoints.named = header.names == self.checkpoints.names;
        self.slots.set_floor(header.floor_seq);
        self.want_slots();
    }

    /// A slot is ready to be used.
    pub fn on_slot_made(&mut self, capacity: u64) {
        self.slots.in_making -= 1;
        self.slots.add(capacity);
        self.want_slots();
    }

    /// The disk has no more room for slots: the pool ends here.
    pub fn on_slot_refused(&mut self) {
        self.slots.in_making -= 1;
        self.slots.slots_max = self.slots.len() + self.slots.in_making;
    }

    /// The file system has room again for up to `slots_max` slots.
    pub fn set_slots_max(&mut self, slots_max: usize) {
        self.slots.slots_max = slots_max.max(self.slots.len() + self.slots.in_making);
        self.want_slots();
    }

    pub fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    pub fn durable_seq(&self) -> u64 {
        self.durable_seq
    }

    /// Everything appended so far is durable, and every header.
    pub fn is_settled(&self) -> bool {
        self.filling.is_none() && self.in_flight.is_empty() && self.header.is_none()
    }

    /// The frame that `location` stands in, unless it is durable: it cannot be read back so far.
    pub fn awaited(&self, location: Location) -> Option<Ticket> {
        let is_there =
            |slot: u16, block: u32| slot == location.slot && block == u32::from(location.block);
        let sent = self.in_flight.iter().find(|frame| is_there(frame.slot, frame.block));
        let filling = self.filling.as_ref().zip(self.first.as_ref());
        let filling = filling.filter(|(_, open)| is_there(open.slot, open.next_block()));
        sent.map(|frame| Ticket(frame.seq)).or(filling.map(|(filling, _)| Ticket(filling.seq)))
    }

    /// One more live thing of `bytes` at `location`: its segment stays.
    pub fn pin(&mut self, location: Location, bytes: u64) {
        self.slots.pin(location, bytes);
    }

    /// Like `pin`, for what recovery found. A slot whose header cannot be read is not free after
    /// all when something live stands there. Returns false when another life of the slot has
    /// overwritten it.
    pub fn pin_recovered(&mut self, location: Location, bytes: u64) -> bool {
        if let Some(epoch) = self.slots.adopt(location, self.run.cut_seq) {
            self.next_epoch = self.next_epoch.max(epoch + 1);
            self.run.first_epoch = self.next_epoch;
        }
        let is_used = self.is_used(location);
        if is_used {
            self.slots.pin(location, bytes);
        }
        is_used
    }

    /// One less; only once the record that freed it is durable, and nobody reads it.
    pub fn unpin(&mut self, location: Location, bytes: u64) {
        self.slots.unpin(location, bytes);
    }

    /// Whether `pin_recovered` would find what stands at `location`.
    pub fn may_hold(&self, location: Location) -> bool {
        self.is_used(location) || self.slots.is_blank(location.slot)
    }

    /// Whether `location` names a segment in use.
    pub fn is_used(&self, location: Location) -> bool {
        self.slots.is_used(location)
    }

    /// Frees what recovery's pins left empty, and begins to grow.
    pub fn begin(&mut self) {
        self.slots.free_dead();
        self.want_slots();
    }

    /// Octets of all segments, and of what in them is still needed.
    pub fn pool_bytes(&self) -> (u64, u64) {
        self.slots.pool_bytes()
    }

    pub fn space(&self) -> Space {
        self.slots.space()
    }

    fn want_slots(&mut self) {
        let segment_bytes = self.slots.capacity_max().max(1);
        self.slots.checkpoint_slots = (self.checkpoints.last_bytes / segment_bytes) as usize;
        for _ in 0..self.slots.wanted() {
            self.slots.in_making += 1;
            self.effects.push(Effect::MakeSlot);
        }
    }

    fn begin_frame(&mut self, taker: Taker) -> Result<(), AppendError> {
        if self.first.as_ref().is_none_or(|open| !open.has_room(FRAME_BYTES_MAX)) {
            self.activate(Generation::First, taker)?;
        }
        self.filling = Some(Filling::new(&mut self.pool, self.next_seq));
        self.next_seq += 1;
        Ok(())
    }

    /// Turns to a free slot. Its header must be durable before a frame goes there (I4).
    fn activate(&mut self, generation: Generation, taker: Taker) -> Result<(), AppendError> {
        if self.header.is_some() {
            return Err(AppendError::Later);
        }
        let floor_seq = self.checkpoints.floor_seq();
        let freed = self.slots.dead_below(floor_seq);
        let slot = self.slots.next_free().filter(|_| self.slots.allows(taker, freed));
        let Some(slot) = slot else { return Err(self.out_of_slots()) };
        let epoch = self.next_epoch;
        self.next_epoch += 1;
        self.slots.open(slot, epoch);
        let open = Open {
            slot,
            epoch,
            capacity: self.slots.capacity(slot),
            next_offset: SEGMENT_HEADER_BYTES as u64,
            header_durable: false,
        };
        let before = match generation {
            Generation::First => self.first.replace(open),
            Generation::Survivors => self.survivors.replace(open),
        };
        if let Some(before) = &before {
            self.slots.close(before.slot);
        }
        let header = SegmentHeader {
            generation,
            shard: self.shard,
            epoch,
            first_seq: self.next_seq,
            activated_ms: self.clock_ms,
            run: self.run,
            oldest_live_epoch: self.slots.oldest_epoch().expect("the new segment is in use"),
            next_message_id: self.next_message_id,
            checkpoints: self.checkpoints.names,
            before: before
                .map(|before| Before { epoch: before.epoch, end_block: before.next_block() }),
        };
        let mut buffer = take_buffer(&mut self.pool);
        header.write(&self.store, &mut buffer[..SEGMENT_HEADER_BYTES]);
        self.effects.push(Effect::Write {
            tag: WriteTag::SegmentHeader { epoch },
            slot,
            offset: 0,
            buffer,
            bytes: SEGMENT_HEADER_BYTES,
        });
        self.header = Some(HeaderInFlight { epoch, names: self.checkpoints.names, floor_seq });
        self.counters.segments_activated += 1;
        self.want_slots();
        Ok(())
    }

    fn out_of_slots(&mut self) -> AppendError {
        self.want_slots();
        if self.slots.in_making > 0 { AppendError::Later } else { AppendError::NoSpace }
    }

    fn can_submit(&self) -> bool {
        self.in_flight.len() < FRAMES_IN_FLIGHT_MAX
            && self.first.as_ref().is_some_and(|open| open.header_durable)
    }

    fn submit_if_possible(&mut self) {
        if self.can_submit()
            && let Some(filling) = self.filling.take()
        {
            self.send(filling, Generation::First);
        }
    }

    /// Finishes a frame and orders its write.
    fn send(&mut self, mut filling: Filling, generation: Generation) {
        let open = match generation {
            Generation::First => &mut self.first,
            Generation::Survivors => &mut self.survivors,
        };
        let open = open.as_mut().expect("a frame fills in a segment");
        let padded = filling.bytes.next_multiple_of(BLOCK_BYTES);
        filling.buffer[filling.bytes..padded].fill(0);
        let payload = &filling.buffer[FRAME_HEADER_BYTES..filling.bytes];
        let header = FrameHeader {
            frame_bytes: filling.bytes as u32,
            epoch: open.epoch,
            seq: filling.seq,
            durable_upto: self.durable_seq,
            clock_ms: self.clock_ms,
            record_count: filling.record_count,
            block: open.next_block(),
            payload_checksum: crc32c::crc32c(payload),
        };
        header.write(&self.store, &mut filling.buffer[..FRAME_HEADER_BYTES]);
        self.covered_seq = self.durable_seq;
        self.effects.push(Effect::Write {
            tag: WriteTag::Frame { seq: filling.seq },
            slot: open.slot,
            offset: open.next_offset,
            buffer: filling.buffer,
            bytes: padded,
        });
        self.in_flight.push_back(InFlight {
            seq: filling.seq,
            slot: open.slot,
            block: open.next_block(),
            written: false,
        });
        self.slots.set_last_seq(open.slot, filling.seq);
        open.next_offset += padded as u64;
        self.last_write_ms = self.clock_ms;
        self.counters.frames += 1;
        self.counters.bytes += padded as u64;
        self.checkpoints.behind_bytes += padded as u64;
    }
}

fn take_buffer(pool: &mut Vec<AlignedBuffer>) -> AlignedBuffer {
    let mut buffer = pool.pop().unwrap_or_else(|| AlignedBuffer::new(FRAME_BYTES_FIRST));
    buffer.grow(FRAME_BYTES_FIRST);
    buffer
}

impl Filling {
    fn new(pool: &mut Vec<AlignedBuffer>, seq: u64) -> Self {
        Self {
            buffer: take_buffer(pool),
            bytes: FRAME_HEADER_BYTES,
            record_count: 0,
            seq,
            urgent: false,
        }
    }

    /// Writes `records`, of `bytes` in all, behind those that are there. Returns the place of the
    /// first of them.
    fn append(&mut self, records: &[Record<'_>], bytes: usize, open: &Open) -> Location {
        let first = Location {
            slot: open.slot,
            block: open.next_block() as u16,
            epoch_low: open.epoch as u32,
            in_frame: self.bytes as u32,
            record_bytes: (super::format::RECORD_HEADER_BYTES + records[0].payload_bytes()) as u32,
        };
        self.reserve(bytes);
        for record in records {
            let end = self.bytes + record.padded_bytes();
            record.write(open.epoch, &mut self.buffer[self.bytes..end]);
            self.bytes = end;
        }
        self.record_count += records.len() as u32;
        first
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
/// Log behind a checkpoint after which the next is due, at the least, and in sizes of that one.
const CHECKPOINT_AFTER_BYTES: u64 = 64 * 1024 * 1024;
const CHECKPOINT_AFTER_SIZES: u64 = 5;
/// Idleness after which the last frames are sealed.
const SEAL_AFTER_MS: u64 = 1_000;

const _: () = assert!(FRAME_BYTES_MAX.is_multiple_of(BLOCK_BYTES));

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT_BYTES: u64 = (SEGMENT_HEADER_BYTES + 2 * FRAME_BYTES_MAX) as u64;

    /// A core whose slots had these epochs, 0 for a new one, and hold nothing that counts.
    fn core(epochs: &[u64], slots_max: usize) -> Core {
        let mut ground = Ground::blank(&vec![SEGMENT_BYTES; epochs.len()]);
        for (slot, epoch) in ground.slots.iter_mut().zip(epochs) {
            slot.epoch = *epoch;
        }
        (ground.last_seq, ground.next_seq, ground.next_message_id) = (40, 41, 9);
        ground.next_epoch = epochs.iter().max().expect("slots") + 1;
        let mut core = Core::new(Start { store: StoreId([7; 16]), shard: 0, ground, slots_max });
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
        let record = Record { kind: kind::STATE, flags: 0, id, aux: 0, payload: &payload };
        core.append(&[record], class, 1)
    }

    fn checkpoint(core: &mut Core) {
        core.begin_checkpoint(1).expect("room");
        core.append_items(b"all there is", 1).expect("room");
        core.end_checkpoint(1).expect("room");
        core.submit();
        complete(core);
    }

    #[test]
    fn growth_that_is_refused_leaves_outcomes_their_reserve() {
        let mut core = core(&[1, 2, 3, 4, 5], 12);
        let refused = loop {
            match append(&mut core, Append::Message, FRAME_BYTES_MAX / 2) {
                Ok(appended) => core.pin(appended.first, 1),
                Err(error) => break error,
            }
            core.submit();
            complete(&mut core);
        };
        assert_eq!(refused, AppendError::Later, "slots are being made");
        while core.slots.in_making > 0 {
            core.on_slot_refused();
        }
        let message = append(&mut core, Append::Message, 100);
        assert_eq!(message.expect_err("no room"), AppendError::NoSpace);
        assert!(append(&mut core, Append::Settle, FRAME_BYTES_MAX / 2).is_ok());
    }

    #[test]
    fn the_newest_header_stays_until_a_newer_one_is_durable() {
        let mut single = core(&[5], 1);
        let checkpoint = append(&mut single, Append::Checkpoint, 100);
        assert_eq!(checkpoint.expect_err("one slot only"), AppendError::NoSpace);
        let mut pair = core(&[5, 4], 2);
        assert!(append(&mut pair, Append::Checkpoint, 100).is_ok());
        assert_eq!(complete(&mut pair), [1], "the older slot");
    }

    #[test]
    fn a_dead_segment_comes_free_when_a_header_names_two_checkpoints_behind_it() {
        let mut core = core(&[0; 12], 12);
        append(&mut core, Append::Settle, FRAME_BYTES_MAX / 2 * 3 / 2).expect("room");
        core.submit();
        let free = |core: &Core| core.space().slots_free;
        complete(&mut core);
        assert_eq!(free(&core), 11);
        // The first checkpoint begins in the first segment.
        for (checkpoint_count, free_then) in [(1, 10), (2, 9), (3, 9)] {
            checkpoint(&mut core);
            assert!(!core.checkpoints.named);
            core.name_checkpoints();
            complete(&mut core);
            assert!(core.checkpoints.named, "{checkpoint_count}");
            assert_eq!(free(&core), free_then, "{checkpoint_count}");
        }
        // The second and the third, with the two that are named.
        assert_eq!(core.slots.dead_below(u64::MAX), 2);
    }

    #[test]
    fn a_checkpoint_is_due_by_the_log_behind_the_last_one_not_by_its_own_size() {
        const MIB: u64 = 1 << 20;
        for (checkpoint_bytes, behind_bytes, is_due) in [
            (0, 63 * MIB, false),
            (0, 64 * MIB, true),
            (MIB, 64 * MIB, false),
            (100 * MIB, 599 * MIB, false),
            (100 * MIB, 600 * MIB, true),
        ] {
            let mut ground = Ground::blank(&[SEGMENT_BYTES; 20]);
            (ground.checkpoint_bytes, ground.behind_bytes) = (checkpoint_bytes, behind_bytes);
            let start = Start { store: StoreId([7; 16]), shard: 0, ground, slots_max: 10_000 };
            assert_eq!(Core::new(start).checkpoint_is_due(), is_due, "{behind_bytes}");
        }
    }

    #[test]
    fn mail_that_waits_for_a_slot_is_worth_a_checkpoint() {
        let mut core = core(&[0; 8], 100);
        // Nothing of it lives, and the file system has room for more; a slow disk has not made it.
        while core.space().slots_free > 4 {
            assert!(!core.checkpoint_is_due());
            append(&mut core, Append::Settle, FRAME_BYTES_MAX / 2).expect("room");
            core.submit();
            complete(&mut core);
        }
        assert_eq!(core.space().level, Level::Normal);
        assert!(core.checkpoint_is_due());
        for _ in 0..2 {
            checkpoint(&mut core);
        }
        core.upkeep(1);
        complete(&mut core);
        assert!(core.space().slots_free > 4, "a header names both, for what they free");
    }

    #[test]
    fn survivors_go_to_a_segment_of_their_own_behind_what_came_before() {
        let mut core = core(&[0; 12], 12);
        let payload: [&[u8]; 1] = [b"moved"];
        let moved = Record { kind: kind::ENVELOPE, flags: 1, id: 3, aux: 0, payload: &payload };
        let earlier = append(&mut core, Append::Settle, 100).expect("room");
        complete(&mut core);
        // The earlier frame leaves first, then the header of the segment is written.
        assert_eq!(core.append_moved(&[moved], 1), Err(AppendError::Later));
        complete(&mut core);
        assert_eq!(core.durable_seq(), earlier.ticket.0);
        let appended = core.append_moved(&[moved], 1).expect("room");
        assert_eq!(appended.ticket.0, earlier.ticket.0 + 1);
        assert!(appended.first.slot != earlier.first.slot);
        assert_eq!(core.awaited(appended.first), Some(appended.ticket));
        complete(&mut core);
        assert_eq!(core.awaited(appended.first), None);
        assert_eq!(core.durable_seq(), appended.ticket.0);
    }
}
