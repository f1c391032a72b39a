//! What kind of disk a directory is on, and what a durable write costs there.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use super::aligned::{AlignedBuffer, BLOCK_BYTES};
use super::segment_file::{self, Access};

/// What a file system does with a written block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overwrites {
    /// Overwriting stays in place: a write into a pre-written segment never allocates.
    InPlace,
    /// Overwriting allocates anew: it is slower, and can meet a full disk.
    CopyOnWrite,
    /// Nothing survives a restart of the machine.
    Volatile,
    /// Not known here.
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSystem {
    pub name: String,
    pub overwrites: Overwrites,
    /// What this process may still take.
    pub free_bytes: u64,
}

/// The file system that `directory` is on.
pub fn file_system(directory: &Path) -> io::Result<FileSystem> {
    let path = std::ffi::CString::new(directory.as_os_str().as_bytes())?;
    // SAFETY: `path` is a C string and `stat` ours to fill.
    let magic = unsafe {
        let mut stat: libc::statfs = std::mem::zeroed();
        if libc::statfs(path.as_ptr(), &mut stat) != 0 {
            return Err(io::Error::last_os_error());
        }
        stat.f_type as u64 & 0xffff_ffff
    };
    let known = KNOWN.iter().find(|(number, ..)| *number == magic);
    let (name, overwrites) = match known {
        Some((_, name, overwrites)) => ((*name).to_owned(), *overwrites),
        None => (format!("type {magic:#x}"), Overwrites::Unknown),
    };
    Ok(FileSystem { name, overwrites, free_bytes: segment_file::available_bytes(directory)? })
}

/// Times of durable writes of one block into a pre-written file, each list sorted.
#[derive(Clone, Debug)]
pub struct FlushCost {
    /// Whether the writes passed the page cache by, as the journal's do.
    pub access: Access,
    /// A write, then a data sync.
    pub fdatasync: Vec<Duration>,
    /// A write through to the medium.
    pub dsync: Vec<Duration>,
}

/// Measures at most `count` durable writes of each kind, by turns, for at most `time_max` in all.
///
/// The file is made in `directory` and removed again.
pub fn measure_flush(directory: &Path, count: usize, time_max: Duration) -> io::Result<FlushCost> {
    let name = format!("flush-cost.{}", std::process::id());
    let path = directory.join(&name);
    segment_file::create_zeroed(directory, &name, FILE_BYTES)?;
    let measured = measure_in(&path, count, time_max);
    // The measurement stands whether or not the file could be removed.
    let _ = std::fs::remove_file(&path);
    measured
}

fn measure_in(path: &Path, count: usize, time_max: Duration) -> io::Result<FlushCost> {
    let (synced, access) = segment_file::open(path)?;
    let direct = if access == Access::Direct { libc::O_DIRECT } else { 0 };
    let through = OpenOptions::new().write(true).custom_flags(libc::O_DSYNC | direct).open(path)?;
    let mut buffer = AlignedBuffer::new(BLOCK_BYTES);
    let mut cost = FlushCost { access, fdatasync: Vec::new(), dsync: Vec::new() };
    let start = Instant::now();
    for turn in 0..count as u64 {
        if start.elapsed() > time_max {
            break;
        }
        let offset = turn * BLOCK_BYTES as u64 % FILE_BYTES;
        buffer.fill(turn as u8 | 1);
        cost.fdatasync.push(timed(|| {
            write_block(&synced, &buffer, offset)?;
            synced.sync_data()
        })?);
        cost.dsync.push(timed(|| write_block(&through, &buffer, offset))?);
    }
    cost.fdatasync.sort_unstable();
    cost.dsync.sort_unstable();
    Ok(cost)
}

fn write_block(file: &File, block: &[u8], offset: u64) -> io::Result<()> {
    file.write_all_at(block, offset)
}

fn timed(work: impl FnOnce() -> io::Result<()>) -> io::Result<Duration> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed())
}

/// Numbers of `statfs(2)`.
const KNOWN: &[(u64, &str, Overwrites)] = &[
    (0xef53, "ext4", Overwrites::InPlace),
    (0x5846_5342, "xfs", Overwrites::InPlace),
    (0xf2f5_2010, "f2fs", Overwrites::CopyOnWrite),
    (0x9123_683e, "btrfs", Overwrites::CopyOnWrite),
    (0x2fc1_2fc1, "zfs", Overwrites::CopyOnWrite),
    (0xca45_1a4e, "bcachefs", Overwrites::CopyOnWrite),
    (0x794c_7630, "overlayfs", Overwrites::CopyOnWrite),
    (0x0102_1994, "tmpfs", Overwrites::Volatile),
    (0x8584_58f6, "ramfs", Overwrites::Volatile),
    (0x6969, "nfs", Overwrites::Unknown),
    (0x6573_5546, "fuse", Overwrites::Unknown),
];
/// Large enough that one block is not written over and over.
const FILE_BYTES: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_measurement_leaves_nothing_behind() {
        let directory = tempfile::tempdir().expect("a directory");
        let cost = measure_flush(directory.path(), 3, Duration::MAX).expect("measured");
        assert_eq!((cost.fdatasync.len(), cost.dsync.len()), (3, 3));
        assert!(cost.fdatasync.is_sorted());
        assert_eq!(std::fs::read_dir(directory.path()).expect("readable").count(), 0);
        let found = file_system(directory.path()).expect("a file system");
        assert!(!found.name.is_empty());
    }
}
