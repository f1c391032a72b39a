//! The bytes on disk: segment headers, frames, records (docs/QUEUE.md). `Pure.`
//!
//! All integers are little-endian. Nothing read from disk is trusted before its checksum, and no
//! length is used before it is checked against what is there.

use crate::limits::FRAME_BYTES_MAX;

/// Unit of offsets and padding.
pub const BLOCK_BYTES: usize = 4096;
/// The header in two identical copies, a block each.
pub const SEGMENT_HEADER_BYTES: usize = 2 * BLOCK_BYTES;
pub const FRAME_HEADER_BYTES: usize = 64;
pub const RECORD_HEADER_BYTES: usize = 24;

const SEGMENT_MAGIC: u64 = 0x3147_4553_504e_4952; // "RINPSEG1"
const FRAME_MAGIC: u32 = 0x4d52_4652; // "RFRM"
const VERSION: u16 = 2;

/// Record types.
pub mod kind {
    pub const ENVELOPE: u8 = 0x01;
    pub const CONTENT: u8 = 0x02;
    pub const STATE: u8 = 0x10;
    pub const RETIRED: u8 = 0x11;
    pub const BEGIN: u8 = 0x20;
    pub const ITEMS: u8 = 0x21;
    pub const END: u8 = 0x22;
    pub const ACCOUNT: u8 = 0x30;
    pub const MAILBOX: u8 = 0x31;
    pub const BODY: u8 = 0x32;
    pub const APPEND: u8 = 0x33;
    pub const FLAGS: u8 = 0x34;
    pub const EXPUNGE: u8 = 0x35;
    pub const COPY: u8 = 0x36;
    pub const KEYWORD: u8 = 0x37;
    pub const SEAL: u8 = 0x7f;
}

/// Record flags.
pub mod flag {
    /// A copy that compaction made: a place changes, never a state.
    pub const MOVED: u8 = 1;
}

/// What makes one store's bytes differ from every other's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreId(pub [u8; 16]);

impl StoreId {
    /// Seed of every checksum in one life of a segment: earlier lives are invalid without zeroing.
    fn seed(&self, epoch: u64) -> u32 {
        crc32c::crc32c_append(crc32c::crc32c(&self.0), &epoch.to_le_bytes())
    }
}

/// What a segment takes in. One of each is open at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Generation {
    /// New mail, outcomes and checkpoints.
    First,
    /// What compaction moved.
    Survivors,
}

/// A complete checkpoint, by the place of its BEGIN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointName {
    /// Of the frame with BEGIN; at least 1.
    pub begin_seq: u64,
    pub begin_epoch: u64,
    /// Offset of that frame in its segment, in blocks.
    pub begin_block: u32,
}

/// The header of a segment in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    pub generation: Generation,
    pub shard: u16,
    /// Unique and increasing in a journal; the order of segments.
    pub epoch: u64,
    pub first_seq: u64,
    pub activated_ms: u64,
    /// The run this segment was activated in, from one start of the journal to the next.
    pub run: Run,
    /// Segments of lower epochs hold nothing that counts.
    pub oldest_live_epoch: u64,
    /// No message id below it is free.
    pub next_message_id: u64,
    /// The two newest complete checkpoints, the newest first.
    pub checkpoints: [Option<CheckpointName>; 2],
    /// The segment of this generation before this one, if that is of the same run.
    pub before: Option<Before>,
}

/// Where the frames of a segment end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Before {
    pub epoch: u64,
    /// The block after its last frame.
    pub end_block: u32,
}

/// From one start of a journal to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The first epoch of the run.
    pub first_epoch: u64,
    /// The first seq of the run.
    pub first_seq: u64,
    /// The last seq that counted when the run began. Frames of epochs before `first_epoch` with a
    /// higher seq were dropped.
    pub cut_seq: u64,
}

/// What stands where a segment header may stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderRead {
    /// No header of this store: the slot is free.
    Free,
    Header(SegmentHeader),
    /// A whole header of this store in a format this program does not know.
    OtherVersion(u16),
}

