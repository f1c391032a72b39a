//! From the bytes on disk back to records, in order. `Pure.`
//!
//! A frame counts when every frame before it counts. Where one is missing or damaged, the rest is
//! a torn tail that nobody was told of, and is dropped; unless a later frame says that it was
//! durable: then it is rot, reported and skipped, and what follows still counts.
//!
//! What stands before the newest complete checkpoint is not read; what follows is read once.

use std::collections::BTreeMap;
use std::io;
use std::ops::RangeInclusive;

use super::checkpoint::{Begin, Tally};
use super::core::Location;
use super::format::{
    BLOCK_BYTES, CheckpointName, FRAME_HEADER_BYTES, FrameHeader, Generation, HeaderRead,
    RECORD_HEADER_BYTES, RecordRef, SEGMENT_HEADER_BYTES, SegmentHeader, StoreId, kind,
};
use super::scan::{Found, Lane, Runs, Segment, Suspect};
use super::space::StartSlot;
use crate::limits::FRAME_BYTES_MAX;

/// Segments as recovery reads them.
pub trait SegmentSource {
    /// Capacity of each slot in bytes.
    fn capacities(&self) -> Vec<u64>;
    /// Reads a whole number of blocks.
    fn read(&mut self, slot: usize, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
    /// Memory that `read` accepts, at any block of it.
    fn buffer(&self, bytes: usize) -> Box<dyn std::ops::DerefMut<Target = [u8]>>;
}

/// What the records of a journal are given to.
pub trait Replay {
    /// Takes in the next record that counts.
    fn visit(&mut self, record: Replayed<'_>);
    /// Forgets everything: the checkpoint that it began with is not whole, and all comes anew.
    fn restart(&mut self);
}

/// One record that counts. BEGIN, END and SEAL are the journal's own and are not shown.
pub struct Replayed<'a> {
    pub kind: u8,
    pub flags: u8,
    pub id: u64,
    pub aux: u32,
    pub payload: &'a [u8],
    pub location: Location,
    /// Records about the same message may be missing: both checkpoints are lost, and what stood
    /// in segments that came free since is not known.
    pub is_doubtful: bool,
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Recovery {
    pub segments: usize,
    pub frames: u64,
    pub records: u64,
    /// Frames at the end that nobody was told of.
    pub dropped_frames: u64,
    /// Acknowledged frames that cannot be read: the operator must know.
    pub rot: Vec<Rot>,
    /// The wall clock of the last frame.
    pub last_clock_ms: u64,
    /// Checkpoints that headers name and that are not whole.
    pub bad_checkpoints: usize,
    /// None of them is: what is settled may have come back as doubtful.
    pub is_degraded: bool,
}

/// Damage to acknowledged data. It stays on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rot {
    pub slot: usize,
    /// Where in the segment the damaged or missing frame is expected.
    pub offset: u64,
    /// The seqs that are missing.
    pub first_seq: u64,
    pub last_seq: u64,
}

/// The ground a journal starts from.
#[derive(Clone, Debug)]
pub struct Ground {
    pub slots: Vec<StartSlot>,
    /// The last frame that counts.
    pub last_seq: u64,
    /// Above every seq, epoch and id ever seen.
    pub next_seq: u64,
    pub next_epoch: u64,
    pub next_message_id: u64,
    /// What the next headers name, the better first, and how many of these are complete.
    pub checkpoints: [Option<CheckpointName>; 2],
    pub checkpoints_complete: usize,
    /// The newest header names the same.
    pub checkpoints_named: bool,
    /// Slots that are kept for ever.
    pub quarantined: Vec<u16>,
    /// Log from BEGIN of the newest complete checkpoint on, in bytes, and what that takes itself.
    pub behind_bytes: u64,
    pub checkpoint_bytes: u64,
}

impl Ground {
    /// That of a store whose slots were never used.
    pub fn blank(capacities: &[u64]) -> Self {
        let slots = capacities.iter().map(|capacity| StartSlot {
            capacity: *capacity,
            epoch: 0,
            counts: false,
            last_seq: 0,
        });
        Self {
            slots: slots.collect(),
            last_seq: 0,
            next_seq: 1,
            next_epoch: 1,
            next_message_id: 1,
            checkpoints: [None; 2],
            checkpoints_complete: 0,
            checkpoints_named: false,
            quarantined: Vec::new(),
            behind_bytes: 0,
            checkpoint_bytes: 0,
        }
    }
}

/// Why there was no recovery. Nothing was changed.
#[derive(Debug)]
pub enum RecoverError {
    Io(io::Error),
    /// The segment in this slot was written in another format: another version must read it.
    OtherVersion {
        slot: usize,
        version: u16,
    },
}

impl From<io::Error> for RecoverError {
    fn from(error: io::Error) -> Self {
        RecoverError::Io(error)
    }
}

/// Reads what counts and gives each record to `replay`, in seq order: from the newest complete
/// checkpoint on, else from the one before, else everything there is.
pub fn recover(
    store: &StoreId,
    source: &mut dyn SegmentSource,
    replay: &mut dyn Replay,
) -> Result<(Ground, Recovery), RecoverError> {
    let mut ground = Ground::blank(&source.capacities());
    let segments = read_headers(store, source, &mut ground)?;
    let runs = Runs::of(&segments);
    let of = |generation| {
        let segments = segments.iter().filter(|it| it.header.generation == generation);
        segments.cloned().collect::<Vec<Segment>>()
    };
    let lanes = [of(Generation::First), of(Generation::Survivors)];
    let names = segments.last().map_or([None; 2], |newest| newest.header.checkpoints);
    let mut recovery = Recovery { segments: segments.len(), ..Recovery::default() };
    for (index, name) in names.iter().enumerate() {
        let Some(name) = name else { continue };
        if let Some((begin, slot)) = read_begin(store, source, &lanes[0], name)? {
            let start = Start::checkpoint(&lanes, name, &begin, slot);
            let mut pass = Pass::new(store, source, replay, &runs, &lanes, recovery.clone());
            pass.run(&start)?;
            if pass.is_complete(name.begin_seq) {
                let others: Vec<CheckpointName> =
                    names[index + 1..].iter().copied().flatten().collect();
                let recovery = pass.end(&mut ground, &others);
                ground.checkpoints_named = ground.checkpoints == names;
                return Ok((ground, recovery));
            }
            replay.restart();
        }
        recovery.bad_checkpoints += 1;
    }
    // Nothing came free before there were two checkpoints.
    let floor_seq = match names {
        [Some(one), Some(other)] => one.begin_seq.min(other.begin_seq),
        _ => 0,
    };
    recovery.is_degraded = floor_seq > 0;
    let start = Start::everything(&lanes, floor_seq);
    let mut pass = Pass::new(store, source, replay, &runs, &lanes, recovery);
    pass.run(&start)?;
    let recovery = pass.end(&mut ground, &[]);
    if recovery.is_degraded {
        // Until there is a better one, each start is to know that something came free.
        (ground.checkpoints, ground.checkpoints_complete) = (names, 0);
    }
    Ok((ground, recovery))
}

/// The live segments in the order of their epochs.
fn read_headers(
    store: &StoreId,
    source: &mut dyn SegmentSource,
    ground: &mut Ground,
) -> Result<Vec<Segment>, RecoverError> {
    let mut segments = Vec::new();
    let mut region = source.buffer(SEGMENT_HEADER_BYTES);
    for slot in 0..ground.slots.len() {
        source.read(slot, 0, &mut region)?;
        let capacity = ground.slots[slot].capacity;
        match SegmentHeader::read(store, &region) {
            HeaderRead::Free => {}
            HeaderRead::Header(header) => {
                segments.push(Segment { slot, capacity, header, last_seq: u64::MAX, end: None });
            }
            HeaderRead::OtherVersion(version) => {
                return Err(RecoverError::OtherVersion { slot, version });
            }
        }
    }
    segments.sort_unstable_by_key(|segment| segment.header.epoch);
    for segment in &segments {
        ground.slots[segment.slot].epoch = segment.header.epoch;
        ground.next_epoch = ground.next_epoch.max(segment.header.epoch.saturating_add(1));
        ground.next_message_id = ground.next_message_id.max(segment.header.next_message_id);
        let seen_seq = segment.header.run.cut_seq.max(segment.header.first_seq.saturating_sub(1));
        ground.next_seq = ground.next_seq.max(seen_seq.saturating_add(1));
    }
    let oldest_live = segments.last().map_or(0, |newest| newest.header.oldest_live_epoch);
    segments.retain(|segment| segment.header.epoch >= oldest_live);
    for index in 0..segments.len() {
        let (before, later) = segments.split_at_mut(index + 1);
        let segment = &mut before[index];
        let generation = segment.header.generation;
        let next = later.iter().find(|later| later.header.generation == generation);
        if let Some(next) = next {
            segment.last_seq = next.header.first_seq.saturating_sub(1);
            segment.end = next.header.end_of(segment.header.epoch);
        }
        ground.slots[segment.slot].counts = true;
    }
    Ok(segments)
}

/// The BEGIN that a header names, and its slot; `None` when it is not there as it should be.
fn read_begin(
    store: &StoreId,
    source: &mut dyn SegmentSource,
    segments: &[Segment],
    name: &CheckpointName,
) -> io::Result<Option<(Begin, usize)>> {
    let segment = segments.iter().find(|it| it.header.epoch == name.begin_epoch);
    let offset = u64::from(name.begin_block) * BLOCK_BYTES as u64;
    let Some(segment) = segment.filter(|it| offset + BLOCK_BYTES as u64 <= it.capacity) else {
        return Ok(None);
    };
    let bytes = (segment.capacity - offset).min(FRAME_BYTES_MAX as u64) as usize;
    let bytes = bytes - bytes % BLOCK_BYTES;
    let mut buffer = source.buffer(bytes);
    source.read(segment.slot, offset, &mut buffer[..bytes])?;
    let header = FrameHeader::read(store, name.begin_epoch, &buffer[..bytes]);
    let header = header.filter(|it| it.seq == name.begin_seq && it.block == name.begin_block);
    let frame = header.and_then(|header| {
        let frame = buffer.get(..header.frame_bytes as usize)?;
        header.holds(&frame[FRAME_HEADER_BYTES..]).then_some((header, frame))
    });
    let Some((header, frame)) = frame else { return Ok(None) };
    let mut begin = None;
    visit_records(&header, frame, &mut |record, _| {
        if record.kind == kind::BEGIN {
            begin = Begin::from_bytes(record.payload);
        }
    })?;
    Ok(begin.map(|begin| (begin, segment.slot)))
}

/// Gives each record of a whole frame to `visit`, with its offset in the frame.
fn visit_records(
    header: &FrameHeader,
    frame: &[u8],
    visit: &mut dyn FnMut(RecordRef<'_>, usize),
) -> io::Result<()> {
    let mut at = FRAME_HEADER_BYTES;
    for _ in 0..header.record_count {
        let Some((record, taken)) =
            frame.get(at..).and_then(|it| RecordRef::read(header.epoch, it))
        else {
            return Err(io::Error::other("a record contradicts the frame around it"));
        };
        visit(record, at);
        at += taken;
    }
    Ok(())
}

/// Where a pass begins, in each lane: the first segment, and the offset in it.
struct Start {
    indexes: [usize; 2],
    offsets: [u64; 2],
    /// Frames before it are not needed.
    first_seq: u64,
    /// From here on no frame may be missing.
    floor_seq: u64,
}

impl Start {
    fn checkpoint(
        lanes: &[Vec<Segment>; 2],
        name: &CheckpointName,
        begin: &Begin,
        slot: usize,
    ) -> Self {
        let first = lanes[0].iter().position(|segment| segment.slot == slot);
        let survivors = lanes[1].iter().position(|segment| {
            let epoch = segment.header.epoch;
            epoch >= begin.survivors_epoch && segment.last_seq >= name.begin_seq
        });
        let survivors = survivors.unwrap_or(lanes[1].len());
        let is_noted = lanes[1]
            .get(survivors)
            .is_some_and(|segment| segment.header.epoch == begin.survivors_epoch);
        let block = if is_noted { begin.survivors_block } else { 0 };
        Self {
            indexes: [first.unwrap_or(0), survivors],
            offsets: [name.begin_block, block].map(|it| u64::from(it) * BLOCK_BYTES as u64),
            first_seq: name.begin_seq,
            floor_seq: name.begin_seq,
        }
    }

    fn everything(lanes: &[Vec<Segment>; 2], floor_seq: u64) -> Self {
        let segments = lanes.iter().flatten();
        let first_seq = segments.map(|segment| segment.header.first_seq).min().unwrap_or(1);
        let floor_seq = floor_seq.max(first_seq);
        Self { indexes: [0; 2], offsets: [0; 2], first_seq: 0, floor_seq }
    }
}

/// A checkpoint on the way through the frames.
#[derive(Clone, Copy)]
struct Complete {
    name: CheckpointName,
    /// Log that was read before its BEGIN.
    before_bytes: u64,
    /// Of its ITEMS.
    bytes: u64,
}

/// One way through the frames.
struct Pass<'a> {
    source: &'a mut dyn SegmentSource,
    replay: &'a mut dyn Replay,
    store: &'a StoreId,
    runs: &'a Runs,
    segments: &'a [Vec<Segment>; 2],
    recovery: Recovery,
    last_seq: u64,
    seen_seq: u64,
    next_message_id: u64,
    floor_seq: u64,
    replayed_bytes: u64,
    /// The checkpoint that BEGIN has begun last.
    tally: Option<(Tally, Complete)>,
    /// Those whose END agrees, in order.
    complete: Vec<Complete>,
    /// By slot, for segments that were read: their last seq that counts, 0 for none.
    last_seqs: BTreeMap<usize, u64>,
    quarantined: Vec<u16>,
}

impl<'a> Pass<'a> {
    fn new(
        store: &'a StoreId,
        source: &'a mut dyn SegmentSource,
        replay: &'a mut dyn Replay,
        runs: &'a Runs,
        segments: &'a [Vec<Segment>; 2],
        recovery: Recovery,
    ) -> Self {
        Self {
            source,
            replay,
            store,
            runs,
            segments,
            recovery,
            last_seq: 0,
            seen_seq: 0,
            next_message_id: 0,
            floor_seq: 0,
            replayed_bytes: 0,
            tally: None,
            complete: Vec::new(),
            last_seqs: BTreeMap::new(),
            quarantined: Vec::new(),
        }
    }

