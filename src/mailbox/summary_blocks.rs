//! How the summaries of a mailbox stand on disk, and where each is looked for. `Pure.`
//!
//! A record is a summary behind its checksum, octets, body and UID. Records of ascending UIDs that
//! stand together are a block, and of blocks alone it is remembered where they are: a million
//! messages have some ten thousand.

use std::ops::Range;

use super::codec::BodyId;
use crate::limits::SUMMARY_BYTES_MAX;

/// Records of ascending UIDs, one behind the other. Not each UID between has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    pub first_uid: u32,
    pub last_uid: u32,
    pub count: u32,
    pub bytes: u32,
    /// Where it begins in its file.
    pub offset: u64,
}

impl Block {
    /// `None` unless it is one of the store that `seed` stands for.
    pub fn read(octets: &[u8; BLOCK_ENTRY_BYTES], seed: u32) -> Option<Self> {
        let four = |at: usize| u32::from_le_bytes(std::array::from_fn(|it| octets[at + it]));
        let offset = u64::from_le_bytes(std::array::from_fn(|it| octets[16 + it]));
        let [first_uid, last_uid, count, bytes] = [four(0), four(4), four(8), four(12)];
        let is_sound = crc32c::crc32c_append(seed, &octets[..24]) == four(24);
        let is_sensible = first_uid <= last_uid
            && last_uid - first_uid < BLOCK_UIDS_MAX
            && (1..=BLOCK_UIDS_MAX).contains(&count)
            && (1..=BLOCK_BYTES_MAX).contains(&bytes)
            && offset < u64::MAX / 2;
        let block = Self { first_uid, last_uid, count, bytes, offset };
        (is_sound && is_sensible).then_some(block)
    }

    pub fn write(&self, seed: u32, out: &mut Vec<u8>) {
        let start = out.len();
        for number in [self.first_uid, self.last_uid, self.count, self.bytes] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&self.offset.to_le_bytes());
        let checksum = crc32c::crc32c_append(seed, &out[start..]);
        out.extend_from_slice(&checksum.to_le_bytes());
    }

    pub fn end(&self) -> u64 {
        self.offset + u64::from(self.bytes)
    }

    /// Takes a record that stands right behind it; false where that belongs to another block.
    fn take(&mut self, uid: u32, bytes: u32) -> bool {
        let fits = uid > self.last_uid
            && uid - self.first_uid < BLOCK_UIDS_MAX
            && self.bytes + bytes <= BLOCK_BYTES;
        if fits {
            (self.last_uid, self.count, self.bytes) = (uid, self.count + 1, self.bytes + bytes);
        }
        fits
    }
}

/// The blocks of records that are written one behind the other.
#[derive(Debug)]
pub struct Blocks {
    list: Vec<Block>,
    end: u64,
}

impl Blocks {
    /// Of records from `end` on; `last` is the block before. If it ends there, it is the first one
    /// of these, and may grow.
    pub fn behind(last: Option<Block>, end: u64) -> Self {
        Self { list: last.into_iter().filter(|last| last.end() == end).collect(), end }
    }

    pub fn add(&mut self, uid: u32, bytes: u32) {
        if !self.list.last_mut().is_some_and(|last| last.take(uid, bytes)) {
            let offset = self.end;
            self.list.push(Block { first_uid: uid, last_uid: uid, count: 1, bytes, offset });
        }
        self.end += u64::from(bytes);
    }

    pub fn list(&self) -> &[Block] {
        &self.list
    }
}

/// Records to be written.
#[derive(Debug, Default)]
pub struct Batch {
    octets: Vec<u8>,
    /// UIDs, and where their records stand.
    records: Vec<(u32, Range<usize>)>,
}

impl Batch {
    /// Takes a summary of at most `SUMMARY_BYTES_MAX`.
    pub fn add(&mut self, uid: u32, body: BodyId, summary: &[u8]) {
        assert!(summary.len() <= SUMMARY_BYTES_MAX);
        let start = self.octets.len();
        self.octets.extend_from_slice(&[0; 4]);
        self.octets.extend_from_slice(&(summary.len() as u32).to_le_bytes());
        self.octets.extend_from_slice(&body.0.to_le_bytes());
        self.octets.extend_from_slice(&uid.to_le_bytes());
        self.octets.extend_from_slice(summary);
        self.records.push((uid, start..self.octets.len()));
    }