impl SegmentHeader {
    /// Writes both copies.
    pub fn write(&self, store: &StoreId, region: &mut [u8]) {
        assert_eq!(region.len(), SEGMENT_HEADER_BYTES);
        let (block, copy) = region.split_at_mut(BLOCK_BYTES);
        block.fill(0);
        block[0..8].copy_from_slice(&SEGMENT_MAGIC.to_le_bytes());
        block[8..10].copy_from_slice(&VERSION.to_le_bytes());
        block[10..12].copy_from_slice(&self.generation.to_u16().to_le_bytes());
        block[12..14].copy_from_slice(&self.shard.to_le_bytes());
        block[16..32].copy_from_slice(&store.0);
        let [newest, older] = self.checkpoints.map(|it| it.unwrap_or(NO_CHECKPOINT));
        let fields = [
            self.epoch,
            self.first_seq,
            self.activated_ms,
            self.run.first_epoch,
            self.run.first_seq,
            self.run.cut_seq,
            self.oldest_live_epoch,
            self.next_message_id,
            newest.begin_seq,
            newest.begin_epoch,
            u64::from(newest.begin_block),
            older.begin_seq,
            older.begin_epoch,
            u64::from(older.begin_block),
            self.before.map_or(0, |before| before.epoch),
            self.before.map_or(0, |before| before.end_block.into()),
        ];
        for (index, field) in fields.into_iter().enumerate() {
            block[32 + 8 * index..40 + 8 * index].copy_from_slice(&field.to_le_bytes());
        }
        let checksum = crc32c::crc32c(&block[..BLOCK_BYTES - 4]);
        block[BLOCK_BYTES - 4..].copy_from_slice(&checksum.to_le_bytes());
        copy.copy_from_slice(block);
    }

    /// Reads the copy that holds; where both do and differ, one is of an earlier life and the
    /// higher epoch is that of this one.
    pub fn read(store: &StoreId, region: &[u8]) -> HeaderRead {
        let mut found = HeaderRead::Free;
        for block in region.chunks_exact(BLOCK_BYTES).take(2) {
            let read = Self::read_copy(store, block);
            found = match (found, read) {
                (_, Some(HeaderRead::OtherVersion(_))) => return read.unwrap_or(found),
                (HeaderRead::Header(one), Some(HeaderRead::Header(other)))
                    if one.epoch >= other.epoch =>
                {
                    found
                }
                (found, read) => read.unwrap_or(found),
            };
        }
        found
    }

    fn read_copy(store: &StoreId, block: &[u8]) -> Option<HeaderRead> {
        let checksum = u32_at(block, BLOCK_BYTES - 4)?;
        if checksum != crc32c::crc32c(&block[..BLOCK_BYTES - 4])
            || u64_at(block, 0)? != SEGMENT_MAGIC
            || block[16..32] != store.0
        {
            return None;
        }
        let version = u16_at(block, 8)?;
        if version != VERSION {
            return Some(HeaderRead::OtherVersion(version));
        }
        let field = |index: usize| u64_at(block, 32 + 8 * index);
        let checkpoint = |index: usize| {
            let name = CheckpointName {
                begin_seq: field(index)?,
                begin_epoch: field(index + 1)?,
                begin_block: u32_at(block, 32 + 8 * (index + 2))?,
            };
            Some((name.begin_seq > 0).then_some(name))
        };
        let header = Self {
            generation: Generation::from_u16(u16_at(block, 10)?)?,
            shard: u16_at(block, 12)?,
            epoch: field(0)?,
            first_seq: field(1)?,
            activated_ms: field(2)?,
            run: Run { first_epoch: field(3)?, first_seq: field(4)?, cut_seq: field(5)? },
            oldest_live_epoch: field(6)?,
            next_message_id: field(7)?,
            checkpoints: [checkpoint(8)?, checkpoint(11)?],
            before: Some(Before { epoch: field(14)?, end_block: u32_at(block, 32 + 8 * 15)? })
                .filter(|before| before.epoch > 0),
        };
        Some(HeaderRead::Header(header))
    }

    /// Where the frames of the segment of `epoch` end, in bytes, if this header tells.
    pub fn end_of(&self, epoch: u64) -> Option<u64> {
        let before = self.before.filter(|before| before.epoch == epoch);
        before.map(|before| u64::from(before.end_block) * BLOCK_BYTES as u64)
    }
}

