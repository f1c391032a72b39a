//! The frames of one generation in the order they were written, whatever stands between. `Pure.`

use std::io;
use std::ops::{DerefMut, RangeInclusive};

use super::format::{
    BLOCK_BYTES, FRAME_HEADER_BYTES, FrameHeader, Run, SEGMENT_HEADER_BYTES, SegmentHeader, StoreId,
};
use super::recovery::SegmentSource;
use crate::limits::FRAME_BYTES_MAX;

/// A segment with a whole header.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub slot: usize,
    pub capacity: u64,
    pub header: SegmentHeader,
    /// No frame in it that counts has a higher seq.
    pub last_seq: u64,
    /// Where its frames end, if that is known.
    pub end: Option<u64>,
}

/// A frame whose header and payload hold, by its place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub slot: usize,
    pub epoch: u64,
    pub offset: u64,
    pub header: FrameHeader,
}

/// Which seqs count: those of each run, up to where a later run cuts it off.
#[derive(Clone, Debug, Default)]
pub(super) struct Runs(Vec<Run>);

impl Runs {
    pub fn of(segments: &[Segment]) -> Self {
        let mut runs: Vec<Run> = segments.iter().map(|segment| segment.header.run).collect();
        runs.sort_by_key(|run| run.first_epoch);
        runs.dedup_by_key(|run| run.first_epoch);
        Runs(runs)
    }

    /// The last seq that counts of what was written in `epoch`.
    fn cut(&self, epoch: u64) -> u64 {
        let later = self.0.iter().filter(|run| run.first_epoch > epoch);
        later.map(|run| run.cut_seq).min().unwrap_or(u64::MAX)
    }

    /// The seqs strictly between two others that some run gave out and no later one cut off.
    pub fn between(&self, before: u64, after: u64) -> Vec<RangeInclusive<u64>> {
        let mut missing = Vec::new();
        let mut from = before.saturating_add(1);
        for run in &self.0 {
            let first = run.first_seq.max(from);
            let last = self.cut(run.first_epoch).min(after.saturating_sub(1));
            if first <= last {
                missing.push(first..=last);
                from = last.saturating_add(1);
            }
        }
        missing
    }
}

/// Where a missing frame may have stood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Suspect {
    pub slot: usize,
    pub offset: u64,
    /// Something is missing there for certain.
    pub is_certain: bool,
}

/// Goes through the segments of one generation, oldest first.
pub(super) struct Lane<'a> {
    store: &'a StoreId,
    runs: &'a Runs,
    segments: &'a [Segment],
    /// Frames with a lower seq are passed over.
    first_seq: u64,
    index: usize,
    offset: u64,
    blank_blocks: usize,
    window: Box<dyn DerefMut<Target = [u8]>>,
    /// What the window holds of the segment.
    window_at: u64,
    window_end: u64,
    current: Option<Found>,
    /// Segment of `current`, and the segment and end of the frame before it.
    current_index: usize,
    before: (usize, u64),
    last_seq: u64,
    /// Frames that an earlier recovery dropped.
    pub cut_count: u64,
    /// Above every seq of a whole frame, cut ones included.
    pub seen_seq: u64,
}

impl<'a> Lane<'a> {
    /// From `offset` of the first of `segments` on.
    pub fn new(
        store: &'a StoreId,
        runs: &'a Runs,
        segments: &'a [Segment],
        offset: u64,
        first_seq: u64,
        source: &dyn SegmentSource,
    ) -> Self {
        let offset = offset.max(SEGMENT_HEADER_BYTES as u64);
        Self {
            store,
            runs,
            segments,
            first_seq,
            index: 0,
            offset,
            blank_blocks: 0,
            window: source.buffer(if segments.is_empty() { BLOCK_BYTES } else { WINDOW_BYTES }),
            window_at: 0,
            window_end: 0,
            current: None,
            current_index: 0,
            before: (0, offset),
            last_seq: 0,
            cut_count: 0,
            seen_seq: 0,
        }
    }