    /// Walks the frames of both lanes in seq order up to the torn tail.
    fn run(&mut self, start: &Start) -> io::Result<()> {
        self.floor_seq = start.floor_seq;
        self.last_seq = start.floor_seq.saturating_sub(1);
        let (store, runs, segments) = (self.store, self.runs, self.segments);
        let mut lanes = [0, 1].map(|lane| {
            let of_lane = segments[lane].get(start.indexes[lane]..).unwrap_or_default();
            let offset = start.offsets[lane];
            for (index, segment) in of_lane.iter().enumerate() {
                let is_whole = index > 0 || offset == 0;
                let passed_over = if is_whole { 0 } else { start.first_seq };
                self.last_seqs.insert(segment.slot, passed_over);
            }
            Lane::new(store, runs, of_lane, offset, start.first_seq, &*self.source)
        });
        for lane in &mut lanes {
            lane.advance(self.source)?;
        }
        let mut durable_max = None;
        let mut is_tail = false;
        while let Some(index) = next_lane(&lanes) {
            let found = *lanes[index].current().expect("it has the next frame");
            let seq = found.header.seq;
            let missing = if is_tail { Vec::new() } else { runs.between(self.last_seq, seq) };
            if let Some(first_missing) = missing.first() {
                let durable_max = match durable_max {
                    Some(durable_max) => durable_max,
                    None => *durable_max.insert(highest_durable(&lanes, self.source)?),
                };
                if durable_max >= *first_missing.start() {
                    missing.into_iter().for_each(|seqs| self.report_rot(&lanes, seqs));
                } else {
                    is_tail = true;
                }
            }
            self.take_in(&found, lanes[index].bytes(), !is_tail)?;
            lanes[index].advance(self.source)?;
        }
        for lane in &lanes {
            self.recovery.dropped_frames += lane.cut_count;
            self.seen_seq = self.seen_seq.max(lane.seen_seq);
        }
        Ok(())
    }