impl Generation {
    fn to_u16(self) -> u16 {
        match self {
            Generation::First => 0,
            Generation::Survivors => 1,
        }
    }

    fn from_u16(value: u16) -> Option<Self> {
        match value {
            0 => Some(Generation::First),
            1 => Some(Generation::Survivors),
            _ => None,
        }
    }
}

/// What stands for a checkpoint that there is not.
const NO_CHECKPOINT: CheckpointName =
    CheckpointName { begin_seq: 0, begin_epoch: 0, begin_block: 0 };

/// First 64 bytes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// Without padding, this header included.
    pub frame_bytes: u32,
    pub epoch: u64,
    pub seq: u64,
    /// Highest seq known durable when the frame was built: what tells rot from a torn tail.
    pub durable_upto: u64,
    pub clock_ms: u64,
    pub record_count: u32,
    /// Offset in the segment in blocks.
    pub block: u32,
    pub payload_checksum: u32,
}

impl FrameHeader {
    pub fn write(&self, store: &StoreId, out: &mut [u8]) {
        assert_eq!(out.len(), FRAME_HEADER_BYTES);
        out[0..4].copy_from_slice(&FRAME_MAGIC.to_le_bytes());
        out[4..8].copy_from_slice(&self.frame_bytes.to_le_bytes());
        out[8..16].copy_from_slice(&self.epoch.to_le_bytes());
        out[16..24].copy_from_slice(&self.seq.to_le_bytes());
        out[24..32].copy_from_slice(&self.durable_upto.to_le_bytes());
        out[32..40].copy_from_slice(&self.clock_ms.to_le_bytes());
        out[40..44].copy_from_slice(&self.record_count.to_le_bytes());
        out[44..48].copy_from_slice(&self.block.to_le_bytes());
        out[48..52].copy_from_slice(&self.payload_checksum.to_le_bytes());
        out[52..60].fill(0);
        let checksum = crc32c::crc32c_append(store.seed(self.epoch), &out[..60]);
        out[60..64].copy_from_slice(&checksum.to_le_bytes());
    }

    /// Reads the header of a frame of `epoch`; `None` for anything else. The payload is not looked
    /// at.
    pub fn read(store: &StoreId, epoch: u64, bytes: &[u8]) -> Option<Self> {
        let checksum = u32_at(bytes, 60)?;
        if u32_at(bytes, 0)? != FRAME_MAGIC
            || checksum != crc32c::crc32c_append(store.seed(epoch), &bytes[..60])
        {
            return None;
        }
        let header = Self {
            frame_bytes: u32_at(bytes, 4)?,
            epoch: u64_at(bytes, 8)?,
            seq: u64_at(bytes, 16)?,
            durable_upto: u64_at(bytes, 24)?,
            clock_ms: u64_at(bytes, 32)?,
            record_count: u32_at(bytes, 40)?,
            block: u32_at(bytes, 44)?,
            payload_checksum: u32_at(bytes, 48)?,
        };
        let sane = header.epoch == epoch
            && header.frame_bytes as usize >= FRAME_HEADER_BYTES
            && header.frame_bytes as usize <= FRAME_BYTES_MAX;
        sane.then_some(header)
    }

    /// Whether `payload` (without padding) is what was written with this header.
    pub fn holds(&self, payload: &[u8]) -> bool {
        payload.len() == self.frame_bytes as usize - FRAME_HEADER_BYTES
            && crc32c::crc32c(payload) == self.payload_checksum
    }

    /// Bytes on disk, padding included.
    pub fn padded_bytes(&self) -> usize {
        (self.frame_bytes as usize).next_multiple_of(BLOCK_BYTES)
    }
}

/// A record to be written. The payload is gathered from its pieces.
#[derive(Clone, Copy)]
pub struct Record<'a> {
    pub kind: u8,
    pub flags: u8,
    /// Shard-local message id.
    pub id: u64,
    /// Task or chunk number.
    pub aux: u32,
    pub payload: &'a [&'a [u8]],
}