    /// A lane of its own over what is left, the current frame included.
    pub fn fork(&self, source: &dyn SegmentSource) -> Lane<'a> {
        let offset = self.current.map_or(self.offset, |current| current.offset);
        let index = if self.current.is_some() { self.current_index } else { self.index };
        let segments = self.segments.get(index..).unwrap_or_default();
        Lane::new(self.store, self.runs, segments, offset, self.first_seq, source)
    }

    pub fn current(&self) -> Option<&Found> {
        self.current.as_ref()
    }

    /// The current frame, header included, without padding.
    pub fn bytes(&self) -> &[u8] {
        let current = self.current.as_ref().expect("there is one");
        let at = (current.offset - self.window_at) as usize;
        &self.window[at..at + current.header.frame_bytes as usize]
    }

    /// Goes to the next frame that counts.
    pub fn advance(&mut self, source: &mut dyn SegmentSource) -> io::Result<()> {
        if let Some(current) = self.current.take() {
            let end = current.offset + current.header.padded_bytes() as u64;
            self.before = (self.current_index, end);
            self.last_seq = current.header.seq;
        }
        while let Some(segment) = self.segments.get(self.index) {
            let Some(found) = self.next_frame(segment, source)? else {
                self.index += 1;
                self.offset = SEGMENT_HEADER_BYTES as u64;
                self.blank_blocks = 0;
                (self.window_at, self.window_end) = (0, 0);
                continue;
            };
            let seq = found.header.seq;
            self.seen_seq = self.seen_seq.max(seq);
            if seq > self.runs.cut(found.epoch) || seq < segment.header.first_seq {
                self.cut_count += 1;
            } else if seq >= self.first_seq && seq > self.last_seq {
                self.current = Some(found);
                self.current_index = self.index;
                return Ok(());
            } else {
                let end = found.offset + found.header.padded_bytes() as u64;
                self.before = (self.index, end);
            }
        }
        Ok(())
    }

    /// The next whole frame of the segment, wherever it stands: a damaged one hides no later one.
    fn next_frame(
        &mut self,
        segment: &Segment,
        source: &mut dyn SegmentSource,
    ) -> io::Result<Option<Found>> {
        let end = segment.end.unwrap_or(segment.capacity).min(segment.capacity);
        let blank_blocks_max = if segment.end.is_some() { usize::MAX } else { BLANK_BLOCKS_MAX };
        while self.offset + BLOCK_BYTES as u64 <= end && self.blank_blocks < blank_blocks_max {
            self.fill(segment, end, BLOCK_BYTES, source)?;
            let at = (self.offset - self.window_at) as usize;
            let epoch = segment.header.epoch;
            let header = &self.window[at..at + FRAME_HEADER_BYTES];
            let header = FrameHeader::read(self.store, epoch, header).filter(|header| {
                u64::from(header.block) * BLOCK_BYTES as u64 == self.offset
                    && self.offset + header.padded_bytes() as u64 <= end
            });
            if let Some(header) = header {
                self.fill(segment, end, header.padded_bytes(), source)?;
                let at = (self.offset - self.window_at) as usize;
                let frame = &self.window[at..at + header.frame_bytes as usize];
                if header.holds(&frame[FRAME_HEADER_BYTES..]) {
                    let found = Found { slot: segment.slot, epoch, offset: self.offset, header };
                    self.offset += header.padded_bytes() as u64;
                    self.blank_blocks = 0;
                    return Ok(Some(found));
                }
            }
            self.offset += BLOCK_BYTES as u64;
            self.blank_blocks += 1;
        }
        Ok(None)
    }

    /// Sees to it that the window holds `bytes` from the offset on.
    fn fill(
        &mut self,
        segment: &Segment,
        end: u64,
        bytes: usize,
        source: &mut dyn SegmentSource,
    ) -> io::Result<()> {
        if self.offset >= self.window_at && self.offset + bytes as u64 <= self.window_end {
            return Ok(());
        }
        let mut kept = 0;
        if (self.window_at..self.window_end).contains(&self.offset) {
            let start = (self.offset - self.window_at) as usize;
            let stop = (self.window_end - self.window_at) as usize;
            self.window.copy_within(start..stop, 0);
            kept = stop - start;
        }
        let from = self.offset + kept as u64;
        let wanted = ((end - from) as usize).min(WINDOW_BYTES - kept);
        let wanted = wanted - wanted % BLOCK_BYTES;
        source.read(segment.slot, from, &mut self.window[kept..kept + wanted])?;
        self.window_at = self.offset;
        self.window_end = from + wanted as u64;
        Ok(())
    }

    /// Where between the frame before and the current one frames with `seqs` may have stood.
    pub fn suspects(&self, seqs: &RangeInclusive<u64>) -> Vec<Suspect> {
        let (before_index, before_end) = self.before;
        let (end_index, end_offset) = match &self.current {
            Some(current) => (self.current_index, Some(current.offset)),
            None => (self.segments.len().saturating_sub(1), None),
        };
        let mut suspects = Vec::new();
        for (index, segment) in self.segments.iter().enumerate().skip(before_index) {
            let start =
                if index == before_index { before_end } else { SEGMENT_HEADER_BYTES as u64 };
            let stop = if index == end_index { end_offset } else { segment.end };
            let may_hold =
                segment.header.first_seq <= *seqs.end() && segment.last_seq >= *seqs.start();
            let has_room = stop.unwrap_or(segment.capacity) > start;
            if index <= end_index && may_hold && has_room {
                let is_certain = stop.is_some();
                suspects.push(Suspect { slot: segment.slot, offset: start, is_certain });
            }
        }
        suspects
    }
}

/// What is read at once.
const WINDOW_BYTES: usize = 4 * FRAME_BYTES_MAX;
/// Blocks without a frame after which the rest of a segment whose end nobody noted is blank: more
/// than the frames in flight can have left behind torn.
const BLANK_BLOCKS_MAX: usize = 4 * FRAME_BYTES_MAX / BLOCK_BYTES;
