//! Which frames of a journal count, found in the plainest way: all of them are read, put in order,
//! and judged one rule after the other. `Pure.`

use std::collections::BTreeMap;
use std::io;

use xxhash_rust::xxh3::Xxh3;

use super::bytes::{
    BLOCK, Begin, Bytes, FRAME_HEADER, FRAME_MAX, FrameHead, Header, HeaderCopy, RECORD_HEADER,
    SEGMENT_START, kind, read_frame, read_header, read_record,
};
use super::payload::Place;
use super::{Problem, Slots};

/// A frame by its place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    pub slot: usize,
    pub offset: u64,
    pub epoch: u64,
    pub head: FrameHead,
}

/// What stands in the slots of one journal.
pub(super) struct Frames {
    /// Segments whose frames may count: slot and header, by epoch.
    pub segments: BTreeMap<u64, (usize, Header)>,
    /// The frames that count, in seq order, from that of the checkpoint on.
    pub counted: Vec<Frame>,
    pub dropped: usize,
    /// The checkpoint that recovery begins with; `None` where everything is read.
    pub checkpoint: Option<Begin>,
    pub problems: Vec<Problem>,
}

pub(super) fn find(store: &[u8; 16], shard: u16, slots: &mut dyn Slots) -> io::Result<Frames> {
    let mut problems = Vec::new();
    let Segments { segments, half_headers } = read_segments(store, shard, slots, &mut problems)?;
    let mut frames = Vec::new();
    for (epoch, (slot, _)) in &segments {
        let before = frames.len();
        read_frames(store, *epoch, *slot, slots, &mut frames, &mut problems)?;
        // A crash may leave half a header, but then no frame was sent there.
        if half_headers.contains(slot) && frames.len() > before {
            problems.push(Problem::HeaderCopy { slot: *slot });
        }
    }
    frames.sort_by_key(|frame: &Frame| (frame.head.seq, frame.epoch));
    let found = frames.len();
    frames.retain(|frame| counts_in_its_run(frame, &segments));
    let mut dropped = found - frames.len();
    for pair in frames.windows(2) {
        if pair[0].head.seq == pair[1].head.seq {
            problems.push(Problem::TwoFrames { seq: pair[0].head.seq });
        }
    }
    let names = segments.last_key_value().map_or([None; 2], |(_, (_, newest))| newest.checkpoints);
    let mut checkpoint = None;
    for name in names.into_iter().flatten() {
        if checkpoint.is_none() && is_whole(&name, &frames, slots)? {
            checkpoint = Some(name);
        } else if checkpoint.is_none() {
            problems.push(Problem::Checkpoint { seq: name.seq });
        }
    }
    // Nothing comes free before there are two checkpoints, so until then no frame may be missing.
    let first = match (checkpoint, names) {
        (Some(begin), _) => begin.seq,
        (None, [Some(one), Some(other)]) => one.seq.min(other.seq),
        (None, _) => segments.values().map(|(_, header)| header.first_seq).min().unwrap_or(1),
    };
    if checkpoint.is_some() {
        frames.retain(|frame| frame.head.seq >= first);
    }
    let before = frames.len();
    cut_tail(first, &segments, &mut frames, &mut problems);
    dropped += before - frames.len();
    Ok(Frames { segments, counted: frames, dropped, checkpoint, problems })
}

/// Live segments.
struct Segments {
    /// By epoch: the better of the two copies of each header.
    segments: BTreeMap<u64, (usize, Header)>,
    /// Slots whose header has one copy.
    half_headers: Vec<usize>,
}

fn read_segments(
    store: &[u8; 16],
    shard: u16,
    slots: &mut dyn Slots,
    problems: &mut Vec<Problem>,
) -> io::Result<Segments> {
    let (mut segments, mut half_headers) = (BTreeMap::new(), Vec::new());
    for slot in 0..slots.count() {
        let mut best: Option<Header> = None;
        let mut whole_copies = 0;
        for copy in 0..2 {
            let mut block = vec![0; BLOCK];
            slots.read(slot, copy * BLOCK as u64, &mut block)?;
            match read_header(store, &block) {
                HeaderCopy::Whole(header) => {
                    whole_copies += 1;
                    best = best.filter(|best| best.epoch >= header.epoch).or(Some(header));
                }
                HeaderCopy::OtherVersion(version) => {
                    problems.push(Problem::Version { slot, version });
                }
                HeaderCopy::Unreadable => {}
            }
        }
        let Some(header) = best else { continue };
        if header.shard != u64::from(shard) {
            problems.push(Problem::Foreign { slot, shard: header.shard });
            continue;
        }
        if whole_copies == 1 {
            half_headers.push(slot);
        }
        if let Some((other, _)) = segments.insert(header.epoch, (slot, header)) {
            problems.push(Problem::TwoSegments { epoch: header.epoch, slots: [other, slot] });
        }
    }
    let oldest_live = segments.last_key_value().map_or(0, |(_, (_, header))| header.oldest_live);
    Ok(Segments { segments: segments.split_off(&oldest_live), half_headers })
}