impl Record<'_> {
    pub fn payload_bytes(&self) -> usize {
        self.payload.iter().map(|piece| piece.len()).sum()
    }

    /// Bytes in a frame, padding to eight included.
    pub fn padded_bytes(&self) -> usize {
        (RECORD_HEADER_BYTES + self.payload_bytes()).next_multiple_of(8)
    }

    /// Writes header, payload and padding.
    pub fn write(&self, epoch: u64, out: &mut [u8]) {
        let payload_bytes = self.payload_bytes();
        assert_eq!(out.len(), self.padded_bytes());
        out[0] = self.kind;
        out[1] = self.flags;
        out[2..4].copy_from_slice(&(RECORD_HEADER_BYTES as u16).to_le_bytes());
        out[4..8].copy_from_slice(&(payload_bytes as u32).to_le_bytes());
        out[8..16].copy_from_slice(&self.id.to_le_bytes());
        out[16..20].copy_from_slice(&self.aux.to_le_bytes());
        let mut end = RECORD_HEADER_BYTES;
        for piece in self.payload {
            out[end..end + piece.len()].copy_from_slice(piece);
            end += piece.len();
        }
        out[end..].fill(0);
        let checksum = record_checksum(epoch, &out[..end]);
        out[20..24].copy_from_slice(&checksum.to_le_bytes());
    }
}

/// A record as it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordRef<'a> {
    pub kind: u8,
    pub flags: u8,
    pub id: u64,
    pub aux: u32,
    pub payload: &'a [u8],
}

impl<'a> RecordRef<'a> {
    /// Reads the record at the front of `bytes`; returns it and how many bytes it takes, padding
    /// included. `None` for anything that was not written in `epoch` as it stands.
    pub fn read(epoch: u64, bytes: &'a [u8]) -> Option<(Self, usize)> {
        let header_bytes = usize::from(u16_at(bytes, 2)?);
        let payload_bytes = u32_at(bytes, 4)? as usize;
        if header_bytes != RECORD_HEADER_BYTES || payload_bytes > FRAME_BYTES_MAX {
            return None;
        }
        let whole = bytes.get(..header_bytes + payload_bytes)?;
        if u32_at(bytes, 20)? != record_checksum(epoch, whole) {
            return None;
        }
        let record = Self {
            kind: whole[0],
            flags: whole[1],
            id: u64_at(whole, 8)?,
            aux: u32_at(whole, 16)?,
            payload: &whole[header_bytes..],
        };
        Some((record, whole.len().next_multiple_of(8)))
    }
}

