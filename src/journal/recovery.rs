//! From the bytes on disk back to records, in order. `Pure.`
//!
//! A frame counts when every frame before it counts. Where one is missing or damaged, the rest is
//! a torn tail that nobody was told of, and is dropped; unless a later frame says that it was
//! durable: then it is rot, reported and skipped, and what follows still counts.

use std::io;
use std::ops::RangeInclusive;

use super::core::{Location, StartSlot};
use super::format::{
    BLOCK_BYTES, FRAME_HEADER_BYTES, FrameHeader, HeaderRead, RECORD_HEADER_BYTES, RecordRef,
    SEGMENT_HEADER_BYTES, SegmentHeader, StoreId,
};
use crate::limits::FRAME_BYTES_MAX;

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

/// Reads every segment and gives each record that counts to `visit`, in seq order.
pub fn recover(
    store: &StoreId,
    source: &mut dyn SegmentSource,
    visit: &mut dyn FnMut(Replayed<'_>),
) -> Result<(Ground, Recovery), RecoverError> {
    let capacities = source.capacities();
    let mut headers = Vec::new();
    let mut block = source.buffer(SEGMENT_HEADER_BYTES);
    for slot in 0..capacities.len() {
        source.read(slot, 0, &mut block)?;
        match SegmentHeader::read(store, &block) {
            HeaderRead::Free => {}
            HeaderRead::Header(header) => headers.push((header, slot)),
            HeaderRead::OtherVersion(version) => {
                return Err(RecoverError::OtherVersion { slot, version });
            }
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
        seen_seq = seen_seq.max(header.run.cut_seq).max(header.first_seq.saturating_sub(1));
        find_frames(store, source, *slot, capacities[*slot], header, &mut found)?;
    }
    for frame in &found {
        seen_seq = seen_seq.max(frame.header.seq);
    }
    let spans = spans_of(&live);
    let found_count = found.len();
    found.retain(|frame| {
        let span = spans.iter().find(|span| span.epoch == frame.epoch);
        span.is_some_and(|span| span.seqs.contains(&frame.header.seq))
    });
    found.sort_by_key(|frame| frame.header.seq);

    let cut_count = (found_count - found.len()) as u64;
    let mut recovery =
        Recovery { segments: live.len(), dropped_frames: cut_count, ..Recovery::default() };
    let mut counted = count_frames(&spans, &found, &mut recovery);
    let mut replay = Replay { store, source, visit, next_message_id, recovery: &mut recovery };
    replay.run(&found, &mut counted)?;
    let next_message_id = replay.next_message_id.saturating_add(unread_ids(&recovery.rot));
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

/// The seqs that count in one segment.
struct Span {
    slot: usize,
    epoch: u64,
    seqs: RangeInclusive<u64>,
}

/// From the first seq of each segment up to that of the next of its run, or to where a later run
/// cuts it off. What lies in no span was dropped by an earlier recovery, or never was.
fn spans_of(live: &[(SegmentHeader, usize)]) -> Vec<Span> {
    let span = |(index, (header, slot)): (usize, &(SegmentHeader, usize))| {
        let later = live[index + 1..].iter().map(|(later, _)| {
            if later.run.first_epoch > header.epoch {
                later.run.cut_seq
            } else {
                later.first_seq.saturating_sub(1)
            }
        });
        let seqs = header.first_seq..=later.min().unwrap_or(u64::MAX);
        Span { slot: *slot, epoch: header.epoch, seqs }
    };
    live.iter().enumerate().map(span).collect()
}

/// Which of the found frames count.
struct Counted {
    /// Index one past the last frame that counts.
    end: usize,
    last_seq: u64,
}

/// Walks the frames in seq order up to the torn tail, and reports the rot before it.
fn count_frames(spans: &[Span], found: &[Found], recovery: &mut Recovery) -> Counted {
    let mut last_seq = spans.first().map_or(0, |span| span.seqs.start().saturating_sub(1));
    let mut end = 0;
    while end < found.len() {
        let seq = found[end].header.seq;
        let missing = missing_between(spans, last_seq, seq);
        if let Some((_, first_missing)) = missing.first() {
            let first_missing = *first_missing.start();
            let durable = found[end..].iter().any(|it| it.header.durable_upto >= first_missing);
            if !durable {
                break;
            }
            for (span, seqs) in missing {
                let (first_seq, last_seq) = seqs.into_inner();
                let before = found[..end].iter().rfind(|it| it.epoch == span.epoch);
                let offset = before.map_or(SEGMENT_HEADER_BYTES as u64, |it| {
                    it.offset + it.header.padded_bytes() as u64
                });
                recovery.rot.push(Rot { slot: span.slot, offset, first_seq, last_seq });
            }
        }
        last_seq = seq;
        end += 1;
    }
    recovery.dropped_frames += (found.len() - end) as u64;
    Counted { end, last_seq }
}

/// The seqs that should stand between two others, by the segment they should stand in.
fn missing_between(spans: &[Span], before: u64, after: u64) -> Vec<(&Span, RangeInclusive<u64>)> {
    let missing = spans.iter().map(|span| {
        let first = (*span.seqs.start()).max(before + 1);
        let last = (*span.seqs.end()).min(after - 1);
        (span, first..=last)
    });
    missing.filter(|(_, seqs)| !seqs.is_empty()).collect()
}

/// How many ids may stand in acknowledged frames that cannot be read: they are passed over.
fn unread_ids(rot: &[Rot]) -> u64 {
    let ids_per_frame = (FRAME_BYTES_MAX / RECORD_HEADER_BYTES) as u64;
    rot.iter().map(|rot| (rot.last_seq - rot.first_seq + 1).saturating_mul(ids_per_frame)).sum()
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
        let mut buffer = self.source.buffer(FRAME_BYTES_MAX);
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
                        record_bytes: (RECORD_HEADER_BYTES + record.payload.len()) as u32,
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
const WINDOW_BYTES: usize = 4 * FRAME_BYTES_MAX;
/// Blocks without a frame after which the rest of a segment is blank: more than two frames in
/// flight can have left behind torn.
const BLANK_BLOCKS_MAX: usize = 4 * FRAME_BYTES_MAX / BLOCK_BYTES;

#[cfg(test)]
mod tests {
    use std::ops::DerefMut;

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
            let mut seqs = Vec::new();
            let recovered = recover(&STORE, self, &mut |record| seqs.push(record.id));
            let (ground, recovery) = recovered.expect("memory can be read");
            (seqs, ground, recovery)
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
}