    pub fn bytes(&self) -> usize {
        self.octets.len()
    }

    /// The records as they are written behind `blocks`, which take them, by ascending UIDs.
    pub fn seal(mut self, seed: u32, blocks: &mut Blocks) -> Vec<u8> {
        for (_, range) in &self.records {
            let record = &mut self.octets[range.clone()];
            let checksum = crc32c::crc32c_append(seed, &record[4..]);
            record[..4].copy_from_slice(&checksum.to_le_bytes());
        }
        let is_in_order = self.records.is_sorted_by_key(|(uid, _)| *uid);
        if !is_in_order {
            self.records.sort_by_key(|(uid, _)| *uid);
        }
        self.records.iter().for_each(|(uid, range)| blocks.add(*uid, range.len() as u32));
        if is_in_order {
            return self.octets;
        }
        let records = self.records.iter().map(|(_, range)| &self.octets[range.clone()]);
        records.collect::<Vec<&[u8]>>().concat()
    }
}

/// A record that is as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub uid: u32,
    pub body: BodyId,
    /// Where all of it stands, and its summary.
    pub whole: Range<usize>,
    pub summary: Range<usize>,
}

/// The records of a block, as far as they are sound.
pub fn records(octets: &[u8], seed: u32) -> impl Iterator<Item = Record> {
    let mut at = 0;
    std::iter::from_fn(move || {
        loop {
            let (header, behind) = octets.get(at..)?.split_first_chunk::<RECORD_HEADER_BYTES>()?;
            let four = |at: usize| u32::from_le_bytes(std::array::from_fn(|it| header[at + it]));
            let body = u64::from_le_bytes(std::array::from_fn(|it| header[8 + it]));
            let bytes = four(4) as usize;
            if bytes > SUMMARY_BYTES_MAX || bytes > behind.len() {
                // Nobody knows where the next one begins.
                return None;
            }
            let whole = at..at + RECORD_HEADER_BYTES + bytes;
            at = whole.end;
            if crc32c::crc32c_append(seed, &octets[whole.start + 4..whole.end]) == four(0) {
                let summary = whole.start + RECORD_HEADER_BYTES..whole.end;
                return Some(Record { uid: four(16), body: BodyId(body), whole, summary });
            }
        }
    })
}

/// The blocks of a mailbox, by UIDs.
#[derive(Debug, Default)]
pub struct Index {
    /// By first UID and offset.
    blocks: Vec<Block>,
}

impl Index {
    pub fn new(mut blocks: Vec<Block>) -> Self {
        blocks.sort_by_key(Self::key);
        Self { blocks }
    }

    fn key(block: &Block) -> (u32, u64) {
        (block.first_uid, block.offset)
    }

    pub fn block_count(&self) -> usize {
        self.blocks.len()
    }

    pub fn record_count(&self) -> u64 {
        self.blocks.iter().map(|block| u64::from(block.count)).sum()
    }

    /// A block more, or one that has grown.
    pub fn add(&mut self, block: Block) {
        match self.blocks.binary_search_by_key(&Self::key(&block), Self::key) {
            Ok(at) => self.blocks[at] = block,
            Err(at) => self.blocks.insert(at, block),
        }
    }

    /// Nothing of the block is to be had.
    pub fn forget(&mut self, block: &Block) {
        if let Ok(at) = self.blocks.binary_search_by_key(&Self::key(block), Self::key) {
            self.blocks.remove(at);
        }
    }

