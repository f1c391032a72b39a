//! Summaries on disk: two files for each mailbox, in which what comes later stands behind what came
//! before. All of it blocks; all of it may be deleted or damaged at any time.
//!
//! The octets of summaries stand in `<mailbox>.data` one behind the other; `<mailbox>.index` says
//! where: for each body number 8, offset 8, octets 4, checksum 4.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::codec::{BodyId, MailboxId};
use crate::limits::SUMMARY_SLOTS_MAX;

/// Where the summary of a body stands in the file of a mailbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    pub body: BodyId,
    pub offset: u64,
    pub bytes: u32,
    /// Of the body's number and the octets.
    pub checksum: u32,
}

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

    pub fn checksum(&self, body: BodyId, octets: &[u8]) -> u32 {
        crc32c::crc32c_append(crc32c::crc32c_append(self.seed, &body.0.to_le_bytes()), octets)
    }

    fn path(&self, mailbox: MailboxId, ending: &str) -> PathBuf {
        self.directory.join(format!("{:016x}.{ending}", mailbox.0))
    }

    /// What is said of a mailbox; nothing where there is nothing, or more than there may be.
    pub fn index(&self, mailbox: MailboxId) -> Vec<Slot> {
        let read = || -> io::Result<Vec<u8>> {
            let mut octets = Vec::new();
            let limit = (SUMMARY_SLOTS_MAX * SLOT_BYTES) as u64;
            File::open(self.path(mailbox, "index"))?.take(limit).read_to_end(&mut octets)?;
            Ok(octets)
        };
        let octets = read().unwrap_or_default();
        octets.as_chunks::<SLOT_BYTES>().0.iter().map(Slot::read).collect()
    }

    /// Octets of the summaries of a mailbox; fewer where there are not so many.
    pub fn read(&self, mailbox: MailboxId, offset: u64, bytes: usize) -> Vec<u8> {
        let read = || -> io::Result<Vec<u8>> {
            let file = File::open(self.path(mailbox, "data"))?;
            let mut octets = vec![0; bytes];
            let mut filled = 0;
            while filled < bytes {
                match file.read_at(&mut octets[filled..], offset + filled as u64)? {
                    0 => break,
                    count => filled += count,
                }
            }
            octets.truncate(filled);
            Ok(octets)
        };
        read().unwrap_or_default()
    }

    /// Puts summaries behind those that are there. `slots` have offsets in `octets`; they are
    /// returned with those in the file.
    pub fn append(
        &self,
        mailbox: MailboxId,
        octets: &[u8],
        mut slots: Vec<Slot>,
    ) -> io::Result<Vec<Slot>> {
        fs::create_dir_all(&self.directory)?;
        let mut options = OpenOptions::new();
        options.write(true).create(true).mode(0o600);
        let mut data = options.open(self.path(mailbox, "data"))?;
        let start = data.seek(SeekFrom::End(0))?;
        data.write_all(octets)?;
        slots.iter_mut().for_each(|slot| slot.offset += start);
        let mut index = options.open(self.path(mailbox, "index"))?;
        // What a crash has cut off would shift all that follows.
        let whole = index.metadata()?.len() / SLOT_BYTES as u64 * SLOT_BYTES as u64;
        index.set_len(whole)?;
        index.seek(SeekFrom::Start(whole))?;
        let mut out = Vec::with_capacity(slots.len() * SLOT_BYTES);
        slots.iter().for_each(|slot| slot.write(&mut out));
        index.write_all(&out)?;
        Ok(slots)
    }

    /// Leaves nothing but `kept`, in this order.
    pub fn rewrite(&self, mailbox: MailboxId, kept: &[Slot]) -> io::Result<()> {
        let old = File::open(self.path(mailbox, "data"))?;
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut data = io::BufWriter::new(options.open(self.path(mailbox, "data.new"))?);
        let mut index = Vec::with_capacity(kept.len() * SLOT_BYTES);
        let (mut octets, mut offset) = (Vec::new(), 0);
        for slot in kept {
            octets.resize(slot.bytes as usize, 0);
            if old.read_exact_at(&mut octets, slot.offset).is_ok() {
                data.write_all(&octets)?;
                Slot { offset, ..*slot }.write(&mut index);
                offset += u64::from(slot.bytes);
            }
        }
        data.flush()?;
        options.open(self.path(mailbox, "index.new"))?.write_all(&index)?;
        // In between, checksums tell that nothing stands where it is said to.
        fs::rename(self.path(mailbox, "data.new"), self.path(mailbox, "data"))?;
        fs::rename(self.path(mailbox, "index.new"), self.path(mailbox, "index"))
    }

    /// Forgets a mailbox.
    pub fn remove(&self, mailbox: MailboxId) {
        for ending in ["index", "data", "index.new", "data.new"] {
            // What is left is swept away at the next start.
            let _ = fs::remove_file(self.path(mailbox, ending));
        }
    }

    /// Removes what is of no mailbox.
    pub fn sweep(&self, mailboxes: &HashSet<MailboxId>) -> io::Result<()> {
        for entry in fs::read_dir(&self.directory)? {
            let path = entry?.path();
            let number = path.file_stem().and_then(|name| name.to_str());
            let number = number.and_then(|name| u64::from_str_radix(name.get(..16)?, 16).ok());
            if number.is_some_and(|number| !mailboxes.contains(&MailboxId(number))) {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }
}

impl Slot {
    fn read(octets: &[u8; SLOT_BYTES]) -> Self {
        let eight = |at: usize| u64::from_le_bytes(std::array::from_fn(|it| octets[at + it]));
        let four = |at: usize| u32::from_le_bytes(std::array::from_fn(|it| octets[at + it]));
        Self { body: BodyId(eight(0)), offset: eight(8), bytes: four(16), checksum: four(20) }
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.body.0.to_le_bytes());
        out.extend_from_slice(&self.offset.to_le_bytes());
        out.extend_from_slice(&self.bytes.to_le_bytes());
        out.extend_from_slice(&self.checksum.to_le_bytes());
    }
}