/// Every whole frame of a segment, at whatever block it stands.
fn read_frames(
    store: &[u8; 16],
    epoch: u64,
    slot: usize,
    slots: &mut dyn Slots,
    frames: &mut Vec<Frame>,
    problems: &mut Vec<Problem>,
) -> io::Result<()> {
    let bytes = slots.bytes(slot);
    let mut segment = vec![0; (bytes - bytes % BLOCK as u64) as usize];
    slots.read(slot, 0, &mut segment)?;
    let mut at = SEGMENT_START as usize;
    while at + BLOCK <= segment.len() {
        let end = segment.len().min(at + FRAME_MAX);
        let block = (at / BLOCK) as u64;
        let Some(head) = read_frame(store, epoch, block, &segment[at..end]) else {
            at += BLOCK;
            continue;
        };
        let mut record_at = at + FRAME_HEADER;
        for _ in 0..head.record_count {
            let rest = segment.get(record_at..at + head.bytes).unwrap_or_default();
            let Some(record) = read_record(epoch, rest) else {
                problems.push(Problem::Record { slot, offset: record_at as u64 });
                break;
            };
            record_at += record.padded_bytes;
        }
        frames.push(Frame { slot, offset: at as u64, epoch, head });
        at += head.bytes.next_multiple_of(BLOCK);
    }
    Ok(())
}

/// No run that began after the frame was written has cut it off.
fn counts_in_its_run(frame: &Frame, segments: &BTreeMap<u64, (usize, Header)>) -> bool {
    let mut later = segments.values().filter(|(_, header)| header.run_epoch > frame.epoch);
    later.all(|(_, header)| frame.head.seq <= header.cut)
}

/// Whether a checkpoint has its BEGIN, its END, and between them what END says.
fn is_whole(begin: &Begin, frames: &[Frame], slots: &mut dyn Slots) -> io::Result<bool> {
    let Some(offset) = begin.block.checked_mul(BLOCK as u64) else { return Ok(false) };
    let first = frames.iter().position(|frame| {
        frame.head.seq == begin.seq && frame.epoch == begin.epoch && frame.offset == offset
    });
    let Some(first) = first else { return Ok(false) };
    let (mut begun, mut count, mut hash) = (false, 0_u64, Xxh3::new());
    for frame in &frames[first..] {
        let mut is_end = None;
        records(frame, slots, &mut |record| match record.kind {
            kind::BEGIN if !begun => begun = true,
            // Another one began before this one ended.
            kind::BEGIN => is_end = is_end.or(Some(false)),
            kind::ITEMS if begun => {
                count += 1;
                hash.update(&(record.payload.len() as u64).to_le_bytes());
                hash.update(record.payload);
            }
            kind::END if begun => {
                let mut end = Bytes(record.payload);
                let said = (end.int(8), end.int(8), end.take(16));
                let hash = hash.digest128().to_le_bytes();
                let holds = said == (Some(begin.seq), Some(count), Some(hash.as_slice()));
                is_end = is_end.or(Some(holds));
            }
            _ => {}
        })?;
        if let Some(holds) = is_end {
            return Ok(holds);
        }
    }
    Ok(false)
}

/// Drops what nobody was told of, and reports what somebody was told of and is missing. No frame
/// from seq `first` on may be missing.
fn cut_tail(
    first: u64,
    segments: &BTreeMap<u64, (usize, Header)>,
    frames: &mut Vec<Frame>,
    problems: &mut Vec<Problem>,
) {
    let mut last = first.saturating_sub(1);
    for index in 0..frames.len() {
        let seq = frames[index].head.seq;
        if seq < first {
            continue;
        }
        let missing = next_given_out(last, segments).filter(|missing| *missing < seq);
        if let Some(missing) = missing {
            let told = frames[index..].iter().any(|it| it.head.durable_upto >= missing);
            if !told {
                frames.truncate(index);
                return;
            }
            problems.push(Problem::Missing { first_seq: missing, last_seq: seq - 1 });
        }
        last = seq;
    }
}

/// The next seq behind `last` that some run gave out and no later one cut off: those above the cut
/// of a run and below its first were dropped, or never were.
fn next_given_out(last: u64, segments: &BTreeMap<u64, (usize, Header)>) -> Option<u64> {
    let mut next = last.checked_add(1)?;
    // Each step passes over what one run dropped.
    while let Some((_, header)) =
        segments.values().find(|(_, header)| next > header.cut && next < header.run_first_seq)
    {
        next = header.run_first_seq;
    }
    Some(next)
}

/// Gives each record of a whole frame to `visit`.
pub(super) fn records(
    frame: &Frame,
    slots: &mut dyn Slots,
    visit: &mut dyn FnMut(Record<'_>),
) -> io::Result<()> {
    let padded = frame.head.bytes.next_multiple_of(BLOCK);
    let mut bytes = vec![0; padded];
    slots.read(frame.slot, frame.offset, &mut bytes)?;
    let mut at = FRAME_HEADER;
    for _ in 0..frame.head.record_count {
        let rest = bytes.get(at..frame.head.bytes).unwrap_or_default();
        let Some(head) = read_record(frame.epoch, rest) else { return Ok(()) };
        visit(Record {
            kind: head.kind,
            is_moved: head.flags & MOVED != 0,
            id: head.id,
            number: head.number,
            payload: head.payload,
            slot: frame.slot,
            frame_offset: frame.offset,
            offset: frame.offset + at as u64,
            epoch: frame.epoch,
        });
        at += head.padded_bytes;
    }
    Ok(())
}

/// A record of a frame that counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record<'a> {
    pub kind: u8,
    /// A copy made by compaction.
    pub is_moved: bool,
    pub id: u64,
    pub number: u32,
    pub payload: &'a [u8],
    pub slot: usize,
    pub frame_offset: u64,
    pub offset: u64,
    pub epoch: u64,
}

impl Record<'_> {
    /// As other records name it.
    pub fn place(&self) -> Place {
        Place {
            slot: self.slot as u16,
            block: (self.frame_offset / BLOCK as u64) as u16,
            epoch_low: self.epoch as u32,
            in_frame: (self.offset - self.frame_offset) as u32,
            record_bytes: (RECORD_HEADER + self.payload.len()) as u32,
        }
    }
}

/// Flag of a record.
const MOVED: u8 = 1;
