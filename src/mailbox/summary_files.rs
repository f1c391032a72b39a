//! Summaries on disk: two files for each mailbox, in which what comes later stands behind what came
//! before. All of it blocks; all of it may be deleted or damaged at any time.
//!
//! Records stand in `<mailbox>.records`; `<mailbox>.blocks` says where those of which UIDs are
//! (`summary_blocks`).

use std::collections::{HashSet, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::codec::MailboxId;
use super::summary_blocks::{BLOCK_ENTRY_BYTES, Batch, Block, Blocks, Record, records};
use crate::limits::SUMMARY_BLOCKS_MAX;
use crate::proto::imap::set::NumberSet;

/// The directory of the summaries of a partition.
#[derive(Debug)]
pub struct Files {
    directory: PathBuf,
    /// Mixed into checksums: no summary of another store is taken for one of this.
    seed: u32,
}

impl Files {
    pub fn new(directory: &Path, store_id: &[u8]) -> Self {
        Self { directory: directory.to_owned(), seed: crc32c::crc32c(store_id) }
    }

    fn path(&self, mailbox: MailboxId, ending: &str) -> PathBuf {
        self.directory.join(format!("{:016x}.{ending}", mailbox.0))
    }

    /// The sound records of a block.
    pub fn records<'o>(&self, octets: &'o [u8]) -> impl Iterator<Item = Record> + use<'o> {
        records(octets, self.seed)
    }

    /// What is said of a mailbox: nothing where there is nothing.
    pub fn blocks(&self, mailbox: MailboxId) -> Vec<Block> {
        let octets = read(&self.path(mailbox, BLOCKS), 0, SUMMARY_BLOCKS_MAX * BLOCK_ENTRY_BYTES);
        self.blocks_in(&octets).flatten().collect()
    }

    fn blocks_in(&self, octets: &[u8]) -> impl Iterator<Item = Option<Block>> {
        let entries = octets.as_chunks::<BLOCK_ENTRY_BYTES>().0.iter();
        entries.map(|entry| Block::read(entry, self.seed))
    }

    /// Octets of the records of a mailbox; fewer where there are not so many.
    pub fn read(&self, mailbox: MailboxId, offset: u64, bytes: usize) -> Vec<u8> {
        read(&self.path(mailbox, RECORDS), offset, bytes)
    }

    /// Puts records behind those that are there. Returns the blocks that they made or that have
    /// grown by them.
    pub fn append(&self, mailbox: MailboxId, batch: Batch) -> io::Result<Vec<Block>> {
        fs::create_dir_all(&self.directory)?;
        let of_records = options().open(self.path(mailbox, RECORDS))?;
        let of_blocks = options().open(self.path(mailbox, BLOCKS))?;
        // What a crash has cut off would shift all that follows.
        let known = of_blocks.metadata()?.len() / BLOCK_ENTRY_BYTES as u64;
        if known >= SUMMARY_BLOCKS_MAX as u64 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let mut last = [0; BLOCK_ENTRY_BYTES];
        if known > 0 {
            of_blocks.read_exact_at(&mut last, (known - 1) * BLOCK_ENTRY_BYTES as u64)?;
        }
        let end = of_records.metadata()?.len();
        let mut blocks = Blocks::behind(Block::read(&last, self.seed), end);
        let has_last = !blocks.list().is_empty();
        of_records.write_all_at(&batch.seal(self.seed, &mut blocks), end)?;
        let first = known - u64::from(has_last);
        of_blocks.write_all_at(&self.entries(&blocks), first * BLOCK_ENTRY_BYTES as u64)?;
        Ok(blocks.list().to_vec())
    }

    fn entries(&self, blocks: &Blocks) -> Vec<u8> {
        let mut out = Vec::with_capacity(blocks.list().len() * BLOCK_ENTRY_BYTES);
        blocks.list().iter().for_each(|block| block.write(self.seed, &mut out));
        out
    }

    /// Forgets a mailbox.
    pub fn remove(&self, mailbox: MailboxId) {
        for ending in [BLOCKS, RECORDS, BLOCKS_NEW, RECORDS_NEW] {
            // What is left is swept away at the next start.
            let _ = fs::remove_file(self.path(mailbox, ending));
        }
    }

    /// Removes what is of no mailbox, and what is not as this writes it.
    pub fn sweep(&self, mailboxes: &HashSet<MailboxId>) -> io::Result<()> {
        for entry in fs::read_dir(&self.directory)? {
            let path = entry?.path();
            let number = path.file_stem().and_then(|name| name.to_str());
            let number = number.and_then(|name| u64::from_str_radix(name, 16).ok());
            let is_ours = [BLOCKS, RECORDS].iter().any(|it| path.extension() == Some(it.as_ref()));
            if !is_ours || number.is_none_or(|it| !mailboxes.contains(&MailboxId(it))) {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).mode(0o600);
    options
}

/// As much as can be read.
fn read(path: &Path, offset: u64, bytes_max: usize) -> Vec<u8> {
    let read = || -> io::Result<Vec<u8>> {
        let file = File::open(path)?;
        let bytes = file.metadata()?.len().saturating_sub(offset).min(bytes_max as u64);
        let mut octets = vec![0; bytes as usize];
        file.read_exact_at(&mut octets, offset)?;
        Ok(octets)
    };
    read().unwrap_or_default()
}

/// The summaries of a mailbox on their way into other files, without those that nobody needs.
#[derive(Debug)]
pub struct Rewriting {
    files: Arc<Files>,
    mailbox: MailboxId,
    /// UIDs of which summaries are kept.
    live: NumberSet,
    kept: NumberSet,
    /// Blocks that are still to be looked at; all of the first `known` are, or were, among them.
    left: VecDeque<Block>,
    known: usize,
    old: File,
    new: File,
    blocks: Blocks,
    end: u64,
}

impl Rewriting {
    pub fn begin(files: Arc<Files>, mailbox: MailboxId, live: NumberSet) -> io::Result<Self> {
        let mut blocks = files.all_blocks(mailbox)?;
        // The last one may grow.
        blocks.pop();
        let known = blocks.len();
        let mut left: Vec<Block> = blocks.into_iter().flatten().collect();
        left.sort_by_key(|block| (block.first_uid, block.offset));
        let old = File::open(files.path(mailbox, RECORDS))?;
        let new = options().truncate(true).open(files.path(mailbox, RECORDS_NEW))?;
        let (left, kept) = (left.into(), NumberSet::default());
        let blocks = Blocks::behind(None, 0);
        Ok(Self { files, mailbox, live, kept, left, known, old, new, blocks, end: 0 })
    }

    /// Takes the next blocks, about a MiB; false when there are none.
    pub fn step(&mut self) -> io::Result<bool> {
        let mut out = Vec::new();
        while let Some(block) = self.left.pop_front() {
            let mut octets = vec![0; block.bytes as usize];
            if self.old.read_exact_at(&mut octets, block.offset).is_err() {
                // Cut off.
                continue;
            }
            for record in records(&octets, self.files.seed) {
                if self.live.contains(record.uid) && !self.kept.contains(record.uid) {
                    self.kept.insert(record.uid);
                    self.blocks.add(record.uid, record.whole.len() as u32);
                    out.extend_from_slice(&octets[record.whole]);
                }
            }
            if out.len() >= STEP_BYTES {
                break;
            }
        }
        self.new.write_all_at(&out, self.end)?;
        self.end += out.len() as u64;
        Ok(!self.left.is_empty())
    }

    /// Takes what was appended meanwhile, and puts all of it in the place of what was there.
    pub fn end(mut self) -> io::Result<()> {
        let blocks = self.files.all_blocks(self.mailbox)?;
        self.left = blocks.into_iter().skip(self.known).flatten().collect();
        // Messages may have come that nobody knew of.
        self.live.insert_range(1, u32::MAX);
        while self.step()? {}
        let (files, mailbox) = (&self.files, self.mailbox);
        let new = options().truncate(true).open(files.path(mailbox, BLOCKS_NEW))?;
        new.write_all_at(&files.entries(&self.blocks), 0)?;
        // In between, checksums tell that nothing stands where it is said to.
        fs::rename(files.path(mailbox, RECORDS_NEW), files.path(mailbox, RECORDS))?;
        fs::rename(files.path(mailbox, BLOCKS_NEW), files.path(mailbox, BLOCKS))
    }
}

impl Files {
    /// By their places; `None` for each that is damaged.
    fn all_blocks(&self, mailbox: MailboxId) -> io::Result<Vec<Option<Block>>> {
        let octets = fs::read(self.path(mailbox, BLOCKS))?;
        Ok(self.blocks_in(&octets).collect())
    }
}

const RECORDS: &str = "records";
const BLOCKS: &str = "blocks";
const RECORDS_NEW: &str = "records.new";
const BLOCKS_NEW: &str = "blocks.new";
/// Octets that are written anew before others get their turn.
const STEP_BYTES: usize = 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mailbox::codec::BodyId;

    fn batch(uids: &[u32], bytes: usize) -> Batch {
        let mut batch = Batch::default();
        for uid in uids {
            batch.add(*uid, BodyId(u64::from(*uid) << 32), &vec![*uid as u8; bytes]);
        }
        batch
    }

    fn files(directory: &tempfile::TempDir) -> Arc<Files> {
        Arc::new(Files::new(&directory.path().join("summaries"), b"store"))
    }

    /// UIDs of all that is found, by block.
    fn found(files: &Files, mailbox: MailboxId) -> Vec<Vec<u32>> {
        let blocks = files.blocks(mailbox).into_iter();
        let octets = blocks.map(|it| files.read(mailbox, it.offset, it.bytes as usize));
        octets.map(|it| files.records(&it).map(|record| record.uid).collect()).collect()
    }

    #[test]
    fn what_was_appended_is_found_behind_what_was_there() {
        let directory = tempfile::tempdir().expect("a directory");
        let files = files(&directory);
        let mailbox = MailboxId(7);
        assert!(files.blocks(mailbox).is_empty() && files.read(mailbox, 0, 10).is_empty());
        let made = files.append(mailbox, batch(&[2, 1], 10)).expect("written");
        assert_eq!(files.blocks(mailbox), made);
        // A crash has cut an entry off.
        let entries = files.path(mailbox, BLOCKS);
        let cut = [&fs::read(&entries).expect("there")[..], b"half"].concat();
        fs::write(&entries, cut).expect("cut");
        let grown = files.append(mailbox, batch(&[3], 10)).expect("written");
        assert_eq!((grown.len(), grown[0].offset, grown[0].count), (1, 0, 3));
        assert_eq!(found(&files, mailbox), [[1, 2, 3]]);
        files.append(mailbox, batch(&[2], 10)).expect("written");
        assert_eq!(found(&files, mailbox), [vec![1, 2, 3], vec![2]]);
        // Octets of which nobody was told.
        let records = files.path(mailbox, RECORDS);
        let more = [&fs::read(&records).expect("there")[..], b"half a record"].concat();
        fs::write(&records, more).expect("written");
        files.append(mailbox, batch(&[4], 10)).expect("written");
        assert_eq!(found(&files, mailbox), [vec![1, 2, 3], vec![2], vec![4]]);
        let mut octets = fs::read(&entries).expect("there");
        octets[30] ^= 1;
        fs::write(&entries, octets).expect("damaged");
        assert_eq!(found(&files, mailbox), [vec![1, 2, 3], vec![4]]);
        let other = Files::new(&directory.path().join("summaries"), b"another store");
        assert!(other.blocks(mailbox).is_empty());
    }

    #[test]
    fn what_is_of_no_mailbox_or_of_another_form_is_swept_away() {
        let directory = tempfile::tempdir().expect("a directory");
        let files = files(&directory);
        let names = || {
            let entries = fs::read_dir(directory.path().join("summaries")).expect("there");
            entries.map(|it| it.expect("an entry").file_name()).collect::<HashSet<_>>()
        };
        for mailbox in [7, 8] {
            files.append(MailboxId(mailbox), batch(&[1], 10)).expect("written");
        }
        for ending in ["index", RECORDS_NEW] {
            fs::write(files.path(MailboxId(8), ending), b"").expect("written");
        }
        files.sweep(&[MailboxId(8)].into_iter().collect()).expect("swept");
        let left = ["0000000000000008.records", "0000000000000008.blocks"];
        assert_eq!(names(), left.iter().map(Into::into).collect());
        files.remove(MailboxId(8));
        assert!(names().is_empty());
    }

    #[test]
    fn files_are_written_anew_without_what_is_gone_while_more_comes() {
        let directory = tempfile::tempdir().expect("a directory");
        let (files, mailbox) = (files(&directory), MailboxId(7));
        for uids in [&[10, 11, 12][..], &[5, 6], &[11, 13], &[14]] {
            files.append(mailbox, batch(uids, 30_000)).expect("written");
        }
        let live = [(5, 5), (11, 12)].into_iter().collect();
        let mut rewriting = Rewriting::begin(files.clone(), mailbox, live).expect("begun");
        files.append(mailbox, batch(&[15], 30_000)).expect("written");
        while rewriting.step().expect("written") {}
        files.append(mailbox, batch(&[7], 30_000)).expect("written");
        rewriting.end().expect("written");
        // What may have come while it was under way is kept, whatever was known at its beginning.
        assert_eq!(found(&files, mailbox), [vec![5, 11], vec![12, 14], vec![15], vec![7]]);
        files.append(mailbox, batch(&[16], 30_000)).expect("written");
        assert_eq!(found(&files, mailbox)[3], [7, 16]);

        let rewriting = Rewriting::begin(files.clone(), mailbox, NumberSet::default());
        files.remove(mailbox);
        assert!(rewriting.expect("begun").end().is_err(), "of a mailbox that is gone");
        assert!(Rewriting::begin(files.clone(), mailbox, NumberSet::default()).is_err());
        assert!(files.blocks(mailbox).is_empty());
    }
}
