//! The bytes of headers, frames and records, read as docs/QUEUE.md gives them. `Pure.`

/// Smallest unit of the disk.
pub(super) const BLOCK: usize = 4096;
/// Two copies of the header of a segment.
pub(super) const SEGMENT_START: u64 = 2 * BLOCK as u64;
pub(super) const FRAME_HEADER: usize = 64;
pub(super) const RECORD_HEADER: usize = 24;
pub(super) const FRAME_MAX: usize = 1 << 20;

pub(super) mod kind {
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

/// Takes integers and slices from the front of octets; `None` where they end too early.
pub(super) struct Bytes<'a>(pub &'a [u8]);

impl<'a> Bytes<'a> {
    pub fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (front, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(front)
    }

    /// A little-endian integer of at most eight octets.
    pub fn int(&mut self, octets: usize) -> Option<u64> {
        let front = self.take(octets)?;
        Some(front.iter().rev().fold(0, |value, octet| value << 8 | u64::from(*octet)))
    }

    pub fn text(&mut self, count: usize) -> Option<&'a str> {
        std::str::from_utf8(self.take(count)?).ok()
    }
}

/// Where a checkpoint begins: its BEGIN stands in the frame at this place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Begin {
    pub seq: u64,
    pub epoch: u64,
    pub block: u64,
}

/// One copy of the header of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub generation: u64,
    pub shard: u64,
    pub epoch: u64,
    pub first_seq: u64,
    pub run_epoch: u64,
    pub run_first_seq: u64,
    pub cut: u64,
    pub oldest_live: u64,
    pub next_id: u64,
    pub checkpoints: [Option<Begin>; 2],
}

/// What a block says that should be a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeaderCopy {
    Whole(Header),
    /// A whole header of this store, of a version that is not understood here.
    OtherVersion(u64),
    Unreadable,
}

pub(super) fn read_header(store: &[u8; 16], block: &[u8]) -> HeaderCopy {
    match try_read_header(store, block) {
        Some(copy) => copy,
        None => HeaderCopy::Unreadable,
    }
}

fn try_read_header(store: &[u8; 16], block: &[u8]) -> Option<HeaderCopy> {
    let checksum = Bytes(block.get(BLOCK - 4..BLOCK)?).int(4)?;
    if checksum != u64::from(crc32c::crc32c(&block[..BLOCK - 4])) {
        return None;
    }
    let mut bytes = Bytes(block);
    if bytes.take(8)? != b"RINPSEG1" {
        return None;
    }
    let version = bytes.int(2)?;
    let (generation, shard) = (bytes.int(2)?, bytes.int(2)?);
    bytes.take(2)?;
    if bytes.take(16)? != store {
        return None;
    }
    if version != 2 {
        return Some(HeaderCopy::OtherVersion(version));
    }
    let (epoch, first_seq) = (bytes.int(8)?, bytes.int(8)?);
    bytes.take(8)?;
    let (run_epoch, run_first_seq, cut) = (bytes.int(8)?, bytes.int(8)?, bytes.int(8)?);
    let (oldest_live, next_id) = (bytes.int(8)?, bytes.int(8)?);
    let mut begin = || {
        let begin = Begin { seq: bytes.int(8)?, epoch: bytes.int(8)?, block: bytes.int(8)? };
        Some((begin.seq != 0).then_some(begin))
    };
    let checkpoints = [begin()?, begin()?];
    Some(HeaderCopy::Whole(Header {
        generation,
        shard,
        epoch,
        first_seq,
        run_epoch,
        run_first_seq,
        cut,
        oldest_live,
        next_id,
        checkpoints,
    }))
}

/// A whole frame: header and records have the checksums they should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameHead {
    pub bytes: usize,
    pub seq: u64,
    pub durable_upto: u64,
    pub clock_ms: u64,
    pub record_count: u64,
}

/// The frame of `epoch` that begins `bytes`, block number `block` of its segment; `None` for
/// anything else.
pub(super) fn read_frame(
    store: &[u8; 16],
    epoch: u64,
    block: u64,
    bytes: &[u8],
) -> Option<FrameHead> {
    let mut head = Bytes(bytes.get(..FRAME_HEADER)?);
    if head.take(4)? != b"RFRM" {
        return None;
    }
    let length = head.int(4)? as usize;
    let (of_epoch, seq, durable_upto, clock_ms) =
        (head.int(8)?, head.int(8)?, head.int(8)?, head.int(8)?);
    let (record_count, own_block, of_records) = (head.int(4)?, head.int(4)?, head.int(4)?);
    head.take(8)?;
    let of_head = head.int(4)?;
    let seed = crc32c::crc32c_append(crc32c::crc32c(store), &epoch.to_le_bytes());
    if of_head != u64::from(crc32c::crc32c_append(seed, &bytes[..60]))
        || of_epoch != epoch
        || own_block != block
        || !(FRAME_HEADER..=FRAME_MAX).contains(&length)
    {
        return None;
    }
    let records = bytes.get(FRAME_HEADER..length)?;
    let whole = of_records == u64::from(crc32c::crc32c(records));
    whole.then_some(FrameHead { bytes: length, seq, durable_upto, clock_ms, record_count })
}

/// A record with a right checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RecordHead<'a> {
    pub kind: u8,
    pub flags: u8,
    pub id: u64,
    pub number: u32,
    pub payload: &'a [u8],
    /// Up to the next record.
    pub padded_bytes: usize,
}

pub(super) fn read_record(epoch: u64, bytes: &[u8]) -> Option<RecordHead<'_>> {
    let mut head = Bytes(bytes.get(..RECORD_HEADER)?);
    let (kind, flags) = (head.int(1)? as u8, head.int(1)? as u8);
    let (header_bytes, payload_bytes) = (head.int(2)? as usize, head.int(4)? as usize);
    let (id, number, checksum) = (head.int(8)?, head.int(4)? as u32, head.int(4)?);
    let end = RECORD_HEADER.checked_add(payload_bytes)?;
    let payload = bytes.get(RECORD_HEADER..end)?;
    let sum = crc32c::crc32c_append(epoch as u32, &bytes[..RECORD_HEADER - 4]);
    if header_bytes != RECORD_HEADER || checksum != u64::from(crc32c::crc32c_append(sum, payload)) {
        return None;
    }
    let padded_bytes = end.next_multiple_of(8);
    Some(RecordHead { kind, flags, id, number, payload, padded_bytes })
}
