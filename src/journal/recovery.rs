//! From the bytes on disk back to records, in order. `Pure.`
//!
//! A frame counts when every frame before it counts. Where one is missing or damaged, the rest is
//! a torn tail that nobody was told of, and is dropped; unless a later frame says that it was
//! durable: then it is rot, reported and skipped, and what follows still counts.

use std::io;

use super::core::{Location, StartSlot};
use super::format::{
    BLOCK_BYTES, FRAME_HEADER_BYTES, FrameHeader, RecordRef, SEGMENT_HEADER_BYTES, SegmentHeader,
    StoreId,
};

/// Segments as recovery reads them.
pub trait SegmentSource {
    /// Capacity of each slot in bytes.
    fn capacities(&self) -> Vec<u64>;
    /// Reads a whole number of blocks.
    fn read(&mut self, slot: usize, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
    /// Memory that `read` accepts.
    fn buffer(&self, bytes: usize) -> Box<dyn std::ops::DerefMut<Target = [u8]>>;
}

/// One record that counts.
pub struct Replayed<'a> {
    pub kind: u8,
    pub flags: u8,
    pub id: u64,
    pub aux: u32,
    pub payload: &'a [u8],
    pub location: Location,
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
}

/// Damage to acknowledged data: frames that are missing between two whole ones. It stays on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rot {
    /// Where the frame before it ends.
    pub slot: usize,
    pub offset: u64,
    /// Where the frame behind it stands.
    pub next_slot: usize,
    pub next_offset: u64,
    /// The seqs that are missing.
    pub first_seq: u64,
    pub last_seq: u64,
}

/// The ground a journal starts from.
pub struct Ground {
    pub slots: Vec<StartSlot>,
    pub last_seq: u64,
    pub next_seq: u64,
    pub next_epoch: u64,
    pub next_message_id: u64,
}

/// A frame whose header and payload hold, by its place.
struct Found {
    slot: usize,
    epoch: u64,
    offset: u64,
    header: FrameHeader,
}