/// Over everything but the checksum itself.
fn record_checksum(epoch: u64, record: &[u8]) -> u32 {
    let checksum = crc32c::crc32c_append(epoch as u32, &record[..20]);
    crc32c::crc32c_append(checksum, &record[RECORD_HEADER_BYTES..])
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORE: StoreId = StoreId([7; 16]);

    fn segment_header() -> SegmentHeader {
        let name = |begin_seq| CheckpointName { begin_seq, begin_epoch: 5, begin_block: 17 };
        SegmentHeader {
            generation: Generation::Survivors,
            shard: 3,
            epoch: 9,
            first_seq: 1_000,
            activated_ms: 1_700_000_000_000,
            run: Run { first_epoch: 7, first_seq: 800, cut_seq: 790 },
            oldest_live_epoch: 4,
            next_message_id: 77,
            checkpoints: [Some(name(900)), Some(name(700))],
            before: Some(Before { epoch: 8, end_block: 1_234 }),
        }
    }

    fn frame_header(payload: &[u8]) -> FrameHeader {
        FrameHeader {
            frame_bytes: (FRAME_HEADER_BYTES + payload.len()) as u32,
            epoch: 9,
            seq: 1_001,
            durable_upto: 998,
            clock_ms: 1_700_000_000_000,
            record_count: 1,
            block: 5,
            payload_checksum: crc32c::crc32c(payload),
        }
    }

    #[test]
    fn every_flipped_bit_of_a_segment_header_is_seen() {
        let mut region = vec![0; SEGMENT_HEADER_BYTES];
        segment_header().write(&STORE, &mut region);
        let whole = HeaderRead::Header(segment_header());
        assert_eq!(SegmentHeader::read(&STORE, &region), whole);
        assert_eq!(SegmentHeader::read(&StoreId([8; 16]), &region), HeaderRead::Free);
        let mut block = region[..BLOCK_BYTES].to_vec();
        for bit in 0..block.len() * 8 {
            block[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SegmentHeader::read(&STORE, &block), HeaderRead::Free, "bit {bit}");
            block[bit / 8] ^= 1 << (bit % 8);
        }
        for end in 0..block.len() {
            assert_eq!(SegmentHeader::read(&STORE, &block[..end]), HeaderRead::Free, "{end}");
        }
    }

    #[test]
    fn either_copy_of_a_segment_header_will_do_and_the_later_life_wins() {
        let mut region = vec![0; SEGMENT_HEADER_BYTES];
        segment_header().write(&STORE, &mut region);
        let whole = HeaderRead::Header(segment_header());
        for damaged in [5, BLOCK_BYTES + 5] {
            region[damaged] ^= 1;
            assert_eq!(SegmentHeader::read(&STORE, &region), whole);
            region[damaged] ^= 1;
        }
        let mut later = vec![0; SEGMENT_HEADER_BYTES];
        let later_header = SegmentHeader { epoch: 10, ..segment_header() };
        later_header.write(&STORE, &mut later);
        let front = [&later[..BLOCK_BYTES], &region[BLOCK_BYTES..]].concat();
        assert_eq!(SegmentHeader::read(&STORE, &front), HeaderRead::Header(later_header));
        let back = [&region[..BLOCK_BYTES], &later[BLOCK_BYTES..]].concat();
        assert_eq!(SegmentHeader::read(&STORE, &back), HeaderRead::Header(later_header));
    }

    #[test]
    fn a_header_of_another_version_is_told_from_a_free_slot() {
        let mut region = vec![0; SEGMENT_HEADER_BYTES];
        segment_header().write(&STORE, &mut region);
        region[8] = 1;
        let checksum = crc32c::crc32c(&region[..BLOCK_BYTES - 4]);
        region[BLOCK_BYTES - 4..BLOCK_BYTES].copy_from_slice(&checksum.to_le_bytes());
        assert_eq!(SegmentHeader::read(&STORE, &region), HeaderRead::OtherVersion(1));
        assert_eq!(SegmentHeader::read(&StoreId([8; 16]), &region), HeaderRead::Free);
    }

    #[test]
    fn every_flipped_bit_of_a_frame_is_seen() {
        let payload = b"the records of a frame".to_vec();
        let header = frame_header(&payload);
        let mut frame = vec![0; FRAME_HEADER_BYTES];
        header.write(&STORE, &mut frame);
        frame.extend_from_slice(&payload);
        let read = |frame: &[u8]| {
            let header = FrameHeader::read(&STORE, 9, frame)?;
            header.holds(frame.get(FRAME_HEADER_BYTES..)?).then_some(header)
        };
        assert_eq!(read(&frame), Some(header));
        assert_eq!(FrameHeader::read(&STORE, 8, &frame), None, "an earlier life");
        for bit in 0..frame.len() * 8 {
            frame[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(read(&frame), None, "bit {bit}");
            frame[bit / 8] ^= 1 << (bit % 8);
        }
        for end in 0..frame.len() {
            assert_eq!(read(&frame[..end]), None, "cut at {end}");
        }
    }

    #[test]
    fn every_flipped_bit_of_a_record_is_seen() {
        let record =
            Record { kind: kind::STATE, flags: 1, id: 42, aux: 3, payload: &[b"two ", b"pieces"] };
        let mut bytes = vec![0; record.padded_bytes()];
        record.write(9, &mut bytes);
        let (read, taken) = RecordRef::read(9, &bytes).expect("a record");
        assert_eq!(read.payload, b"two pieces");
        assert_eq!((read.kind, read.flags, read.id, read.aux), (kind::STATE, 1, 42, 3));
        assert_eq!(taken, bytes.len());
        assert_eq!(RecordRef::read(8, &bytes), None, "an earlier life");
        for bit in 0..(RECORD_HEADER_BYTES + 10) * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(RecordRef::read(9, &bytes), None, "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        for end in 0..RECORD_HEADER_BYTES + 10 {
            assert_eq!(RecordRef::read(9, &bytes[..end]), None, "cut at {end}");
        }
    }
}
