//! Files of the journal: made in advance, written past the page cache, locked; read past it or by
//! way of it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use super::aligned::AlignedBuffer;

/// Whether octets pass the page cache by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Direct,
    /// Of writes, where the file system refuses direct access.
    Buffered,
}

/// A segment as the log thread has it.
pub struct SegmentFile {
    pub file: File,
    /// The same for reads by way of the page cache; `None` where nobody reads so.
    pub cached: Option<Arc<File>>,
}

/// Opens a segment once more, to be read by way of the page cache.
///
/// The kernel reads nothing ahead: what is behind the octets that are asked for may not have been
/// written yet, and pages in the way of a direct write make it slower.
pub fn open_cached(path: &Path) -> io::Result<Arc<File>> {
    let file = File::open(path)?;
    // SAFETY: the descriptor is open; no memory is passed.
    let error = unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_RANDOM) };
    if error == 0 { Ok(Arc::new(file)) } else { Err(io::Error::from_raw_os_error(error)) }
}

/// Reads octets that are all in the page cache; false, whatever is in `buffer` then, where some are
/// not. Never waits for the disk.
pub fn read_from_cache(cached: &File, offset: u64, buffer: &mut [u8]) -> bool {
    let part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let (fd, offset) = (cached.as_raw_fd(), offset as libc::off_t);
    // SAFETY: one part, `buffer`, which is borrowed exclusively.
    let count = unsafe { libc::preadv2(fd, &raw const part, 1, offset, libc::RWF_NOWAIT) };
    count == buffer.len() as isize
}

/// Opens a segment for reading and writing, directly where the file system can.
pub fn open(path: &Path) -> io::Result<(File, Access)> {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    match options.clone().custom_flags(libc::O_DIRECT).open(path) {
        Ok(file) => Ok((file, Access::Direct)),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            Ok((options.open(path)?, Access::Buffered))
        }
        Err(error) => Err(error),
    }
}

/// Makes a file of `bytes` written zeros under its final name, durably: a write into it never
/// allocates. A crash midway leaves only the temporary name behind.
pub fn create_zeroed(directory: &Path, name: &str, bytes: u64) -> io::Result<()> {
    let temporary = directory.join(format!("{name}.new"));
    drop(OpenOptions::new().create(true).write(true).truncate(true).open(&temporary)?);
    let (file, _) = open(&temporary)?;
    // SAFETY: the descriptor is open; no memory is passed.
    if unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, bytes as libc::off_t) } != 0 {
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EOPNOTSUPP) {
            // What could not be allocated is not left lying about.
            let _ = std::fs::remove_file(&temporary);
            return Err(error);
        }
    }
    let zeros = AlignedBuffer::new(ZERO_BYTES);
    let mut offset = 0;
    while offset < bytes {
        let count = (bytes - offset).min(zeros.len() as u64) as usize;
        file.write_all_at(&zeros[..count], offset)?;
        offset += count as u64;
    }
    file.sync_all()?;
    std::fs::rename(&temporary, directory.join(name))?;
    sync_directory(directory)
}

/// Makes names in a directory durable.
pub fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Takes the lock of an open file; `WouldBlock` when another process has it.
pub fn lock(file: &File) -> io::Result<()> {
    // SAFETY: the descriptor is open; no memory is passed.
    if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Bytes of the file system that this process may still take.
pub fn available_bytes(directory: &Path) -> io::Result<u64> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(directory.as_os_str().as_bytes())?;
    // SAFETY: `path` is a C string and `stat` ours to fill.
    unsafe {
        let mut stat: libc::statvfs = std::mem::zeroed();
        if libc::statvfs(path.as_ptr(), &mut stat) != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(stat.f_bavail * stat.f_frsize)
    }
}

/// Written at once. Segments are made while mail flows: what this takes is not the mail's.
const ZERO_BYTES: usize = 256 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_from_the_cache_is_whole_and_follows_direct_writes() {
        let directory = tempfile::tempdir().expect("a directory");
        create_zeroed(directory.path(), "seg", 4 * ZERO_BYTES as u64).expect("made");
        let path = directory.path().join("seg");
        let (file, _) = open(&path).expect("opened");
        let cached = open_cached(&path).expect("opened");
        let mut octets = AlignedBuffer::new(ZERO_BYTES);
        for value in 1..=20 {
            octets.fill(value);
            file.write_all_at(&octets, 0).expect("written");
            let mut read = vec![0; 5000];
            // Through the cache, so that it has them unless the system is short of memory.
            cached.read_exact_at(&mut read, 100).expect("read");
            assert_eq!(read, vec![value; 5000]);
            read.fill(0);
            if read_from_cache(&cached, 100, &mut read) {
                assert_eq!(read, vec![value; 5000]);
            }
        }
        // Neither what is not there nor half of it.
        let end = 4 * ZERO_BYTES as u64;
        assert!(!read_from_cache(&cached, end - 100, &mut [0; 200]));
    }
}