    /// The newest block that stands before `before` in the file and may have a message, and those
    /// that stand right behind it and are of higher UIDs, as many as `ahead` messages are likely
    /// to be in, this one included, and about a MiB at the most.
    pub fn slice(&self, uid: u32, before: u64, ahead: usize) -> &[Block] {
        let end = self.blocks.partition_point(|block| block.first_uid <= uid);
        let near = self.blocks[..end].iter().enumerate().rev();
        let near = near.take_while(|(_, block)| uid - block.first_uid < BLOCK_UIDS_MAX);
        let having = near.filter(|(_, block)| block.last_uid >= uid && block.offset < before);
        let Some((start, first)) = having.max_by_key(|(_, block)| block.offset) else {
            return &[];
        };
        // The message may be the last one of its block.
        let mut records = 1;
        let mut file_end = first.end();
        let is_next = |block: &&Block| {
            let is_next = block.offset == file_end
                && block.end() - first.offset <= SLICE_BYTES_MAX
                && records < ahead;
            records += block.count as usize;
            file_end = block.end();
            is_next
        };
        let more = self.blocks[start + 1..].iter().take_while(is_next).count();
        &self.blocks[start..=start + more]
    }
}

/// Octets of a block as it is remembered: both UIDs 4, count 4, octets 4, offset 8, checksum 4.
pub const BLOCK_ENTRY_BYTES: usize = 28;
/// Checksum 4, octets of the summary 4, body 8, UID 4.
pub const RECORD_HEADER_BYTES: usize = 20;
/// Octets of a block, unless it is one record.
const BLOCK_BYTES: u32 = 64 * 1024;
const BLOCK_BYTES_MAX: u32 = (SUMMARY_BYTES_MAX + RECORD_HEADER_BYTES) as u32;
/// Octets that are read at once.
const SLICE_BYTES_MAX: u64 = 1024 * 1024;
/// UIDs that lie between the ends of a block, which bounds how many blocks one can be in that
/// were made in order.
const BLOCK_UIDS_MAX: u32 = 1024;