/// Reads every segment and gives each record that counts to `visit`, in seq order.
pub fn recover(
    store: &StoreId,
    source: &mut dyn SegmentSource,
    visit: &mut dyn FnMut(Replayed<'_>),
) -> io::Result<(Ground, Recovery)> {
    let capacities = source.capacities();
    let mut headers = Vec::new();
    let mut block = source.buffer(SEGMENT_HEADER_BYTES);
    for slot in 0..capacities.len() {
        source.read(slot, 0, &mut block)?;
        if let Some(header) = SegmentHeader::read(store, &block) {
            headers.push((header, slot));
        }
    }
    headers.sort_unstable_by_key(|(header, _)| header.epoch);
    let oldest_live = headers.last().map_or(0, |(header, _)| header.oldest_live_epoch);
    let next_epoch = headers.last().map_or(0, |(header, _)| header.epoch) + 1;
    let mut slots: Vec<StartSlot> =
        capacities.iter().map(|it| StartSlot { capacity: *it, epoch: 0, counts: false }).collect();
    for (header, slot) in &headers {
        slots[*slot].epoch = header.epoch;
        slots[*slot].counts = header.epoch >= oldest_live;
    }
    let live = headers.iter().filter(|(header, _)| header.epoch >= oldest_live);
    let live: Vec<(SegmentHeader, usize)> = live.cloned().collect();

    let mut found = Vec::new();
    let mut next_message_id = 1;
    let mut seen_seq = 0;
    for (header, slot) in &live {
        next_message_id = next_message_id.max(header.next_message_id);
        seen_seq = seen_seq.max(header.predecessor_last_seq).max(header.first_seq - 1);
        find_frames(store, source, *slot, capacities[*slot], header, &mut found)?;
    }
    // What a later header cuts off was dropped by an earlier recovery.
    let cut_of = |epoch: u64| {
        let later = live.iter().filter(|(header, _)| header.epoch > epoch);
        later.map(|(header, _)| header.predecessor_last_seq).min().unwrap_or(u64::MAX)
    };
    for frame in &found {
        seen_seq = seen_seq.max(frame.header.seq);
    }
    let cuts: std::collections::HashMap<u64, u64> =
        live.iter().map(|(header, _)| (header.epoch, cut_of(header.epoch))).collect();
    let dropped_before = found.len();
    found.retain(|frame| frame.header.seq <= cuts[&frame.epoch]);
    let cut_count = (dropped_before - found.len()) as u64;
    found.sort_by_key(|frame| frame.header.seq);

    let mut recovery = Recovery { segments: live.len(), ..Recovery::default() };
    let mut counted = count_frames(&live, &found, &mut recovery);
    recovery.dropped_frames += cut_count;
    let mut replay = Replay { store, source, visit, next_message_id, recovery: &mut recovery };
    replay.run(&found, &mut counted)?;
    let next_message_id = replay.next_message_id;
    let last_seq = counted.last_seq;
    let ground = Ground {
        slots,
        last_seq,
        next_seq: seen_seq.max(last_seq) + 1,
        next_epoch,
        next_message_id,
    };
    Ok((ground, recovery))
}

/// Every whole frame of one segment, wherever it stands: a damaged one hides no later one.
fn find_frames(
    store: &StoreId,
    source: &mut dyn SegmentSource,
    slot: usize,
    capacity: u64,
    segment: &SegmentHeader,
    found: &mut Vec<Found>,
) -> io::Result<()> {
    let mut window = source.buffer(WINDOW_BYTES);
    let mut window_at = 0;
    let mut window_end = 0;
    let mut offset = SEGMENT_HEADER_BYTES as u64;
    let mut blank_blocks = 0;
    while offset + BLOCK_BYTES as u64 <= capacity && blank_blocks < BLANK_BLOCKS_MAX {
        let read_from = |at: u64, window: &mut [u8], source: &mut dyn SegmentSource| {
            let bytes = (capacity - at).min(WINDOW_BYTES as u64) as usize;
            let bytes = bytes - bytes % BLOCK_BYTES;
            source.read(slot, at, &mut window[..bytes]).map(|()| at + bytes as u64)
        };
        if offset + BLOCK_BYTES as u64 > window_end || offset < window_at {
            window_at = offset;
            window_end = read_from(offset, &mut window, source)?;
        }
        let at = (offset - window_at) as usize;
        let header = FrameHeader::read(store, segment.epoch, &window[at..at + FRAME_HEADER_BYTES]);
        let Some(header) = header else {
            offset += BLOCK_BYTES as u64;
            blank_blocks += 1;
            continue;
        };
        if offset + header.padded_bytes() as u64 > window_end {
            window_at = offset;
            window_end = read_from(offset, &mut window, source)?;
        }
        let at = (offset - window_at) as usize;
        let payload = window
            .get(at + FRAME_HEADER_BYTES..at + header.frame_bytes as usize)
            .filter(|_| offset + u64::from(header.frame_bytes) <= window_end);
        let in_place = u64::from(header.block) * BLOCK_BYTES as u64 == offset;
        if in_place && payload.is_some_and(|payload| header.holds(payload)) {
            blank_blocks = 0;
            found.push(Found { slot, epoch: segment.epoch, offset, header });
            offset += header.padded_bytes() as u64;
        } else {
            offset += BLOCK_BYTES as u64;
            blank_blocks += 1;
        }
    }
    Ok(())
}

/// Which of the found frames count.
struct Counted {
    /// Index one past the last frame that counts.
    end: usize,
    last_seq: u64,
}

/// Walks the frames in seq order up to the torn tail, and reports the rot before it.
fn count_frames(
    live: &[(SegmentHeader, usize)],
    found: &[Found],
    recovery: &mut Recovery,
) -> Counted {
    let Some((first, _)) = live.first() else {
        return Counted { end: 0, last_seq: 0 };
    };
    let mut expected = first.first_seq;
    let mut end = 0;
    while end < found.len() {
        let frame = &found[end];
        if frame.header.seq > expected && !is_gap_by_design(live, expected, frame) {
            let durable = found[end..].iter().any(|it| it.header.durable_upto >= expected);
            if !durable {
                break;
            }
            let last_seq = frame.header.seq - 1;
            let (slot, offset) = match end.checked_sub(1).map(|before| &found[before]) {
                Some(it) => (it.slot, it.offset + it.header.padded_bytes() as u64),
                None => (frame.slot, SEGMENT_HEADER_BYTES as u64),
            };
            let (next_slot, next_offset) = (frame.slot, frame.offset);
            let first_seq = expected;
            recovery.rot.push(Rot { slot, offset, next_slot, next_offset, first_seq, last_seq });
        }
        expected = frame.header.seq + 1;
        end += 1;
    }
    recovery.dropped_frames += (found.len() - end) as u64;
    let last_seq = if end > 0 { found[end - 1].header.seq } else { expected - 1 };
    Counted { end, last_seq }
}

/// An earlier recovery went on with a higher seq: its header names the last one that counted.
fn is_gap_by_design(live: &[(SegmentHeader, usize)], expected: u64, frame: &Found) -> bool {
    let mut seq = expected;
    for (header, _) in live.iter().filter(|(header, _)| header.epoch <= frame.epoch) {
        if header.predecessor_last_seq + 1 == seq && header.first_seq > seq {
            seq = header.first_seq;
        }
    }
    seq == frame.header.seq
}

struct Replay<'a> {
    store: &'a StoreId,
    source: &'a mut dyn SegmentSource,
    visit: &'a mut dyn FnMut(Replayed<'_>),
    next_message_id: u64,
    recovery: &'a mut Recovery,
}