    fn report_rot(&mut self, lanes: &[Lane<'_>; 2], missing: RangeInclusive<u64>) {
        // By the segments of the first generation: what is missing in two of them is two rots.
        let mut from = *missing.start();
        let last = *missing.end();
        while from <= last {
            let home = self.segments[0].iter().rfind(|it| it.header.first_seq <= from);
            let upto = home.map_or(last, |home| home.last_seq.max(from).min(last));
            let seqs = from..=upto;
            let suspects = lanes.iter().flat_map(|lane| lane.suspects(&seqs));
            let mut suspects: Vec<Suspect> = suspects.collect();
            if suspects.iter().any(|suspect| suspect.is_certain) {
                suspects.retain(|suspect| suspect.is_certain);
            }
            if suspects.is_empty()
                && let Some(home) = home.or(self.segments.iter().flatten().next())
            {
                let offset = SEGMENT_HEADER_BYTES as u64;
                suspects.push(Suspect { slot: home.slot, offset, is_certain: false });
            }
            let rot = suspects.into_iter().map(|suspect| Rot {
                slot: suspect.slot,
                offset: suspect.offset,
                first_seq: from,
                last_seq: upto,
            });
            self.recovery.rot.extend(rot);
            from = upto.saturating_add(1);
        }
    }

    /// Hands out the records of a frame that counts. The ids of the others are only noted, so that
    /// they are never used again.
    fn take_in(&mut self, found: &Found, frame: &[u8], counts: bool) -> io::Result<()> {
        self.seen_seq = self.seen_seq.max(found.header.seq);
        if counts {
            self.last_seq = found.header.seq;
            self.last_seqs.insert(found.slot, found.header.seq);
            self.recovery.frames += 1;
            self.recovery.records += u64::from(found.header.record_count);
            self.recovery.last_clock_ms = found.header.clock_ms;
        } else {
            self.recovery.dropped_frames += 1;
        }
        visit_records(&found.header, frame, &mut |record, at| {
            self.next_message_id = self.next_message_id.max(record.id.saturating_add(1));
            if counts {
                self.take_in_record(found, record, at);
            }
        })?;
        self.replayed_bytes += found.header.padded_bytes() as u64;
        Ok(())
    }

    fn take_in_record(&mut self, found: &Found, record: RecordRef<'_>, at: usize) {
        let seq = found.header.seq;
        match record.kind {
            kind::SEAL => return,
            kind::BEGIN => {
                let name = CheckpointName {
                    begin_seq: seq,
                    begin_epoch: found.epoch,
                    begin_block: found.header.block,
                };
                let before_bytes = self.replayed_bytes;
                self.tally = Some((Tally::new(seq), Complete { name, before_bytes, bytes: 0 }));
                let begin = Begin::from_bytes(record.payload).unwrap_or_default();
                self.quarantined.extend(begin.quarantined);
                return;
            }
            kind::END => {
                if let Some((tally, complete)) = self.tally.take()
                    && tally.end() == record.payload
                {
                    self.complete.push(complete);
                }
                return;
            }
            kind::ITEMS => {
                if let Some((tally, complete)) = &mut self.tally {
                    tally.add(record.payload);
                    complete.bytes += record.payload.len() as u64;
                }
            }
            _ => {}
        }
        self.replay.visit(Replayed {
            kind: record.kind,
            flags: record.flags,
            id: record.id,
            aux: record.aux,
            payload: record.payload,
            location: Location {
                slot: found.slot as u16,
                block: found.header.block as u16,
                epoch_low: found.epoch as u32,
                in_frame: at as u32,
                record_bytes: (RECORD_HEADER_BYTES + record.payload.len()) as u32,
            },
            is_doubtful: self.recovery.is_degraded && seq < self.floor_seq,
        });
    }

    fn is_complete(&self, begin_seq: u64) -> bool {
        self.complete.iter().any(|complete| complete.name.begin_seq == begin_seq)
    }

    /// What a journal starts from after this pass. `older` are checkpoints before the one it began
    /// with.
    fn end(self, ground: &mut Ground, older: &[CheckpointName]) -> Recovery {
        ground.last_seq = self.last_seq;
        ground.next_seq = ground.next_seq.max(self.seen_seq.max(self.last_seq).saturating_add(1));
        let unread = unread_ids(&self.recovery.rot);
        let next_message_id = ground.next_message_id.max(self.next_message_id);
        ground.next_message_id = next_message_id.saturating_add(unread);
        // A later start must come upon the damage again, or find it listed.
        let rot_seq = self.recovery.rot.iter().map(|rot| rot.first_seq).min().unwrap_or(u64::MAX);
        let complete = self.complete.iter().rev().filter(|it| it.name.begin_seq <= rot_seq);
        let newest = complete.clone().next();
        ground.checkpoint_bytes = newest.map_or(0, |newest| newest.bytes);
        let before_bytes = newest.map_or(0, |newest| newest.before_bytes);
        ground.behind_bytes = self.replayed_bytes - before_bytes;
        let mut newest_first = complete.map(|complete| &complete.name).chain(older).copied();
        ground.checkpoints = [newest_first.next(), newest_first.next()];
        ground.checkpoints_complete = ground.checkpoints.iter().flatten().count();
        ground.quarantined = self.quarantined;
        ground.quarantined.extend(self.recovery.rot.iter().map(|rot| rot.slot as u16));
        for segment in self.segments.iter().flatten() {
            let last_seq = self.last_seqs.get(&segment.slot).copied();
            let last_seq = last_seq.unwrap_or(segment.last_seq.min(self.last_seq));
            ground.slots[segment.slot].last_seq = last_seq;
        }
        self.recovery
    }
}

/// The lane with the lowest seq, while there are frames.
fn next_lane(lanes: &[Lane<'_>; 2]) -> Option<usize> {
    let seqs = lanes.iter().enumerate().filter_map(|(index, lane)| {
        let found = lane.current()?;
        Some((found.header.seq, index))
    });
    seqs.min().map(|(_, index)| index)
}

/// The highest seq that a frame from here on names as durable.
fn highest_durable(lanes: &[Lane<'_>; 2], source: &mut dyn SegmentSource) -> io::Result<u64> {
    let mut durable = 0;
    for lane in lanes {
        let mut lane = lane.fork(source);
        lane.advance(source)?;
        while let Some(found) = lane.current() {
            durable = durable.max(found.header.durable_upto);
            lane.advance(source)?;
        }
    }
    Ok(durable)
}

/// How many ids may stand in acknowledged frames that cannot be read: they are passed over.
fn unread_ids(rot: &[Rot]) -> u64 {
    let ids_per_frame = (FRAME_BYTES_MAX / RECORD_HEADER_BYTES) as u64;
    rot.iter().map(|rot| (rot.last_seq - rot.first_seq + 1).saturating_mul(ids_per_frame)).sum()
}

#[cfg(test)]
mod tests {
    use std::ops::DerefMut;

    use super::super::core::{self, Append, Core, Effect, WriteTag};
    use super::super::format::{Generation, Record, Run, kind};
    use super::*;

    const STORE: StoreId = StoreId([7; 16]);
    const SLOT_BYTES: usize = 64 * 1024;

    /// Slots in memory, and the run that the last segment is of.
    struct Slots {
        slots: Vec<Vec<u8>>,
        run: Run,
    }

    struct Buffer(Vec<u8>);

    /// The ids of the records that count.
    #[derive(Default)]
    struct Seqs(Vec<u64>);

    impl Replay for Seqs {
        fn visit(&mut self, record: Replayed<'_>) {
            self.0.push(record.id);
        }

        fn restart(&mut self) {
            self.0.clear();
        }
    }

    impl std::ops::Deref for Buffer {
        type Target = [u8];

        fn deref(&self) -> &[u8] {
            &self.0
        }
    }

    impl DerefMut for Buffer {
        fn deref_mut(&mut self) -> &mut [u8] {
            &mut self.0
        }
    }

    impl SegmentSource for Slots {
        fn capacities(&self) -> Vec<u64> {
            self.slots.iter().map(|slot| slot.len() as u64).collect()
        }

        fn read(&mut self, slot: usize, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
            let start = offset as usize;
            buffer.copy_from_slice(&self.slots[slot][start..start + buffer.len()]);
            Ok(())
        }

        fn buffer(&self, bytes: usize) -> Box<dyn DerefMut<Target = [u8]>> {
            Box::new(Buffer(vec![0; bytes]))
        }
    }

    impl Slots {
        fn empty() -> Self {
            Self { slots: Vec::new(), run: Run { first_epoch: 0, first_seq: 0, cut_seq: 0 } }
        }

        /// A segment of the next epoch, in a run of its own that began with `cut_seq`, or in the
        /// run before; and (seq, durable_upto) of each frame, a block long. A frame that is not
        /// `whole` leaves its block torn.
        fn segment(&mut self, cut_seq: Option<u64>, first_seq: u64, frames: &[(u64, u64, bool)]) {
            let epoch = self.slots.len() as u64 + 1;
            let mut slot = vec![0; SLOT_BYTES];
            if let Some(cut_seq) = cut_seq {
                self.run = Run { first_epoch: epoch, first_seq, cut_seq };
            }
            let header = SegmentHeader {
                generation: Generation::First,
                shard: 0,
                epoch,
                first_seq,
                activated_ms: 1,
                run: self.run,
                oldest_live_epoch: 1,
                next_message_id: 1,
                checkpoints: [None; 2],
                before: None,
            };
            header.write(&STORE, &mut slot[..SEGMENT_HEADER_BYTES]);
            for (index, (seq, durable_upto, whole)) in frames.iter().enumerate() {
                let start = SEGMENT_HEADER_BYTES + index * BLOCK_BYTES;
                let record = Record { kind: kind::STATE, flags: 0, id: *seq, aux: 0, payload: &[] };
                let end = FRAME_HEADER_BYTES + record.padded_bytes();
                let frame = &mut slot[start..start + end];
                record.write(epoch, &mut frame[FRAME_HEADER_BYTES..]);
                let header = FrameHeader {
                    frame_bytes: end as u32,
                    epoch,
                    seq: *seq,
                    durable_upto: *durable_upto,
                    clock_ms: 1,
                    record_count: 1,
                    block: (start / BLOCK_BYTES) as u32,
                    payload_checksum: crc32c::crc32c(&frame[FRAME_HEADER_BYTES..]),
                };
                header.write(&STORE, &mut frame[..FRAME_HEADER_BYTES]);
                frame[FRAME_HEADER_BYTES] ^= u8::from(!whole);
            }
            self.slots.push(slot);
        }

        /// The seqs that count, and what else was found.
        fn recover(&mut self) -> (Vec<u64>, Ground, Recovery) {
            let mut seqs = Seqs::default();
            let recovered = recover(&STORE, self, &mut seqs);
            let (ground, recovery) = recovered.expect("memory can be read");
            (seqs.0, ground, recovery)
        }
    }

    #[test]
    fn a_torn_tail_is_dropped_and_its_numbers_are_not_used_again() {
        let mut slots = Slots::empty();
        slots.segment(Some(0), 1, &[(1, 0, true), (2, 1, true), (3, 1, false), (4, 2, true)]);
        let (seqs, ground, recovery) = slots.recover();
        assert_eq!(seqs, [1, 2]);
        assert_eq!((ground.last_seq, ground.next_seq, ground.next_message_id), (2, 5, 5));
        assert_eq!((recovery.dropped_frames, recovery.rot.len()), (1, 0));
    }

    #[test]
    fn two_torn_tails_in_a_row_cut_off_nothing_that_came_later() {
        let mut slots = Slots::empty();
        slots.segment(Some(0), 1, &[(1, 0, true), (2, 1, true), (3, 1, false), (4, 2, true)]);
        slots.segment(Some(2), 5, &[(5, 2, false), (6, 2, true)]);
        slots.segment(Some(2), 7, &[(7, 2, true)]);
        let (seqs, ground, recovery) = slots.recover();
        assert_eq!(seqs, [1, 2, 7], "frame 7 was acknowledged, whatever follows it");
        assert_eq!((ground.last_seq, ground.next_seq), (7, 8));
        assert_eq!(recovery.rot, []);
    }

    #[test]
    fn rot_is_reported_where_it_stands() {
        let mut slots = Slots::empty();
        slots.segment(Some(0), 1, &[(1, 0, true), (2, 1, false)]);
        slots.segment(None, 3, &[(3, 2, false), (4, 2, true), (5, 4, true)]);
        let (seqs, ground, recovery) = slots.recover();
        assert_eq!(seqs, [1, 4, 5]);
        assert!(ground.next_message_id > 6, "the damaged frames may have held higher ids");
        let rot = |slot, block: u64, seq| Rot {
            slot,
            offset: block * BLOCK_BYTES as u64,
            first_seq: seq,
            last_seq: seq,
        };
        assert_eq!(recovery.rot, [rot(0, 3, 2), rot(1, 2, 3)]);
        assert_eq!(recovery.dropped_frames, 0);
    }

    /// A core over slots in memory, which takes its records for durable when they are there.
    struct Writer {
        core: Core,
        slots: Slots,
    }

    impl Writer {
        /// Goes on from what a recovery finds.
        fn start(mut slots: Slots) -> (Ground, Self) {
            let (_, ground, recovery) = slots.recover();
            assert_eq!((recovery.bad_checkpoints, recovery.rot.len()), (0, 0));
            let start =
                core::Start { store: STORE, shard: 0, ground: ground.clone(), slots_max: 0 };
            let mut writer = Self { core: Core::new(start), slots };
            writer.core.begin();
            (ground, writer)
        }

        fn append(&mut self, bytes: usize) {
            let record =
                Record { kind: kind::STATE, flags: 0, id: 1, aux: 0, payload: &[&vec![7; bytes]] };
            self.core.append(&[record], Append::Settle, 1).expect("room");
            self.written();
        }

        fn checkpoint(&mut self, bytes: usize) {
            self.core.begin_checkpoint(1).expect("room");
            self.core.append_items(&vec![7; bytes], 1).expect("room");
            self.core.end_checkpoint(1).expect("room");
            self.written();
        }

        /// How many segments were begun for it.
        fn written(&mut self) -> usize {
            let mut headers = 0;
            self.core.submit();
            loop {
                let effects = self.core.take_effects();
                if effects.is_empty() {
                    return headers;
                }
                for effect in effects {
                    if let Effect::Write { tag, slot, offset, buffer, bytes } = effect {
                        let slot = &mut self.slots.slots[usize::from(slot)];
                        slot[offset as usize..][..bytes].copy_from_slice(&buffer[..bytes]);
                        headers += usize::from(matches!(tag, WriteTag::SegmentHeader { .. }));
                        self.core.on_durable(tag, buffer);
                    }
                }
            }
        }
    }

    #[test]
    fn a_start_knows_what_its_checkpoint_takes_and_whether_a_header_names_it() {
        let mut slots = Slots::empty();
        slots.slots = vec![vec![0; 4 * FRAME_BYTES_MAX]; 12];
        let (_, mut writer) = Writer::start(slots);
        writer.append(100_000);
        writer.checkpoint(200_000);
        let (ground, mut writer) = Writer::start(writer.slots);
        assert_eq!((ground.checkpoint_bytes, ground.checkpoints_named), (200_000, false));
        // Frames have a header and are padded to blocks.
        let near = |bytes: u64| bytes..bytes + 3 * BLOCK_BYTES as u64;
        assert!(near(200_000).contains(&ground.behind_bytes), "{}", ground.behind_bytes);
        assert!(near(0).contains(&writer.core.log_bytes_behind_checkpoint()));
        writer.core.name_checkpoints();
        assert_eq!(writer.written(), 1);

        let (ground, mut writer) = Writer::start(writer.slots);
        assert_eq!((ground.checkpoint_bytes, ground.checkpoints_named), (200_000, true));
        writer.core.name_checkpoints();
        assert_eq!(writer.written(), 0, "a stop writes nothing where nothing is new");
        writer.append(100_000);
        let (_, mut writer) = Writer::start(writer.slots);
        assert!(near(100_000).contains(&writer.core.log_bytes_behind_checkpoint()));

        // The start begins with the first one, and finds the second on the way.
        writer.checkpoint(300_000);
        let (ground, writer) = Writer::start(writer.slots);
        assert_eq!((ground.checkpoint_bytes, ground.checkpoints_named), (300_000, false));
        assert!(near(0).contains(&writer.core.log_bytes_behind_checkpoint()));
    }
}