const SLOT_BYTES: usize = 24;

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(files: &Files, body: u64, offset: u64, octets: &[u8]) -> Slot {
        let body = BodyId(body);
        let checksum = files.checksum(body, octets);
        Slot { body, offset, bytes: octets.len() as u32, checksum }
    }

    #[test]
    fn what_was_appended_is_found_behind_what_was_there() {
        let directory = tempfile::tempdir().expect("a directory");
        let files = Files::new(&directory.path().join("summaries"), b"store");
        let mailbox = MailboxId(7);
        assert!(files.index(mailbox).is_empty() && files.read(mailbox, 0, 10).is_empty());
        let first = [slot(&files, 1, 0, b"one"), slot(&files, 2, 3, b"two")];
        files.append(mailbox, b"onetwo", first.to_vec()).expect("written");
        // A crash has cut an entry off.
        let index = files.path(mailbox, "index");
        fs::write(&index, [&fs::read(&index).expect("there")[..], b"half"].concat()).expect("cut");
        let third = files.append(mailbox, b"three", vec![slot(&files, 3, 0, b"three")]);
        let third = third.expect("written");
        assert_eq!(third[0].offset, 6);
        assert_eq!(files.index(mailbox), [&first[..], &third].concat());
        assert_eq!(files.read(mailbox, 3, 100), b"twothree");
        assert_ne!(files.checksum(BodyId(1), b"one"), files.checksum(BodyId(2), b"one"));

        let kept = [third[0], first[0]];
        files.rewrite(mailbox, &kept).expect("written");
        assert_eq!(files.read(mailbox, 0, 100), b"threeone");
        assert_eq!(files.index(mailbox)[1], Slot { offset: 5, ..first[0] });

        files.append(MailboxId(8), b"", Vec::new()).expect("written");
        files.sweep(&[MailboxId(8)].into_iter().collect()).expect("swept");
        assert!(files.index(mailbox).is_empty() && !index.exists());
        assert!(files.path(MailboxId(8), "data").exists());
        files.remove(MailboxId(8));
        assert_eq!(fs::read_dir(directory.path().join("summaries")).expect("there").count(), 0);
    }
}