impl Replay<'_> {
    /// Reads the frames again, in order, and hands out the records of those that count. The ids of
    /// the others are only noted, so that they are never used again.
    fn run(&mut self, found: &[Found], counted: &mut Counted) -> io::Result<()> {
        let mut buffer = self.source.buffer(crate::limits::FRAME_BYTES_MAX);
        for (index, frame) in found.iter().enumerate() {
            let padded = frame.header.padded_bytes();
            self.source.read(frame.slot, frame.offset, &mut buffer[..padded])?;
            let read = FrameHeader::read(self.store, frame.epoch, &buffer);
            let payload = &buffer[FRAME_HEADER_BYTES..frame.header.frame_bytes as usize];
            if read.is_none_or(|header| header != frame.header || !header.holds(payload)) {
                return Err(io::Error::other("a frame changed while it was read"));
            }
            let counts = index < counted.end;
            if counts {
                self.recovery.frames += 1;
                self.recovery.last_clock_ms = frame.header.clock_ms;
            }
            let mut at = FRAME_HEADER_BYTES;
            for _ in 0..frame.header.record_count {
                let bytes = &buffer[at..frame.header.frame_bytes as usize];
                let Some((record, taken)) = RecordRef::read(frame.epoch, bytes) else {
                    return Err(io::Error::other("a record contradicts the frame around it"));
                };
                self.next_message_id = self.next_message_id.max(record.id.saturating_add(1));
                if counts {
                    self.recovery.records += 1;
                    let location = Location {
                        slot: frame.slot as u16,
                        block: (frame.offset / BLOCK_BYTES as u64) as u16,
                        epoch_low: frame.epoch as u32,
                        in_frame: at as u32,
                        record_bytes: (super::format::RECORD_HEADER_BYTES + record.payload.len())
                            as u32,
                    };
                    (self.visit)(Replayed {
                        kind: record.kind,
                        flags: record.flags,
                        id: record.id,
                        aux: record.aux,
                        payload: record.payload,
                        location,
                    });
                }
                at += taken;
            }
        }
        Ok(())
    }
}

/// What recovery reads at once.
const WINDOW_BYTES: usize = 4 * crate::limits::FRAME_BYTES_MAX;
/// Blocks without a frame after which the rest of a segment is blank: more than two frames in
/// flight can have left behind torn.
const BLANK_BLOCKS_MAX: usize = 4 * crate::limits::FRAME_BYTES_MAX / BLOCK_BYTES;