const _: () = assert!(BLOCK_BYTES <= BLOCK_BYTES_MAX);

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: u32 = 7;

    fn batch(uids: &[u32], bytes: usize) -> Batch {
        let mut batch = Batch::default();
        for uid in uids {
            batch.add(*uid, BodyId(1000 + u64::from(*uid)), &vec![*uid as u8; bytes]);
        }
        batch
    }

    fn sealed(uids: &[u32], bytes: usize) -> (Vec<u8>, Vec<Block>) {
        let mut blocks = Blocks::behind(None, 0);
        let octets = batch(uids, bytes).seal(SEED, &mut blocks);
        (octets, blocks.list)
    }

    fn uids(octets: &[u8]) -> Vec<u32> {
        records(octets, SEED).map(|record| record.uid).collect()
    }

    #[test]
    fn records_come_back_by_uid_and_those_that_are_cut_or_damaged_do_not() {
        let (octets, blocks) = sealed(&[9, 3, 7], 40);
        assert_eq!(uids(&octets), [3, 7, 9]);
        assert_eq!((blocks.len(), blocks[0].count, blocks[0].bytes), (1, 3, 180));
        let all: Vec<Record> = records(&octets, SEED).collect();
        assert_eq!(all[1].body, BodyId(1007));
        assert_eq!(octets[all[1].summary.clone()], [7; 40]);
        assert_eq!(uids(&octets[all[1].whole.clone()]), [7]);
        assert_eq!(records(&octets, SEED + 1).count(), 0, "of another store");
        for cut in 0..octets.len() {
            let whole = cut / (RECORD_HEADER_BYTES + 40);
            assert_eq!(uids(&octets[..cut]), [3, 7, 9][..whole], "cut at {cut}");
        }
        for bit in 0..8 * octets.len() {
            let mut damaged = octets.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let found = uids(&damaged);
            let hit = bit / 8 / (RECORD_HEADER_BYTES + 40);
            let rest: Vec<u32> = (0..3).filter(|at| *at != hit).map(|at| [3, 7, 9][at]).collect();
            let before = &[3, 7, 9][..hit];
            // With the octets of a record it is not known where the next one stands.
            assert!(found == rest || found == before, "bit {bit}: {found:?}");
        }
    }

    #[test]
    fn a_block_ends_where_it_is_full_or_its_uids_do_not_ascend() {
        let many: Vec<u32> = (1..=100).collect();
        let (octets, blocks) = sealed(&many, 1000);
        let counts: Vec<u32> = blocks.iter().map(|block| block.count).collect();
        assert_eq!(counts, [64, 36]);
        let second = &octets[blocks[1].offset as usize..blocks[1].end() as usize];
        assert_eq!(uids(second), many[64..]);
        let (_, far) = sealed(&[1, 1024, 1025], 10);
        assert_eq!((far.len(), far[0].last_uid, far[1].first_uid), (2, 1024, 1025));
        let (_, twice) = sealed(&[5, 5], 10);
        assert_eq!(twice.len(), 2);

        let mut grown = Blocks::behind(Some(far[1]), far[1].end());
        batch(&[1026], 10).seal(SEED, &mut grown);
        let more = Block { last_uid: 1026, count: 2, bytes: 60, ..far[1] };
        assert_eq!(grown.list, [more]);
        let mut apart = Blocks::behind(Some(far[1]), far[1].end() + 1);
        batch(&[1026], 10).seal(SEED, &mut apart);
        assert_eq!((apart.list.len(), apart.list[0].count), (1, 1), "something lies between");
    }

    #[test]
    fn what_is_said_of_a_block_is_believed_only_as_it_was_written() {
        let block = Block { first_uid: 5, last_uid: 9, count: 2, bytes: 100, offset: 1 << 40 };
        let mut out = Vec::new();
        block.write(SEED, &mut out);
        let octets: [u8; BLOCK_ENTRY_BYTES] = out.try_into().expect("its octets");
        assert_eq!(Block::read(&octets, SEED), Some(block));
        assert_eq!(Block::read(&octets, SEED + 1), None);
        for bit in 0..8 * BLOCK_ENTRY_BYTES {
            let mut damaged = octets;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Block::read(&damaged, SEED), None, "bit {bit}");
        }
        for wrong in [
            Block { first_uid: 10, ..block },
            Block { last_uid: 5 + 1024, ..block },
            Block { bytes: u32::MAX, ..block },
            Block { offset: u64::MAX, ..block },
            Block { count: 0, ..block },
        ] {
            let mut out = Vec::new();
            wrong.write(SEED, &mut out);
            assert_eq!(Block::read(&out.try_into().expect("its octets"), SEED), None);
        }
    }

    #[test]
    fn a_message_is_looked_for_in_the_newest_block_that_may_have_it() {
        let block = |first_uid, last_uid, offset| {
            let count = last_uid - first_uid + 1;
            Block { first_uid, last_uid, count, bytes: 100, offset }
        };
        let in_order = [block(1, 50, 0), block(51, 100, 100), block(101, 150, 200)];
        let late = block(40, 60, 300);
        let mut index = Index::new([&in_order[..], &[late]].concat());
        assert_eq!((index.block_count(), index.record_count()), (4, 171));
        let before = |uid, before, ahead| index.slice(uid, before, ahead).to_vec();
        assert_eq!(before(45, u64::MAX, 1000), [late], "nothing stands behind it");
        assert_eq!(before(45, 300, 1), [in_order[0]]);
        assert_eq!(before(45, 0, 1000), []);
        assert_eq!(before(70, u64::MAX, 1000), in_order[1..]);
        assert_eq!((before(151, u64::MAX, 1000), before(0, u64::MAX, 1000)), (vec![], vec![]));
        let large = [0, 1, 2].map(|at| Block {
            bytes: 1 << 19,
            offset: u64::from(at) << 19,
            ..block(at + 1, at + 1, 0)
        });
        assert_eq!(Index::new(large.to_vec()).slice(1, u64::MAX, 9), &large[..2]);

        index.forget(&late);
        assert_eq!(index.slice(45, u64::MAX, 1000), in_order);
        assert_eq!(index.slice(45, u64::MAX, 51), &in_order[..2]);
        assert_eq!(index.slice(45, u64::MAX, 52), in_order);
        let grown = Block { last_uid: 155, count: 55, bytes: 120, ..in_order[2] };
        index.add(grown);
        assert_eq!((index.block_count(), index.slice(155, u64::MAX, 0)), (3, &[grown][..]));
        index.add(block(156, 156, 320));
        assert_eq!(index.slice(120, u64::MAX, 1000).len(), 2);
    }
}
